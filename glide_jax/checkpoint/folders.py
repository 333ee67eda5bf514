"""The folders of a checkpoint directory: complete steps and incomplete ones.

    1000/             a checkpoint, if its manifest is present and valid
    2000.unfinished/  being written, or left by a write that was killed
    500.deleted/      being deleted, or left by a deletion that was killed

A single rename of its folder makes a step appear or disappear. So a step's folder
without a manifest was damaged later, and a killed write never looks like damage.
"""

from __future__ import annotations

import os
import pathlib
import shutil

from glide_jax.checkpoint import manifest, retention
from glide_jax.config.defaults import CheckpointConfig
from glide_jax.errors import NoCheckpointError

UNFINISHED, DELETED = ".unfinished", ".deleted"


def is_step(name: str) -> bool:
    """Whether a folder name denotes a step; 024 does not, since 24 does."""
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def list_steps(directory: pathlib.Path) -> list[int]:
    """Steps that have a folder, good or not, oldest first."""
    return sorted(
        int(path.name)
        for path in _entries(directory)
        if is_step(path.name) and path.is_dir()
    )


def check_reachable(directory: pathlib.Path) -> None:
    """Raises NoCheckpointError for a broken link or a file in place of a folder.

    A disk that is not mounted must not look like a run that has not started.
    """
    steps = [path for path in _entries(directory) if is_step(path.name)]
    for path in (directory, *steps):
        if os.path.lexists(path) and not path.is_dir():
            raise NoCheckpointError(
                f"{path} is no folder but a file, or a link to what is not there; "
                "mount its disk, or put it back, or start anew with another --workdir"
            )


def list_whole_steps(directory: pathlib.Path) -> list[int]:
    """Steps with a valid manifest; their files are not read."""
    return [record.step for record in _records(directory)]


def list_leftovers(directory: pathlib.Path) -> list[pathlib.Path]:
    """Folders of incomplete writes and deletions."""
    return sorted(
        path for path in _entries(directory) if path.suffix in (UNFINISHED, DELETED)
    )


def start(directory: pathlib.Path, step: int) -> pathlib.Path:
    """Creates an empty folder to write a step into; removes leftovers."""
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in list_leftovers(directory):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = unfinished(directory, step)
    folder.mkdir()
    return folder


def unfinished(directory: pathlib.Path, step: int) -> pathlib.Path:
    """The folder in which a step is written."""
    return directory / f"{step}{UNFINISHED}"


def publish(directory: pathlib.Path, step: int) -> None:
    """Renames the finished folder to the step, replacing an existing one."""
    deleted = directory / f"{step}{DELETED}"
    if (directory / str(step)).exists():
        shutil.rmtree(deleted, ignore_errors=True)
        (directory / str(step)).rename(deleted)
    unfinished(directory, step).rename(directory / str(step))
    manifest.sync_folder(directory)
    shutil.rmtree(deleted, ignore_errors=True)


def delete(directory: pathlib.Path, step: int) -> None:
    """Removes a step: one rename hides it, then its files are deleted."""
    deleted = directory / f"{step}{DELETED}"
    shutil.rmtree(deleted, ignore_errors=True)
    (directory / str(step)).rename(deleted)
    shutil.rmtree(deleted, ignore_errors=True)


def delete_after(directory: pathlib.Path, step: int) -> None:
    """Removes all steps after `step`."""
    for later in list_steps(directory):
        if later > step:
            delete(directory, later)


def delete_unwanted(
    directory: pathlib.Path, policy: CheckpointConfig, bad_from: int | None = None
) -> None:
    """Removes steps that the policy does not keep; see `retention.to_delete`."""
    for step in retention.to_delete(_records(directory), policy, bad_from):
        delete(directory, step)


def _records(directory: pathlib.Path) -> list[retention.Record]:
    """Records of steps with a valid manifest, oldest first."""
    records = []
    for step in list_steps(directory):
        try:
            found = manifest.read(directory / str(step))
        except manifest.DamagedError:
            continue
        if found.step == step:
            records.append(retention.Record(step, found.created_at, found.metrics))
    return records


def _entries(directory: pathlib.Path) -> list[pathlib.Path]:
    return list(directory.iterdir()) if directory.is_dir() else []
