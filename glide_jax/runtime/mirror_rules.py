"""Which files of a mirror are uploaded, in which order, and which are fetched late."""

from __future__ import annotations

import re
from collections.abc import Iterable

from glide_jax.runtime import locks, store_lock

# Uploaded last in their folder: see `checkpoint.manifest` and `checkpoint.bundle`.
MARKS = ("manifest.json", "bundle.json")
# Never uploaded: scratch files, folders that are being written or deleted, local locks.
HIDDEN = re.compile(
    rf"(^|/)(\.[^/]*\.tmp|[^/]*\.(unfinished|deleted)|{locks.LOCK}|{locks.RECORD}"
    rf"[^/]*|\.writable|\.[^/]*\.mirror\.(json|lock)|\{store_lock.FOLDER})(/|$)"
)
# Fetched when they are read: all files of a checkpoint except its manifest.
STEP = re.compile(r"(.*/)?checkpoints/\d+/")
LAZY = re.compile(rf"{STEP.pattern}(?!manifest\.json$)")


def is_mark(name: str) -> bool:
    """Whether a file is the manifest of its folder."""
    return name.rpartition("/")[2] in MARKS


def any_below(mark: str, names: Iterable[str]) -> bool:
    """Whether a name is in the folder of a manifest, or below it."""
    folder = mark.rpartition("/")[0]
    return any(not folder or name.startswith(f"{folder}/") for name in names)
