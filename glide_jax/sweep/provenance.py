"""Checks that a finished run is still what its command would produce.

A command names models and settings by their paths, whose contents may have changed. The
settings in result.json identify what was used: in an evaluation by the digests of its
bundles and its reference, in a training run by its whole configuration.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from glide_jax.config import defaults, resolve
from glide_jax.errors import UserError
from glide_jax.eval import npz_files
from glide_jax.sample import restore
from glide_jax.sweep import result
from glide_jax.sweep.state import RunRecord

REMEDY = "name another --root to run everything again"


def check_bundles(record: RunRecord, named: Mapping[str, str | None]) -> None:
    """Raises UserError if a finished evaluation used another bundle.

    Args:
      record: The run.
      named: Folders by their names in its settings: base, upsampler, clip of the
        models that draw, features, judge. Absent ones are skipped, since they may have
        been removed after the run.
    """
    used = _digests(result.read(record.result).get("settings", {}))
    for name in used.keys() & named.keys():
        folder = pathlib.Path(named[name] or "")
        if not named[name] or not (folder / "bundle.json").is_file():
            continue
        now = restore.bundle_digest(folder)
        if not now.startswith(used[name]):
            raise UserError(
                f"it is finished, with another {name} in {folder} (bundle {used[name]} "
                f"then, {now[: len(used[name])]} now); {REMEDY}"
            )


def check_reference(record: RunRecord, path: str | None) -> None:
    """Raises UserError if a finished evaluation used another reference."""
    reference = result.read(record.result).get("settings", {}).get("reference")
    used = reference.get("file_digest") if isinstance(reference, dict) else None
    if not used or not path or not pathlib.Path(path).is_file():
        return
    now = npz_files.digest(path)
    if now != used:
        raise UserError(
            f"it is finished, with another reference in {path} (contents {used} then, "
            f"{now} now); {REMEDY}"
        )


def check_config(record: RunRecord, config: defaults.Config) -> None:
    """Raises UserError if a finished training run had other settings."""
    settings = result.read(record.result).get("settings")
    if not settings:
        return
    changes = resolve.differences(resolve.from_json(json.dumps(settings)), config)
    if changes:
        raise UserError(
            f"it is finished, and its configuration has changed ({changes[0]}); "
            f"{REMEDY}"
        )


def _digests(settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns the first digits of the bundles' digests in an evaluation's settings."""
    pictures = settings.get("pictures", {})
    found = dict(pictures.get("bundles", {}))
    for name in ("features", "judge"):
        kind, _, digest = (settings.get(name) or "").partition(" ")
        if kind == "noised_clip" and digest:
            found[name] = digest
    if bundle := settings.get("losses", {}).get("bundle"):
        found["base"] = bundle
    return found
