"""Reads and writes result.json, and one row of JSON for each finished run.

`glide evaluate` writes its own result.json. That of a training run is made here, by
TRAINING_RULE. A row adds which run of which sweep it is, and
holds no path of the machine that it was made on.
"""

from __future__ import annotations

import json
import math
import pathlib
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from glide_jax.errors import UserError
from glide_jax.runtime import files, json_fields, metric_writers
from glide_jax.sweep import run_list
from glide_jax.sweep.state import RunRecord

SCHEMA = 1
REMEDY = "remove it, and the same sweep makes it anew"
_RESULT_KINDS = {"metrics": (dict,), "machine": (dict,)}
# Not in older rows, nor in those of training.
_OPTIONAL_KINDS = {"settings": (dict,), "warnings": (list,)}
_ROW_KINDS = _RESULT_KINDS | {
    "sweep": (str,),
    "id": (str,),
    "label": (str,),
    "overrides": (dict,),
    "command": (str,),
    "seconds": (int, float),
    "attempts": (int,),
}
# The metrics of a training run that a report shows.
AVERAGED_METRICS = ("loss", "mse", "vb")
NEWEST_METRICS = ("skipped_updates",)
TRAINING_GROUPS = ("validation/",)
LAST_FRAC = 0.1
TRAINING_RULE = (
    "The loss, mse and vb are means over the last tenth of the steps. Validation"
    " metrics are the newest ones."
)
# An absolute path inside a text, up to what ends it in a flag, a tuple or a label; no
# part of a relative one, of gs://bucket or of a fraction.
_ABSOLUTE = re.compile(
    r"""(?:(?<![\w./~*?}\])-])|(?<=://))/(?![/\s])[^'",:;+()\[\]]+"""
)


def of_training(workdir: pathlib.Path, words: Sequence[str]) -> dict[str, Any]:
    """The result of a finished training run that `glide WORDS` has started."""
    from glide_jax.bench import machine  # imports JAX, which nothing else here needs

    return {
        "schema": SCHEMA,
        "verb": "train",
        "settings": json.loads((workdir / "config.json").read_text()),
        "metrics": _training_metrics(
            metric_writers.read_metrics(workdir / "metrics.jsonl")
        ),
        "machine": machine.describe(),
        "command": shlex.join(["glide", *words]),
    }


def _training_metrics(rows: Sequence[Mapping[str, float | int]]) -> dict[str, float]:
    """The metrics of TRAINING_RULE."""
    newest: dict[str, float | int] = {}
    for row in rows:
        newest |= row
    # 1e-6 of a step: 0.9 * 150 is not exact.
    start = (1 - LAST_FRAC) * newest.get("step", 0) + 1e-6
    kept = {}
    for name, value in newest.items():
        if name in AVERAGED_METRICS:
            last = [r[name] for r in rows if name in r and r["step"] > start]
            kept[name] = statistics.fmean(last) if last else value
        elif name in NEWEST_METRICS or name.startswith(TRAINING_GROUPS):
            kept[name] = value
    return kept


def write(path: pathlib.Path, result: dict[str, Any]) -> None:
    """Writes a result.json; see `files.write_json`."""
    files.write_json(path, _without_nan(result))


def read(path: pathlib.Path) -> dict[str, Any]:
    """A result.json.

    Raises:
      UserError: it is none, or of another schema.
    """
    return _parsed(path.read_bytes(), str(path), _RESULT_KINDS)


def make_row(
    plan: run_list.Plan, run: run_list.SweepRun, entry: RunRecord
) -> dict[str, Any]:
    """The row of a finished run.

    Of an evaluation it holds the settings too, which name weights and reference by
    their digests, and what is to be read with care.
    """
    result = read(entry.result)
    words = ["glide", *run_list.arguments(plan, run, None)]
    row = {
        "schema": SCHEMA,
        "sweep": plan.name,
        "id": run.id,
        "label": without_machine(run.label),
        "overrides": without_machine(run.overrides),
        "command": shlex.join(without_machine(words)),
        "metrics": result["metrics"],
        "seconds": round(entry.seconds(), 1),
        "attempts": len(entry.attempts()),
        "machine": result["machine"],
    }
    if plan.verb != "train":  # whose command names all settings
        row["settings"] = without_machine(result.get("settings", {}))
        row["warnings"] = without_machine(result.get("warnings", []))
    return row


def warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What rows say is to be read with care, each line once; older rows say nothing."""
    return list(dict.fromkeys(line for row in rows for line in row.get("warnings", [])))


def make_rows(plan: run_list.Plan, root: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of the finished runs, in the plan's order."""
    entries = [(run, RunRecord(root, run.id)) for run in plan.runs]
    return [make_row(plan, run, entry) for run, entry in entries if entry.is_finished]


def write_rows(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """One row a line; what the file held before is replaced.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(_without_nan(row)) + "\n" for row in rows)
        files.write_text(path, "".join(lines))
    except OSError as error:
        raise UserError(
            f"--rows={path} cannot be written ({error.strerror}); name a file such as "
            "experiments/results/sweeps/lr_batch.jsonl"
        ) from error


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows that `write_rows` wrote.

    Raises:
      UserError: a line that is no row, or one of another schema.
    """
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; write it by glide sweep --root=DIR --report "
            f"--rows={path}"
        )
    lines = path.read_bytes().splitlines()
    return [
        _parsed(line, f"{path}, line {i}", _ROW_KINDS)
        for i, line in enumerate(lines, 1)
    ]


def _parsed(
    text: bytes, where: str, kinds: Mapping[str, tuple[type, ...]]
) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:  # UnicodeDecodeError is one too
        raise UserError(f"{where} is not JSON ({error}); {REMEDY}") from error
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if schema != SCHEMA:
        raise UserError(
            f"{where} is a result of schema {schema}, and this reads {SCHEMA}; {REMEDY}"
        )
    try:
        optional = {n: kind for n, kind in _OPTIONAL_KINDS.items() if n in fields}
        json_fields.check(fields, {**kinds, **optional})
        number = (int, float, type(None))
        json_fields.check(fields["metrics"], dict.fromkeys(fields["metrics"], number))
    except TypeError as error:
        raise UserError(f"{where} is no result: {error}; {REMEDY}") from error
    return fields


def _without_nan(value: Any) -> Any:
    """NaN and infinities, which JSON has not, as null."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def without_machine(value: Any) -> Any:
    """Texts in JSON values, their absolute paths cut to what lies below here or a name.

    --features=clip:/home/me/runs/clip becomes --features=clip:clip.
    """
    if isinstance(value, dict):
        return {name: without_machine(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_machine(item) for item in value]
    return _ABSOLUTE.sub(_cut, value) if isinstance(value, str) else value


def _cut(found: re.Match) -> str:
    path, here = pathlib.Path(found[0]), pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path.name)
