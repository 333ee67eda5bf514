"""The folders of a checkpoint directory: complete steps and incomplete ones.

    1000/             a checkpoint, if its manifest is present and valid
    2000.unfinished/  being written, or left by a write that was killed
    500.deleted/      being deleted, or left by a deletion that was killed

A single rename of its folder makes a step appear or disappear. So a step's folder
without a manifest was damaged later, and a killed write never looks like damage.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import pathlib
import shutil
from collections.abc import Collection, Mapping, Sequence

from glide_jax.checkpoint import manifest
from glide_jax.config.defaults import CheckpointConfig
from glide_jax.errors import NoCheckpointError
from glide_jax.runtime import files

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
                f"{path} is a file or a broken link, and must be a folder; mount its "
                "disk, restore it, or start with another --workdir"
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
        files.rename(directory / str(step), deleted)
    files.rename(unfinished(directory, step), directory / str(step))
    files.sync(directory)
    shutil.rmtree(deleted, ignore_errors=True)


def delete(directory: pathlib.Path, step: int) -> None:
    """Removes a step: one rename hides it, then its files are deleted."""
    deleted = directory / f"{step}{DELETED}"
    shutil.rmtree(deleted, ignore_errors=True)
    files.rename(directory / str(step), deleted)
    shutil.rmtree(deleted, ignore_errors=True)


def delete_after(directory: pathlib.Path, step: int) -> None:
    """Removes all steps after `step`."""
    for later in list_steps(directory):
        if later > step:
            delete(directory, later)


def unwanted(
    directory: pathlib.Path,
    policy: CheckpointConfig,
    bad_from: int | None = None,
    deleted: Collection[int] = (),
) -> list[int]:
    """Steps that the policy does not keep, without those in `deleted`."""
    left = [one for one in _records(directory) if one.step not in deleted]
    return to_delete(left, policy, bad_from)


def _records(directory: pathlib.Path) -> list[Record]:
    """Records of steps with a valid manifest, oldest first."""
    records = []
    for step in list_steps(directory):
        try:
            found = manifest.read(directory / str(step))
        except manifest.DamagedError:
            continue
        if found.step == step:
            records.append(Record(step, found.created_at, found.metrics))
    return records


def _entries(directory: pathlib.Path) -> list[pathlib.Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


@dataclasses.dataclass(frozen=True)
class Record:
    """The properties of a checkpoint that decide whether it is kept."""

    step: int
    created: datetime.datetime
    metrics: Mapping[str, float]


def to_delete(
    records: Sequence[Record], policy: CheckpointConfig, bad_from: int | None = None
) -> list[int]:
    """Steps that no policy keeps, oldest first; the newest is always kept.

    The newest before `bad_from`, the first of the current streak of skipped updates, is
    kept as well: a rewind restores it.

    A step once kept stays kept, or until a better one exists, so that a second call
    after the deletions returns nothing.
    """
    records = sorted(records, key=lambda record: record.step)
    wanted = {record.step for record in records[-max(1, policy.keep) :]}
    wanted |= _every_steps(records, policy.keep_every_steps)
    wanted |= _every_hours(records, policy.keep_every_hours)
    wanted |= _best(records, policy.keep_best, policy.best_metric)
    if bad_from is not None:
        wanted.add(max((r.step for r in records if r.step < bad_from), default=0))
    return [record.step for record in records if record.step not in wanted]


def _every_steps(records: Sequence[Record], every: int) -> set[int]:
    if every <= 0:
        return set()
    return {record.step for record in records if record.step % every == 0}


def _every_hours(records: Sequence[Record], hours: float) -> set[int]:
    """The first, and each at least `hours` after the last one kept."""
    if hours <= 0:
        return set()
    wanted: set[int] = set()
    last = None
    for record in records:
        # In seconds: timedelta does not accept every number of hours.
        if last is None or (record.created - last).total_seconds() >= 3600 * hours:
            wanted.add(record.step)
            last = record.created
    return wanted


def _best(records: Sequence[Record], count: int, metric: str) -> set[int]:
    """Those with the lowest metric; the older of equals. None without the metric."""
    measured = [
        (record.metrics[metric], record.step)
        for record in records
        if math.isfinite(record.metrics.get(metric, math.nan))
    ]
    return {step for _, step in sorted(measured)[:count]}
