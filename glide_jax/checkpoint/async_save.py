"""Writes a checkpoint during training: items, then manifest, then the final name.

All processes finish a stage before any starts the next, and a failure of one ends the
write for all. The checkpoint becomes visible only with the last stage.

Hosts that mirror an object store have a folder each (`mirrors.Separate`). Each hashes
and uploads its own files, and process 0 uploads the manifest. The parts are merged
where they are read.
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
from glide_jax.runtime import files, mirrors

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
        self._copy = mirrors.separated(directory)

    def start(self, state: Mapping[str, Any]) -> str:
        """Copies the items to the host and starts to write them."""
        reason = self._on_first(self._discard)
        reason = reason or self._on_leaders(lambda: self._make_folders(state))
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
            reason, files = self._hash() if self._copy is None else self._send()
        reason = reason or self._commit(files)
        if reason:
            return self._fail(reason)
        kept = self._delete_unwanted()
        if kept and self._channel.index == 0:
            logger.warning("%s: a step cannot be deleted (%s)", self._directory, kept)
        return ""

    def _discard(self) -> None:
        """Deletes what an earlier write of the step left in the store."""
        if self._copy is not None:
            self._copy.mirror.discard(self._place())

    def _make_folders(self, state: Mapping[str, Any]) -> None:
        folder = folders.start(self._directory, self.step)
        for name in state:
            (folder / name).mkdir()
            if self._copy is not None:
                # Orbax waits until process 0 has made it, in the folder of all.
                (folder / name / "array_metadatas").mkdir()

    def _merge(self) -> None:
        assert self._items is not None  # else `start` failed
        if self._copy is None:
            self._items.merge()
        else:
            self._items.describe()
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

    def _send(self) -> tuple[str, dict[str, Any]]:
        """`_hash` for hosts with a folder each, whose files are then uploaded.

        Hosts write some files of one name, of which the store gets the first host's.
        """
        assert self._copy is not None
        found: dict[str, Any] = {}
        with item_files.WriteAttempt() as attempt:
            if self._copy.is_leader:
                names = manifest.list_files(self._folder)
                found = manifest.hash_files(self._folder, names)
        reason = self._channel.agree(attempt.reason)
        everyones = self._channel.exchange(json.dumps(found))
        facts: dict[str, Any] = {}
        owned: list[set[str]] = []
        for theirs in map(json.loads, everyones):
            owned.append(theirs.keys() - facts.keys())
            facts = theirs | facts
        if reason:
            return reason, {}
        own = owned[self._channel.index]
        with item_files.WriteAttempt() as attempt:
            for name in found.keys() - own:
                (self._folder / name).unlink()
            self._copy.mirror.send(self._folder, sorted(own), self._place())
        return self._channel.agree(attempt.reason), facts

    def _place(self) -> str:
        """The place of the step below the URL of the run."""
        assert self._copy is not None
        folder = self._directory / str(self.step)
        return folder.relative_to(self._copy.mirror.folder).as_posix()

    def _commit(self, files: Mapping[str, Any]) -> str:
        def publish() -> None:
            folders.publish(self._directory, self.step)

        def write() -> None:
            whole = manifest.Manifest(
                step=self.step,
                created=manifest.now(),
                files=files,
                leaves=verification.describe(self._shapes, self._wait_for_digests()),
                metrics=self._metrics,
            )
            self._check_writer()
            manifest.write(self._folder, whole)
            if self._copy is None:
                publish()
            else:
                self._copy.mirror.commit(self._folder, self._place(), publish)

        reason = self._on_first(write)
        if reason or self._copy is None:
            return reason
        # The step is in the store now. A host that cannot note that ends the run, since
        # its processes would see other steps than those of the rest.
        if self._copy.is_leader and self._channel.index != 0:
            self._copy.mirror.adopt(self._place(), publish)
        return self._channel.agree("")

    def _delete_unwanted(self) -> str:
        """Deletes what the policy does not keep, as process 0 decides for all hosts."""
        unwanted: list[int] = []

        def decide() -> None:
            self._check_writer()
            found = folders.list_steps(self._directory)
            unwanted.extend(step for step in found if step > self.step)
            # Damaged steps would count toward the policy in place of good ones.
            unwanted.extend(self._damaged.intersection(found) - {self.step})
            if self._policy is not None:
                unwanted.extend(
                    folders.unwanted(
                        self._directory, self._policy, self._bad_from, unwanted
                    )
                )

        reason = self._on_first(decide)
        steps = json.loads(self._channel.exchange(json.dumps(unwanted))[0])

        def delete() -> None:
            for step in steps:
                if (self._directory / str(step)).exists():
                    folders.delete(self._directory, step)

        return reason or self._on_leaders(delete)

    def _on_first(self, action: Callable[[], None]) -> str:
        """Runs `action` on process 0; all return its reason for failing, or ""."""
        with item_files.WriteAttempt() as attempt:
            if self._channel.index == 0:
                action()
        return self._channel.agree(attempt.reason)

    def _on_leaders(self, action: Callable[[], None]) -> str:
        """As `_on_first`, on the first process of every host with its own folder."""
        is_leader = self._channel.index == 0
        if self._copy is not None:
            is_leader = self._copy.is_leader
        with item_files.WriteAttempt() as attempt:
            if is_leader:
                action()
        return self._channel.agree(attempt.reason)

    def _fail(self, reason: str) -> str:
        """Removes the unfinished folder; logs and returns the failure as one line."""
        where = f"checkpoint step {self.step} in {self._directory} was not written"
        remedy = "free disk space or correct the folder's permissions"
        if self._copy is not None:
            remedy = "restore the access to the store"
        failure = f"{where} ({reason}); earlier steps are unchanged; {remedy}"
        with item_files.WriteAttempt() as attempt:
            self._check_writer()
        if attempt.error:
            failure = f"{where}: {attempt.error}"
        is_leader = self._copy.is_leader if self._copy else self._channel.index == 0
        # Another run that owns the folder may be writing to this name.
        if is_leader and not attempt.error:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._channel.index == 0:
            if not attempt.error:
                with (
                    item_files.WriteAttempt()
                ):  # the next write of the step tries again
                    self._discard()
            logger.error(failure)
        return failure
