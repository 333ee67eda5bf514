"""The manifest of a folder, written last: without it the folder is unfinished.

manifest.json lists every file of its folder with size and SHA-256, and every array
with shape, dtype and digest (parallel/digests.py). It contains the SHA-256 of its own
content and has a canonical form, so that a changed bit in it is detected as well.

Its "format" is the version of the whole checkpoint. Format 2 differs from format 1 only
in the metadata of a run, which is complete; see `train.run_folder.convert_meta`.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from glide_jax.errors import UserError
from glide_jax.runtime import files

FORMAT = 2
NAME = "manifest.json"
# Suffix of a file that is listed under its name without the suffix and must still be
# renamed to it.
DRAFT = ".tmp"
# Hashing releases the GIL, so threads use several cores.
_THREADS = min(8, os.cpu_count() or 1)


class DamagedError(Exception):
    """Files differ from the manifest: one reason per file.

    Internal: callers try an older step, or raise an error for the user.
    """

    def __init__(self, damages: Iterable[str]) -> None:
        self.damages = tuple(damages)
        super().__init__("; ".join(self.damages))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Attributes:
      step: step of a checkpoint; 0 for other folders.
      created: UTC, ISO 8601.
      files: path relative to the folder -> {"bytes": size, "sha256": digest}.
      leaves: "item/path" -> {"shape": [...], "dtype": name, "digest": 16 digits}.
      metrics: metrics for the retention policy.
      format: version of the checkpoint format, from 1.
    """

    step: int
    created: str
    files: Mapping[str, Mapping[str, Any]]
    leaves: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, float]
    format: int = FORMAT

    @property
    def created_at(self) -> datetime.datetime:
        """`created` as a time with its zone."""
        return datetime.datetime.fromisoformat(self.created)


def now() -> str:
    """The current time in the manifest's format."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def to_bytes(manifest: Manifest) -> bytes:
    """The canonical serialization."""
    content = dataclasses.asdict(manifest)
    digest = hashlib.sha256(_canonical(content)).hexdigest()
    return _canonical({**content, "sha256": digest})


def _canonical(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def write(folder: pathlib.Path, manifest: Manifest) -> None:
    """Writes the manifest atomically and flushes it to disk."""
    files.write_bytes(folder / NAME, to_bytes(manifest))
    files.sync(folder)


def read(folder: pathlib.Path) -> Manifest:
    """Reads the manifest of a folder and checks its own digest.

    Raises:
      DamagedError: it is missing, truncated or changed.
      UserError: a newer version of the package wrote it.
    """
    try:
        found = (folder / NAME).read_bytes()
    except FileNotFoundError:
        raise DamagedError([f"{NAME} is missing"]) from None
    except OSError as error:
        raise DamagedError([f"{NAME} cannot be read ({error.strerror})"]) from error
    try:
        return _parse(found, folder)
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise DamagedError([f"{NAME} is damaged"]) from None


def _parse(found: bytes, folder: pathlib.Path) -> Manifest:
    """Parses a manifest.

    Raises:
      UserError: a newer version of the package wrote it.
      ValueError, LookupError, TypeError, AttributeError, RecursionError: no manifest.
    """
    content = json.loads(found)
    digest = content.pop("sha256")
    if digest != hashlib.sha256(_canonical(content)).hexdigest():
        raise ValueError("another digest")
    if content["format"] > FORMAT:
        raise UserError(
            f"{folder} has checkpoint format {content['format']}, and this version of "
            f"glide_jax reads formats 1 to {FORMAT}; install a newer version"
        )
    manifest = Manifest(**content)
    if to_bytes(manifest) != found:
        raise ValueError("not in canonical form")
    return manifest


def list_files(folder: pathlib.Path) -> list[str]:
    """Relative paths of a folder's files, except the manifest."""
    own = {folder / NAME, files.scratch_path(folder / NAME)}
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() and path not in own
    )


def hash_files(
    folder: pathlib.Path, names: Iterable[str]
) -> dict[str, dict[str, int | str]]:
    """Flushes files to disk; returns size and SHA-256 as a manifest lists them."""
    names = list(names)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        facts = threads.map(lambda name: _synced_facts(folder / name), names)
        return dict(zip(names, facts, strict=True))


def _synced_facts(path: pathlib.Path) -> dict[str, int | str]:
    files.sync(path)
    return _facts(path)


def _facts(path: pathlib.Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": digest}


def find_damages(
    folder: pathlib.Path, listed: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """The reason for each damaged file; {} if all are unchanged."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(
            lambda item: (item[0], _damage(folder / item[0], item[1])), listed.items()
        )
        return {name: reason for name, reason in found if reason}


def _damage(path: pathlib.Path, wanted: Mapping[str, Any]) -> str:
    try:
        size = path.stat().st_size
        # A bundle lists no sizes.
        if size != wanted.get("bytes", size):
            return f"has {size} bytes, not {wanted['bytes']}"
        if _facts(path)["sha256"] != wanted["sha256"]:
            return "has another SHA-256"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""
