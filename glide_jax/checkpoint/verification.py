"""Reads checkpoints and verifies them: files by SHA-256, arrays by digest.

With several processes each hashes a share of the files and exchanges the results, so
that all get the same result.
"""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from glide_jax.checkpoint import folders, item_files, kv_exchange, manifest
from glide_jax.errors import UserError
from glide_jax.parallel import digests
from glide_jax.runtime import mirrors

META = "meta.json"


class Restored(NamedTuple):
    """A checkpoint as read."""

    step: int
    items: dict[str, Any]
    meta: dict[str, Any]


class Verifier:
    """Verifies the checkpoints of a folder; verified files are not hashed again."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._channel = kv_exchange.KvExchange(f"verification of {directory.name}")
        self._verified: dict[int, set[str]] = {}

    def list_steps(self) -> list[int]:
        """Steps that have a folder, as the first process sees them, oldest first."""
        seen = json.dumps(folders.list_steps(self._directory))
        return json.loads(self._channel.exchange(seen)[0])

    def forget(self, steps: Iterable[int]) -> None:
        """Discards the results for steps that are rewritten or deleted."""
        for step in steps:
            self._verified.pop(step, None)

    def verify(self, step: int, names: Iterable[str] | None) -> manifest.Manifest:
        """Verifies the files of a step and returns its manifest.

        Args:
          step: a step that has a folder.
          names: items to verify, in addition to the metadata; None: all files.

        Raises:
          DamagedError: on every process, listing the damage of all files.
        """
        folder = self._directory / str(step)
        found, damages = None, {}
        try:
            found = manifest.read(folder)
            if found.step != step:
                damages = {manifest.NAME: f"is of step {found.step}"}
        except manifest.DamagedError as error:
            damages = {"": str(error)}
        if found is not None and not damages:
            mirrors.complete(folder, _files_of(found, names))
            damages = self._damages(folder, step, _files_of(found, names))
        self._refuse(damages)
        assert found is not None  # else there is damage
        self._verified.setdefault(step, set()).update(_files_of(found, names))
        return found

    def _damages(
        self, folder: pathlib.Path, step: int, files: Mapping[str, Any]
    ) -> dict[str, str]:
        """Damage by file, in this process's share of the files."""
        unknown = sorted(files.keys() - self._verified.get(step, set()))
        share = unknown[self._channel.index :: self._channel.count]
        if mirrors.separated(folder):  # every host has copies of its own
            share = unknown
        return manifest.find_damages(folder, {name: files[name] for name in share})

    def _refuse(self, damages: Mapping[str, str]) -> None:
        """Raises DamagedError if any process found damage."""
        everyones: dict[str, str] = {}
        for message in self._channel.exchange(json.dumps(damages)):
            everyones |= json.loads(message)
        if everyones:
            raise manifest.DamagedError(
                f"{name} {reason}".strip() for name, reason in sorted(everyones.items())
            )

    def restore(self, step: int, abstract_items: Mapping[str, Any]) -> Restored:
        """Reads items of a step and compares them with what was written.

        Raises:
          DamagedError: on every process.
          UserError: a tree that differs from what is stored.
        """
        found = self.verify(step, abstract_items)
        folder = self._directory / str(step)
        paths = {
            name: _stored_paths(found, folder, name, tree)
            for name, tree in abstract_items.items()
        }
        wanted = {
            name: dict(zip(paths[name], jax.tree.leaves(tree), strict=True))
            for name, tree in abstract_items.items()
        }
        read, damages = {}, {}
        try:
            if mirrors.is_in_store(folder):
                item_files.merge_parts(folder, wanted)
            read = item_files.read(folder, wanted)
        except manifest.DamagedError as error:
            damages = {"": str(error)}
        self._refuse(damages)
        _check_digests(found, read)
        restored = {
            name: jax.tree.unflatten(
                jax.tree.structure(tree), [read[name][path] for path in paths[name]]
            )
            for name, tree in abstract_items.items()
        }
        meta = json.loads((folder / META).read_bytes())
        return Restored(step, restored, meta)


def describe(leaves: Any, found: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Shape, dtype and digest of arrays by path, as a manifest lists them."""
    return {
        path: {
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
            "digest": found[path],
        }
        for path, leaf in item_files.leaves_by_path(leaves).items()
    }


def _files_of(
    found: manifest.Manifest, names: Iterable[str] | None
) -> Mapping[str, Any]:
    if names is None:
        return found.files
    wanted = {META, item_files.ORBAX_METADATA, *names}
    return {
        path: facts
        for path, facts in found.files.items()
        if path.partition("/")[0] in wanted
    }


def _stored_paths(
    found: manifest.Manifest, folder: pathlib.Path, item: str, tree: Any
) -> list[str]:
    """Paths of the leaves of `tree` in the stored item, in the order of the leaves.

    Raises:
      UserError: a leaf is missing, has another shape, or is surplus.
    """
    where = f"checkpoint step {found.step} in {folder.parent}"
    names = sorted({path.partition("/")[0] for path in found.leaves})
    if item not in names:
        raise UserError(f"{where} has no {item}; it has {', '.join(names)}")
    leaves = item_files.leaves_by_path(tree)
    wanted = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    stored = {
        path.removeprefix(f"{item}/"): tuple(leaf["shape"])
        for path, leaf in found.leaves.items()
        if path.startswith(f"{item}/")
    }
    here, there = _by_part(wanted), _by_part(stored)
    if {at: wanted[path] for at, path in here.items()} == {
        at: stored[path] for at, path in there.items()
    }:
        return [there[at] for at in here]
    path = next(p for p in sorted(wanted | stored) if wanted.get(p) != stored.get(p))
    raise UserError(
        f"{item}/{path}: {where} has {_shape_text(stored.get(path))}, this model needs "
        f"{_shape_text(wanted.get(path))}; use the configuration that the checkpoint "
        "was trained with"
    )


def _by_part(paths: Iterable[str]) -> dict[tuple[int, str], str]:
    """Paths by (index of the part of an optax chain, rest of the path).

    Parts without arrays, such as gradient clipping, are not counted: optimizers with
    and without it hold the same arrays.
    """
    split = {path: _leading_numbers(path.split("/")) for path in paths}
    parts = sorted(set(split.values()))
    return {
        (parts.index(numbers), path.split("/", len(numbers))[-1]): path
        for path, numbers in split.items()
    }


def _leading_numbers(names: list[str]) -> tuple[int, ...]:
    return tuple(map(int, itertools.takewhile(str.isdecimal, names)))


def _check_digests(found: manifest.Manifest, restored: Mapping[str, Any]) -> None:
    """Raises DamagedError for arrays that are not bitwise equal to those saved."""
    same = {
        path: leaf
        for path, leaf in item_files.leaves_by_path(restored).items()
        # An array that was cast on reading has different bits.
        if str(leaf.dtype) == found.leaves[path]["dtype"]
    }
    wrong = [
        f"{path} differs from the array that was saved"
        for path, digest in digests.leaf_digests(same).items()
        if digest != found.leaves[path]["digest"]
    ]
    if wrong:
        raise manifest.DamagedError(wrong)


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"shape {shape}"
