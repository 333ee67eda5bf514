"""Reads a checkpoint only once it is proven: files by SHA-256, arrays by digest.

With several processes each hashes a part of the files and hears of the others' parts,
so that all come to the same verdict.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from glide_jax.checkpoint import folders, items, manifest, peers
from glide_jax.errors import UserError
from glide_jax.parallel import digests

META = "meta.json"


class Restored(NamedTuple):
    """A checkpoint as read."""

    step: int
    items: dict[str, Any]
    meta: dict[str, Any]


class Prover:
    """The checkpoints of a folder; what was proven once is not hashed again."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._peers = peers.Peers(f"proof of {directory.name}")
        self._proven: dict[int, set[str]] = {}

    def list_steps(self) -> list[int]:
        """Steps that have a folder, as the first process sees them, oldest first."""
        seen = json.dumps(folders.list_steps(self._directory))
        return json.loads(self._peers.exchange(seen)[0])

    def forget(self, steps: Iterable[int]) -> None:
        """Of steps that are written again or deleted nothing is known any more."""
        for step in steps:
            self._proven.pop(step, None)

    def prove(self, step: int, names: Iterable[str] | None) -> manifest.Manifest:
        """The manifest of a step whose files are all as they were written.

        Args:
          step: has a folder.
          names: of the items that count, the metadata besides; None: all files.

        Raises:
          DamagedError: on every process alike, with what is wrong in any file.
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
            damages = self._damages(folder, step, _files_of(found, names))
        self._refuse(damages)
        self._proven.setdefault(step, set()).update(_files_of(found, names))
        return found

    def _damages(
        self, folder: pathlib.Path, step: int, files: Mapping[str, Any]
    ) -> dict[str, str]:
        """What is wrong with this process's share of the files."""
        unknown = sorted(files.keys() - self._proven.get(step, set()))
        share = unknown[self._peers.index :: self._peers.count]
        return manifest.find_damages(folder, {name: files[name] for name in share})

    def _refuse(self, damages: Mapping[str, str]) -> None:
        """Raises DamagedError where any process found a damage."""
        everyones: dict[str, str] = {}
        for word in self._peers.exchange(json.dumps(damages)):
            everyones |= json.loads(word)
        if everyones:
            raise manifest.DamagedError(
                f"{name} {reason}".strip() for name, reason in sorted(everyones.items())
            )

    def restore(self, step: int, abstract_items: Mapping[str, Any]) -> Restored:
        """Items of a step, read and compared with what was written.

        Raises:
          DamagedError: on every process alike.
          UserError: a tree that differs from what is stored.
        """
        found = self.prove(step, abstract_items)
        folder = self._directory / str(step)
        for name, tree in abstract_items.items():
            _check_tree(found, folder, name, tree)
        restored, damages = {}, {}
        try:
            restored = items.read(folder, abstract_items)
        except manifest.DamagedError as error:
            damages = {"": str(error)}
        self._refuse(damages)
        _check_digests(found, restored)
        meta = json.loads((folder / META).read_bytes())
        return Restored(step, restored, meta)


def leaf_shapes(found: manifest.Manifest, item: str) -> dict[str, tuple[int, ...]]:
    """Shapes of an item's arrays by their path within it."""
    return {
        path.removeprefix(f"{item}/"): tuple(leaf["shape"])
        for path, leaf in found.leaves.items()
        if path.startswith(f"{item}/")
    }


def item_names(found: manifest.Manifest) -> list[str]:
    """The items of a checkpoint."""
    return sorted({path.partition("/")[0] for path in found.leaves})


def describe(leaves: Any, found: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Shape, dtype and digest of arrays by path, as a manifest lists them."""
    return {
        path: {
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
            "digest": found[path],
        }
        for path, leaf in leaves_by_path(leaves).items()
    }


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Leaves by their path ("params/unet/conv_in/kernel")."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _files_of(
    found: manifest.Manifest, names: Iterable[str] | None
) -> Mapping[str, Any]:
    if names is None:
        return found.files
    wanted = {META, *names}
    return {
        path: facts
        for path, facts in found.files.items()
        if path.partition("/")[0] in wanted
    }


def _check_tree(
    found: manifest.Manifest, folder: pathlib.Path, item: str, tree: Any
) -> None:
    where = f"checkpoint step {found.step} in {folder.parent}"
    if item not in item_names(found):
        names = ", ".join(item_names(found))
        raise UserError(f"{where} has no {item}; it has {names}")
    wanted = {path: tuple(leaf.shape) for path, leaf in leaves_by_path(tree).items()}
    stored = leaf_shapes(found, item)
    for path in sorted(wanted | stored):
        here, there = wanted.get(path), stored.get(path)
        if here != there:
            raise UserError(
                f"{item}/{path}: {where} has {_shape_text(there)}, this model needs "
                f"{_shape_text(here)}; use the configuration that the checkpoint was "
                "trained with"
            )


def _check_digests(found: manifest.Manifest, restored: Mapping[str, Any]) -> None:
    """Raises DamagedError for arrays that are not, bit for bit, what was saved."""
    same = {
        path: leaf
        for path, leaf in leaves_by_path(restored).items()
        # An array read in another dtype than it was stored in has other bits.
        if str(leaf.dtype) == found.leaves[path]["dtype"]
    }
    wrong = [
        f"{path} was read as other numbers than were saved"
        for path, digest in digests.leaf_digests(same).items()
        if digest != found.leaves[path]["digest"]
    ]
    if wrong:
        raise manifest.DamagedError(wrong)


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"shape {shape}"
