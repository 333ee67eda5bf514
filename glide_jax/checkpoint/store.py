"""Training states by step, written while training goes on, restored onto any mesh.

Every state is a set of named items (params, ema_params, opt_state, ...), each its own
Orbax item, so a reader takes only what it wants. A step counts only once its commit
file is there: a killed write leaves no state that could be taken for whole.
"""

from __future__ import annotations

import inspect
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from glide_jax.errors import UserError

_META = "meta"


class CheckpointStore:
    """The `keep` newest states of a folder; a context manager that closes itself.

    The folder is made by the first save, so that looking leaves no trace. With
    several processes every method is called by all of them.
    """

    def __init__(self, directory: str | pathlib.Path, *, keep: int = 1) -> None:
        self.directory = pathlib.Path(directory).absolute()
        self._keep = keep
        self._open_manager: ocp.CheckpointManager | None = None

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def save(self, step: int, items: Mapping[str, Any], meta: Mapping) -> bool:
        """Starts writing the state of `step`; False if that step is stored already.

        Returns once the arrays are copied off the devices, so donating them next is
        safe. `items` maps names to pytrees of arrays, `meta` is JSON.

        Raises:
          Whatever the previous write failed with: that state is lost, and the one at
        hand is not written; saving again writes it.
        """
        self.wait()
        if step in self.steps():
            return False
        _check_items(items)
        arguments = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        arguments[_META] = ocp.args.JsonSave(dict(meta))
        # force: after a rewind a step may come that is older than the newest.
        return self._manager.save(
            step, args=ocp.args.Composite(**arguments), force=True
        )

    def wait(self) -> None:
        """Returns once nothing is being written; raises the write's error."""
        if self._open_manager is not None:
            self._open_manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees the writer's threads; the store may be used again."""
        if self._open_manager is not None:
            manager, self._open_manager = self._open_manager, None
            manager.wait_until_finished()
            manager.close()

    def remove(self, step: int) -> None:
        """Removes a stored state for good."""
        self._manager.delete(step)

    def steps(self) -> list[int]:
        """The stored steps, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest stored step, or None."""
        return max(self.steps(), default=None)

    def tree_shapes(self, step: int, item: str) -> dict[str, tuple[int, ...]]:
        """Shapes of an item's tensors by path ("unet/conv_in/kernel")."""
        step_folder = self._step_folder(step)
        if not (step_folder / item).is_dir():
            items = {path.name for path in step_folder.iterdir() if path.is_dir()}
            raise UserError(
                f"checkpoint step {step} in {self.directory} has no {item}; "
                f"it has {', '.join(sorted(items - {_META}))}"
            )
        metadata = ocp.PyTreeCheckpointHandler().metadata(
            epath.Path(step_folder / item)
        )
        return _shapes(metadata.tree)

    def restore(self, step: int, abstract_items: Mapping[str, Any]) -> dict[str, Any]:
        """The items asked for, each like its tree of jax.ShapeDtypeStruct.

        Values are cast to the dtype asked for and laid out by its sharding; without
        one they go to this process's first device.

        Raises:
          UserError: no such step or item, a damaged file, or a tree that differs from
            what is stored: the first differing path and both shapes.
        """
        arguments = {
            name: ocp.args.StandardRestore(jax.tree.map(_placed, tree))
            for name, tree in abstract_items.items()
        }
        with _Reading(self._step_folder(step)):
            for name, tree in abstract_items.items():
                self._check_tree(step, name, tree)
            restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
            return {name: restored[name] for name in abstract_items}

    def restore_meta(self, step: int) -> dict[str, Any]:
        """The JSON stored beside the items of `step`."""
        arguments = ocp.args.Composite(**{_META: ocp.args.JsonRestore()})
        with _Reading(self._step_folder(step)):
            return self._manager.restore(step, args=arguments)[_META]

    @property
    def _manager(self) -> ocp.CheckpointManager:
        if self._open_manager is None:
            # By default on local disks any folder with a number for a name would
            # count as a state; COMMIT_FILE asks for the mark that is written last.
            atomicity = ocp.options.AtomicityOptions(
                mode=ocp.options.AtomicityMode.COMMIT_FILE
            )
            self._open_manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=self._keep, atomicity_options=atomicity
                ),
            )
        return self._open_manager

    def _step_folder(self, step: int) -> pathlib.Path:
        """The folder of a stored step; UserError if there is none."""
        if step not in self.steps():
            stored = ", ".join(map(str, self.steps())) or "none"
            raise UserError(
                f"no checkpoint of step {step} in {self.directory}; stored: {stored}"
            )
        return self.directory / str(step)

    def _check_tree(self, step: int, item: str, tree: Any) -> None:
        wanted, stored = _shapes(tree), self.tree_shapes(step, item)
        for path in sorted(wanted | stored):
            here, there = wanted.get(path), stored.get(path)
            if here != there:
                raise UserError(
                    f"{item}/{path}: checkpoint step {step} in {self.directory} has "
                    f"{_shape_text(there)}, this model needs {_shape_text(here)}; "
                    "use the configuration that the checkpoint was trained with"
                )


class _Reading:
    """Turns whatever a damaged file makes Orbax raise into one UserError."""

    def __init__(self, step_folder: pathlib.Path) -> None:
        self._folder = step_folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: Any, traceback: Any) -> None:
        # An array cut short is a bare Exception to Orbax; narrower ones are ours.
        is_damage = kind is Exception or isinstance(error, ValueError | OSError)
        if is_damage and not isinstance(error, UserError):
            _silence_abandoned_reads()
            reason = str(error).partition(":")[0].strip() or kind.__name__
            raise UserError(
                f"checkpoint step {self._folder.name} in {self._folder.parent} cannot "
                f"be read, a file is damaged ({reason}); remove that folder to go on "
                "from the checkpoint before it"
            ) from error


def _silence_abandoned_reads() -> None:
    """Keeps the reads that Orbax gave up from each printing a page when collected.

    It starts the reads of all arrays at once and tells of the first that fails.
    """
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        is_read = inspect.iscoroutine(unraisable.object) and (
            "orbax" in unraisable.object.cr_code.co_filename
        )
        if not is_read:
            previous(unraisable)

    sys.unraisablehook = hook


def _check_items(items: Mapping[str, Any]) -> None:
    if _META in items:
        raise ValueError(f"an item may not be named {_META}")
    for name, tree in items.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                # Keys are functions of (seed, step): a stored one would be a second
                # truth, and its layout depends on the PRNG implementation.
                raise TypeError(f"{name}/{_path_text(path)} is a PRNG key: not stored")


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        # The first of all devices may be another process's.
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        _path_text(path): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _path_text(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"shape {shape}"
