"""Is a finished run still what its command would make now?

A command names models and settings by their paths, and what lies there may be another
by now. What was there is told by the settings in result.json: of an evaluation by the
digests of its bundles and its reference, of a training run by its whole configuration.
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

REMEDY = "name another --root, which runs all anew"


def check_bundles(entry: RunRecord, named: Mapping[str, str | None]) -> None:
    """Raises UserError where a finished evaluation saw another bundle.

    `named` are the folders by the words of its settings: base, upsampler, clip of what
    it drew with, features, judge. One that is not there is passed over: it may have
    been removed when all was done.
    """
    seen = _digests(result.read(entry.result).get("settings", {}))
    for name in seen.keys() & named.keys():
        folder = pathlib.Path(named[name] or "")
        if not named[name] or not (folder / "bundle.json").is_file():
            continue
        now = restore.bundle_digest(folder)
        if not now.startswith(seen[name]):
            raise UserError(
                f"it is finished, with another {name} in {folder} (bundle {seen[name]} "
                f"then, {now[: len(seen[name])]} now); {REMEDY}"
            )


def check_reference(entry: RunRecord, path: str | None) -> None:
    """Raises UserError where a finished evaluation was compared with another file."""
    record = result.read(entry.result).get("settings", {}).get("reference")
    # Not in older results.
    seen = record.get("file_digest") if isinstance(record, dict) else None
    if not seen or not path or not pathlib.Path(path).is_file():
        return
    now = npz_files.digest(path)
    if now != seen:
        raise UserError(
            f"it is finished, with another reference in {path} (contents {seen} then, "
            f"{now} now); {REMEDY}"
        )


def check_config(entry: RunRecord, config: defaults.Config) -> None:
    """Raises UserError where a finished training run had other settings."""
    settings = result.read(entry.result).get("settings")
    if not settings:
        return
    changes = resolve.differences(resolve.from_json(json.dumps(settings)), config)
    if changes:
        raise UserError(
            f"it is finished, and its configuration has changed ({changes[0]}); "
            f"{REMEDY}"
        )


def _digests(settings: Mapping[str, Any]) -> dict[str, str]:
    """First digits of the bundles' digests, as `glide evaluate` writes them down."""
    pictures = settings.get("pictures", {})
    found = dict(pictures.get("bundles", {}))
    for name in ("features", "judge"):
        kind, _, digest = (settings.get(name) or "").partition(" ")
        if kind == "noised_clip" and digest:
            found[name] = digest
    if bundle := settings.get("losses", {}).get("bundle"):
        found["base"] = bundle
    return found
