"""Finds damage in a workdir or a bundle from its files alone."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from glide_jax.checkpoint import bundle, folders, manifest
from glide_jax.errors import UserError
from glide_jax.runtime import mirrors


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of checking a folder.

    Attributes:
      folder: the folder that was checked.
      kind: "workdir", "checkpoint" (one step of a workdir) or "bundle".
      damaged: reason by path of each damaged file.
      surplus: files and folders that are not listed; they are harmless.
      good_steps: checkpoints whose files are all unchanged.
      bad_steps: damaged checkpoints.
      hashed_bytes: number of bytes hashed.
    """

    folder: pathlib.Path
    kind: str
    damaged: dict[str, str] = dataclasses.field(default_factory=dict)
    surplus: list[str] = dataclasses.field(default_factory=list)
    good_steps: list[int] = dataclasses.field(default_factory=list)
    bad_steps: list[int] = dataclasses.field(default_factory=list)
    hashed_bytes: int = 0


def check(folder: pathlib.Path) -> Report:
    """Hashes all listed files of a workdir, one of its checkpoints or a bundle.

    Raises:
      UserError: the folder is none of these, or a workdir without any checkpoint.
    """
    if any((folder / name).is_file() for name in (bundle.MARK, bundle.PARAMS)):
        return _check_bundle(folder)
    if _is_checkpoint(folder):
        return _check_checkpoint(folder)
    if (folder / "checkpoints").is_dir() or (folder / manifest.NAME).is_file():
        return _check_workdir(folder)
    remedy = bundle.remedy_of_cut(folder) or "name one of them"
    raise UserError(
        f"{folder} is neither a workdir of `glide train` (it has no checkpoints) nor a "
        f"bundle (it has no {bundle.MARK}); {remedy}"
    )


def _is_checkpoint(folder: pathlib.Path) -> bool:
    """Whether the folder is a step; a workdir may also have a number as its name."""
    whole = folder.absolute()
    is_listed = whole.parent.name == "checkpoints" or (whole / manifest.NAME).is_file()
    return (
        whole.is_dir()
        and folders.is_step(whole.name)
        and is_listed
        and not (whole / "checkpoints").is_dir()
    )


def _check_checkpoint(folder: pathlib.Path) -> Report:
    step = int(folder.absolute().name)
    damaged, surplus, size = _check_listed(folder, step)
    good, bad = ([], [step]) if damaged else ([step], [])
    return Report(folder, "checkpoint", damaged, surplus, good, bad, size)


def _check_workdir(folder: pathlib.Path) -> Report:
    found, _, read = _check_listed(folder)
    # An interrupted start may have left drafts, which the next start rewrites.
    damaged = {name: why for name, why in found.items() if not _is_draft(folder, name)}
    surplus, good, bad = [], [], []
    checkpoints = folder / "checkpoints"
    steps = folders.list_steps(checkpoints)
    if not steps and not damaged:
        raise UserError(
            f"{folder} has no checkpoint to verify; restore its checkpoints/, or train "
            "it further with `glide train`"
        )
    for step in steps:
        try:
            wrong, unlisted, size = _check_listed(checkpoints / str(step), step)
        except FileNotFoundError:
            wrong, unlisted, size = {"": "is missing"}, [], 0
        # A running training may have deleted the step meanwhile.
        if wrong and not (checkpoints / str(step)).exists():
            continue
        damaged |= {f"checkpoints/{step}/{name}": why for name, why in wrong.items()}
        surplus += [f"checkpoints/{step}/{name}" for name in unlisted]
        read += size
        (bad if wrong else good).append(step)
    # Writes or deletions in progress or killed; the next save removes them.
    surplus += [
        f"checkpoints/{path.name}" for path in folders.list_leftovers(checkpoints)
    ]
    return Report(folder, "workdir", damaged, surplus, good, bad, read)


def _check_listed(
    folder: pathlib.Path, step: int = 0
) -> tuple[dict[str, str], list[str], int]:
    """(damage by file, unlisted files, bytes hashed), by the folder's manifest."""
    try:
        found = manifest.read(folder)
    except manifest.DamagedError as error:
        reason = error.damages[0].removeprefix(manifest.NAME).strip()
        return {manifest.NAME: reason}, [], 0
    if found.step != step:
        return {manifest.NAME: f"is of step {found.step}"}, [], 0
    mirrors.complete(folder)
    damaged = manifest.find_damages(folder, found.files)
    surplus = sorted(set(manifest.list_files(folder)) - found.files.keys())
    return damaged, surplus, sum(facts["bytes"] for facts in found.files.values())


def _is_draft(folder: pathlib.Path, name: str) -> bool:
    """Whether the listed content of `name` is still in its draft file."""
    draft = f"{name}{manifest.DRAFT}"
    if name == manifest.NAME or not (folder / draft).is_file():
        return False
    listed = manifest.read(folder).files[name]
    return not manifest.find_damages(folder, {draft: listed})


def _check_bundle(folder: pathlib.Path) -> Report:
    try:
        digests = json.loads((folder / bundle.MARK).read_bytes())["sha256"]
        files = {str(name): str(digest) for name, digest in digests.items()}
    except FileNotFoundError:
        return Report(folder, "bundle", {bundle.MARK: "is missing"})
    except (ValueError, KeyError, TypeError, AttributeError):
        return Report(folder, "bundle", {bundle.MARK: "is damaged"})
    damaged = manifest.find_damages(
        folder, {name: {"sha256": digest} for name, digest in files.items()}
    )
    there = set(manifest.list_files(folder)) - {bundle.MARK}
    return Report(
        folder,
        "bundle",
        damaged,
        surplus=sorted(there - files.keys()),
        hashed_bytes=sum((folder / n).stat().st_size for n in files.keys() & there),
    )
