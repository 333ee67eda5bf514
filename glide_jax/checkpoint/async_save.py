"""Writes a checkpoint during training: items, then manifest, then the final name.

All processes finish a stage before any starts the next, and a failure of one ends the
write for all. The checkpoint becomes visible only with the last stage.
"""

from __future__ import annotations

import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax

from glide_jax.checkpoint import (
    folders,
    item_files,
    kv_exchange,
    manifest,
    verification,
)
from glide_jax.config.defaults import CheckpointConfig
from glide_jax.parallel import digests
from glide_jax.runtime import files

logger = logging.getLogger(__name__)


class AsyncSave:
    """One write: `start` blocks the caller, `finish` runs in a separate thread.

    Both return, on every process, one line on why the write failed, or "".
    """

    def __init__(
        self,
        directory: pathlib.Path,
        channel: kv_exchange.KvExchange,
        step: int,
        *,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float],
        policy: CheckpointConfig | None,
        check_writer: Callable[[], None],
        bad_from: int | None = None,
        damaged: frozenset[int] = frozenset(),
    ) -> None:
        self.step = step
        self._directory = directory
        self._folder = folders.unfinished(directory, step)
        self._channel = channel
        self._meta, self._metrics = dict(meta), dict(metrics)
        self._policy, self._bad_from, self._damaged = policy, bad_from, damaged
        self._check_writer = check_writer

    def start(self, state: Mapping[str, Any]) -> str:
        """Copies the items to the host and starts to write them."""
        reason = self._on_first(lambda: self._make_folders(state))
        if reason:
            return self._fail(reason)
        self._shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dict(state)
        )
        # Digests of the arrays on the devices, to which restored arrays must be equal.
        self._wait_for_digests = digests.start(state)
        # A failure here is reported by `finish`: peers may already be writing.
        self._items, self._attempt = None, item_files.WriteAttempt()
        with self._attempt:
            self._items = item_files.ItemWriter(self._folder, state)
        return ""

    def finish(self) -> str:
        """Waits for the items, hashes and commits them, and applies the policy."""
        with item_files.WriteAttempt() as attempt:
            if self._items is not None:
                self._items.wait()
        reason = self._channel.agree(self._attempt.reason or attempt.reason)
        reason = reason or self._on_first(self._merge)
        files: dict[str, Any] = {}
        if not reason:
            reason, files = self._hash()
        reason = reason or self._on_first(lambda: self._commit(files))
        if reason:
            return self._fail(reason)
        kept = self._on_first(self._delete_unwanted)
        if kept and self._channel.index == 0:
            logger.warning("%s: a step cannot be deleted (%s)", self._directory, kept)
        return ""

    def _make_folders(self, state: Mapping[str, Any]) -> None:
        folder = folders.start(self._directory, self.step)
        for name in state:
            (folder / name).mkdir()

    def _merge(self) -> None:
        assert self._items is not None  # else `start` failed
        self._items.merge()
        text = json.dumps(self._meta, indent=1, sort_keys=True) + "\n"
        files.write_text(self._folder / verification.META, text)

    def _hash(self) -> tuple[str, dict[str, Any]]:
        """Returns (reason, facts of all files); each process hashes its share.

        Process 0 lists the files: other processes of a shared disk may see them later.
        """
        names: list[str] = []
        reason = self._on_first(lambda: names.extend(manifest.list_files(self._folder)))
        names = json.loads(self._channel.exchange(json.dumps(names))[0])
        found: dict[str, Any] = {}
        with item_files.WriteAttempt() as attempt:
            share = names[self._channel.index :: self._channel.count]
            found = manifest.hash_files(self._folder, share)
        files: dict[str, Any] = {}
        for message in self._channel.exchange(json.dumps(found)):
            files |= json.loads(message)
        reason = reason or self._channel.agree(attempt.reason)
        if not reason and files.keys() != set(names):
            reason = "the processes have not read all of its files"
        return reason, files

    def _commit(self, files: Mapping[str, Any]) -> None:
        whole = manifest.Manifest(
            step=self.step,
            created=manifest.now(),
            files=files,
            leaves=verification.describe(self._shapes, self._wait_for_digests()),
            metrics=self._metrics,
        )
        self._check_writer()
        manifest.write(self._folder, whole)
        folders.publish(self._directory, self.step)

    def _delete_unwanted(self) -> None:
        self._check_writer()
        folders.delete_after(self._directory, self.step)
        # Damaged steps would count toward the policy in place of good ones.
        for step in self._damaged.intersection(folders.list_steps(self._directory)):
            if step != self.step:
                folders.delete(self._directory, step)
        if self._policy is not None:
            folders.delete_unwanted(self._directory, self._policy, self._bad_from)

    def _on_first(self, action: Callable[[], None]) -> str:
        """Runs `action` on process 0; all return its reason for failing, or ""."""
        with item_files.WriteAttempt() as attempt:
            if self._channel.index == 0:
                action()
        return self._channel.agree(attempt.reason)

    def _fail(self, reason: str) -> str:
        """Removes the unfinished folder; logs and returns the failure as one line."""
        where = f"checkpoint step {self.step} in {self._directory} was not written"
        failure = (
            f"{where} ({reason}); earlier steps are unchanged; free disk space or "
            "correct the folder's permissions"
        )
        with item_files.WriteAttempt() as attempt:
            self._check_writer()
        if attempt.error:
            failure = f"{where}: {attempt.error}"
        if self._channel.index == 0:
            # Another run that owns the folder may be writing to this name.
            if not attempt.error:
                shutil.rmtree(self._folder, ignore_errors=True)
            logger.error(failure)
        return failure
