"""Atomic writes: a file or folder appears under its name when it is complete.

All content goes to a scratch file `.NAME.tmp` in the same folder, is flushed to the
disk, and is renamed. A process that is killed, or a machine that loses power, leaves
the old content or the new one, and at most a scratch file, which the next write
replaces. No other module renames files, except `locks` and `scratch_dirs`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

from glide_jax.errors import UserError


def scratch_path(path: pathlib.Path) -> pathlib.Path:
    """The scratch file of `path`."""
    return path.with_name(f".{path.name}.tmp")


@contextlib.contextmanager
def scratch(
    path: pathlib.Path, *, is_shared: bool = False, is_durable: bool = True
) -> Iterator[pathlib.Path]:
    """A scratch file to write to, which becomes `path` at the end of the block.

    The file has the permissions of a new file, whatever the writer sets (safetensors
    creates files that only their owner may read). If the block raises, the scratch file
    is removed and `path` is unchanged.

    Args:
      path: the final name, in an existing folder.
      is_shared: whether several processes or threads may write `path` at the same time.
        Each then has a scratch file of its own; the last rename wins. A process that
        is killed leaves its file, which no later write replaces.
      is_durable: whether the content is flushed to the disk first. Otherwise a machine
        that loses power may leave the name with incomplete content.

    Raises:
      OSError: the file cannot be written.
    """
    draft = scratch_path(path)
    if is_shared:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with draft.open("wb") as file:
            mode = os.fstat(file.fileno()).st_mode
        yield draft
        # Some mounts of buckets refuse chmod.
        if draft.stat().st_mode != mode:
            draft.chmod(mode)
        if is_durable:
            sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(
    path: pathlib.Path,
    content: bytes,
    *,
    is_shared: bool = False,
    is_durable: bool = True,
) -> None:
    """Writes a file; see `scratch` for the arguments and errors."""
    with scratch(path, is_shared=is_shared, is_durable=is_durable) as draft:
        draft.write_bytes(content)


def write_text(path: pathlib.Path, text: str, *, is_shared: bool = False) -> None:
    """Writes a file as UTF-8; see `scratch` for the arguments and errors."""
    write_bytes(path, text.encode(), is_shared=is_shared)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON values.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); free disk space, or name a "
            "folder that you may write"
        ) from error


def read_json(path: pathlib.Path) -> Any:
    """Reads the value that `write_json` wrote.

    Raises:
      UserError: the file is empty, damaged or cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a complete JSON file ({error}); remove it together with "
            "the files that it describes"
        ) from error


def rename(source: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a complete file or folder to its final name, on the same file system.

    A file replaces an older one; a folder replaces an empty one at most. Nothing is
    flushed to the disk: `sync` the folder if a later write depends on the rename.
    """
    source.replace(target)


def sync(path: pathlib.Path) -> None:
    """Flushes a file's content, or a folder's entries, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
