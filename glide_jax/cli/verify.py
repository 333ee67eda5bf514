"""Check every file of a workdir, one checkpoint or a bundle by its SHA-256.

    glide verify runs/base
    glide verify runs/base/checkpoints/1000
    glide verify runs/base runs/base/bundle --json

No device is needed. The exit code is 0 without damage, 2 for a workdir without a
checkpoint, and 3 if anything is damaged; each damaged file is printed on a line,
followed by the valid checkpoints.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import define
from glide_jax.errors import UserError
from glide_jax.runtime import lifecycle, paths

if TYPE_CHECKING:
    from glide_jax.checkpoint import verify


def define_flags(values: flags.FlagValues) -> None:
    """--json."""
    define.Define(values).switch("json", "print one JSON object for each folder", False)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Checks the given folders in order."""
    from glide_jax.checkpoint import verify

    if not arguments:
        raise UserError("no folder is given; give workdirs or bundles, e.g. runs/base")
    is_damaged = False
    for argument in arguments:
        report = verify.check(paths.local_path(argument, "folder"))
        print(_as_json(report) if values.json else "\n".join(_lines(report)))
        is_damaged |= bool(report.damaged)
    return lifecycle.ExitCode.NO_CHECKPOINT if is_damaged else lifecycle.ExitCode.OK


def _as_json(report: verify.Report) -> str:
    return json.dumps(
        {**dataclasses.asdict(report), "folder": str(report.folder)}, sort_keys=True
    )


def _lines(report: verify.Report) -> list[str]:
    lines = [f"{report.folder / name}: {why}" for name, why in report.damaged.items()]
    lines += [f"{report.folder / name}: surplus, not used" for name in report.surplus]
    found = f"{len(report.damaged)} damaged" if report.damaged else "no damage"
    if report.kind == "workdir":
        good, bad = (
            ", ".join(map(str, steps)) or "none"
            for steps in (report.good_steps, report.bad_steps)
        )
        found += f"; valid checkpoints: {good}"
        found += f"; damaged ones: {bad}" if report.bad_steps else ""
    size = report.hashed_bytes / 2**20
    return [*lines, f"{report.folder}: {report.kind}, {size:.1f} MiB read, {found}"]
