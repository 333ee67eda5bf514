"""Writes and reads checkpoint items with Orbax: one folder for each pytree."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from glide_jax.checkpoint import manifest
from glide_jax.runtime import files, locks

# The file in which Orbax records the handler of each item of a step.
ORBAX_METADATA = "_CHECKPOINT_METADATA"
_SILENT_HOOK = "silence_abandoned_futures"


class WriteAttempt:
    """Captures an exception of its block as one line, `reason`; "" if there is none.

    A failure of any kind must be sent to the peers before it ends anything: Orbax
    raises bare Exceptions.
    """

    reason = ""
    error: Exception | None = None

    def __enter__(self) -> WriteAttempt:
        return self

    def __exit__(self, kind: type | None, error: Any, traceback: Any) -> bool:
        if isinstance(error, Exception):
            self.reason, self.error = reason_of(error), error
        return isinstance(error, Exception)


def reason_of(error: BaseException) -> str:
    """One line for an error: the operating system's message if it has one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    system = re.search(r"os_error_code='(\d+)'", text)  # of TensorStore
    if system:
        return os.strerror(int(system.group(1)))
    first = " ".join(text.split("\n")[0].split())
    return f"{type(error).__name__}: {first[:200]}"


class ItemWriter:
    """Items being written; constructed once their arrays are copied to the host."""

    def __init__(self, folder: pathlib.Path, items: Mapping[str, Any]) -> None:
        self._folder = folder
        self._handlers = {
            epath.Path(folder / name): ocp.StandardCheckpointHandler() for name in items
        }
        self._futures: list[Any] = []
        _silence_abandoned_futures()
        # In a separate thread asyncio works for any caller, including notebooks.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, self._start(items.values())).result()

    async def _start(self, trees: Any) -> None:
        for (path, handler), tree in zip(self._handlers.items(), trees, strict=True):
            arguments = ocp.args.StandardSave(tree)
            self._futures += await handler.async_save(path, args=arguments) or []

    def wait(self) -> None:
        """Waits until this process has written everything; raises the first error."""
        errors = []
        for future in self._futures:
            with WriteAttempt() as attempt:
                future.result()
            errors += [attempt.error] if attempt.error else []
        if errors:
            raise errors[0]

    def merge(self) -> None:
        """Merges the parts of all processes; called by one, after all have written.

        `orbax.checkpoint.CheckpointManager(folder).restore(step)` can then read the
        step as well, on any number of devices: the file beside the items names their
        handlers, and the sharding file, which Orbax can only apply to the devices that
        wrote it, is removed.
        """
        for path, handler in self._handlers.items():
            handler.finalize(path)
        self.describe()

    def describe(self) -> None:
        """Writes what Orbax needs beside the items; part of `merge`.

        Alone it leaves the parts as they are, for `merge_parts`.
        """
        for path in self._handlers:
            (path / "_sharding").unlink(missing_ok=True)
        names = {
            path.name: type(handler).typestr()
            for path, handler in self._handlers.items()
        }
        text = json.dumps({"item_handlers": names}, indent=1, sort_keys=True)
        files.write_text(self._folder / ORBAX_METADATA, f"{text}\n")


def merge_parts(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Merges the parts of items that several hosts wrote and none could merge.

    The hosts of a run in an object store see only their own parts while they write.
    Whoever reads them has all.
    """
    with folder.with_name(f".{folder.name}.merge.tmp").open("a") as file:
        while not locks.try_lock(file):
            time.sleep(0.1)
        for name in names:
            path = folder / name
            if (
                list(path.glob("ocdbt.process_*"))
                and not (path / "manifest.ocdbt").exists()
            ):
                with _Reading(name):
                    ocp.StandardCheckpointHandler().finalize(epath.Path(path))


def read(
    folder: pathlib.Path, wanted: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]
) -> dict[str, dict[str, jax.Array]]:
    """Reads arrays of items by path, with the dtypes and shardings of `wanted`.

    Without a sharding an array is placed on this process's first device. `wanted` must
    name all paths of an item: Orbax restores only the tree that was written, including
    parts without arrays, so its stored tree is filled in.

    Raises:
      DamagedError: a file cannot be read.
    """
    restored = {}
    for name, leaves in wanted.items():
        path = epath.Path(folder / name)
        with _Reading(name):
            stored = ocp.StandardCheckpointHandler().metadata(path).tree
            tree = jax.tree_util.tree_map_with_path(
                lambda at, _, leaves=leaves: _placed(leaves[path_text(at)]), stored
            )
            found = ocp.StandardCheckpointHandler().restore(
                path, args=ocp.args.StandardRestore(tree)
            )
        restored[name] = leaves_by_path(found)
    return restored


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Leaves by their path ("params/unet/conv_in/kernel")."""
    return {
        path_text(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def path_text(path: Any) -> str:
    """A JAX key path as text."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


class _Reading:
    """Converts Orbax's errors for damaged files into a DamagedError."""

    def __init__(self, item: str) -> None:
        self._item = item

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: Any, traceback: Any) -> None:
        # Orbax raises a bare Exception for a truncated array; subclasses are ours.
        if kind is Exception or isinstance(error, ValueError | OSError):
            _silence_abandoned_futures()
            reason = f"{self._item} cannot be read ({reason_of(error)})"
            raise manifest.DamagedError([reason]) from error


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        # The first global device may belong to another process.
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _silence_abandoned_futures() -> None:
    """Silences the tracebacks of futures that Orbax abandons.

    Orbax starts the reads or writes of all arrays at once, raises the first error and
    closes the event loop in which the others would have finished.
    """
    previous = sys.unraisablehook
    if getattr(previous, "__name__", "") == _SILENT_HOOK:
        return

    def hook(unraisable: Any) -> None:
        is_read = inspect.iscoroutine(unraisable.object) and (
            "orbax" in unraisable.object.cr_code.co_filename
        )
        is_late = str(unraisable.exc_value) == "Event loop is closed"
        if not (is_read or is_late):
            previous(unraisable)

    hook.__name__ = _SILENT_HOOK
    sys.unraisablehook = hook
