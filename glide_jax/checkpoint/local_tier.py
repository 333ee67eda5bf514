"""A training state every few steps on each host's own disk, for a quick resumption.

Each process writes its part of the state (`local_files`) in a thread, and sends a copy
to another host (`peer_copies`). After a loss all processes agree on the newest step of
which every part is whole somewhere. A step that cannot be written, sent or read costs
that step and no more: the checkpoints of the shared disk are written all the same.

    FOLDER/process_0/   what process 0 keeps: its own parts, and copies of others
"""

from __future__ import annotations

import hashlib
import json
import logging
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from glide_jax.checkpoint import (
    item_files,
    kv_exchange,
    lineage,
    local_files,
    local_search,
    peer_copies,
    verification,
)
from glide_jax.errors import UserError
from glide_jax.runtime import files

logger = logging.getLogger(__name__)
# How long the end of a run waits for a local step that is still being written.
_END_SECS = 10.0
# In the folder of a process: its newest start, and its host.
_MARK = "host"


class LocalTier:
    """The local steps of a run; all processes call each method in the same order.

    Of its own parts a process keeps two: the newest, and the newest that all processes
    have written. A copy is kept as long as its original.

    Attributes:
      every_steps: steps between two local steps.
    """

    def __init__(
        self, folder: pathlib.Path, workdir: pathlib.Path, every_steps: int
    ) -> None:
        """Opens the local steps.

        Args:
          folder: of this run on this host's own disk.
          workdir: of the run, which all processes share.
          every_steps: steps between two local steps.

        Raises:
          UserError: a process cannot write to its folder.
        """
        self.every_steps = every_steps
        self._workdir, self._folder = workdir, folder
        self._channel = kv_exchange.KvExchange("local tier")
        self._index, self._count = self._channel.index, self._channel.count
        self._own = folder / f"process_{self._index}"
        self._lineage = lineage.parse(self._from_first(lineage.read(workdir).to_text()))
        self._secret = self._from_first(secrets.token_hex(16))
        self._server: peer_copies.Server | None = None
        self._open_folder()
        self._peers = self._meet()
        self._hosts = [peer.host for peer in self._peers]
        self._keeper = peer_copies.keeper_of(self._index, self._hosts)
        self._copy: local_files.HostCopy | None = None
        self._thread: threading.Thread | None = None
        self._newest = 0  # of this process, in this start
        self._whole = 0  # the newest that every process has written
        self._written = self._left_out = 0
        self._stall_secs = 0.0
        self._writes = _Series("local checkpoint step %d was not written")
        self._copies = _Series("local checkpoint step %d has no copy on another host")
        self._skips = _Series("local checkpoint step %d is left out")
        if self._keeper is None:
            logger.info("local checkpoints have no copy: the run has one process")

    def _from_first(self, text: str) -> str:
        return self._channel.exchange(text)[0]

    def _open_folder(self) -> None:
        """Makes the folder of this process, and removes what a killed one has left."""
        host = socket.gethostname()
        start = hashlib.sha256(self._secret.encode()).hexdigest()
        with item_files.WriteAttempt() as attempt:
            self._own.mkdir(parents=True, exist_ok=True, mode=0o700)
            for draft in self._own.glob(".*.tmp"):
                draft.unlink()
            files.write_text(self._own / _MARK, f"{start} {host}")
        problem = attempt.reason and f"cannot be written on {host} ({attempt.reason})"
        problem = self._channel.agree(problem)
        if not problem:
            marks = [path.read_text() for path in self._folder.glob(f"*/{_MARK}")]
            found = {mark.split()[1] for mark in marks if mark.startswith(start)}
            others = ", ".join(sorted(found - {host}))
            problem = others and f"is one folder for {host} and {others}"
            problem = self._channel.agree(problem)
        if problem:
            raise UserError(
                f"checkpoint.local_dir: {self._folder} {problem}; name a folder of "
                "each host's own disk, or use checkpoint.local_every_steps=0"
            )

    def _meet(self) -> list[peer_copies.Peer]:
        """Starts the server of this process, and learns of all processes."""
        if self._count > 1:
            host = peer_copies.own_host(self._channel)
            self._server = peer_copies.Server(self._own, host, self._secret)
        peer = peer_copies.Peer(
            host=socket.gethostname(),
            place=f"{socket.gethostname()}:{self._folder}",
            files=list(local_files.find(self._folder).values()),
            address=self._server.address if self._server else None,
        )
        found = self._channel.exchange(json.dumps(peer))
        return [peer_copies.Peer.parse(text) for text in found]

    def save(
        self,
        step: int,
        items: Mapping[str, Any],
        meta: Mapping[str, Any],
        publish: Callable[[], None] = lambda: None,
    ) -> bool:
        """Starts to write a local step; False if an earlier one is not finished.

        Returns once the arrays are copied to the host, so that donating them next is
        safe. A failure is logged.

        Args:
          step: step of the state.
          items: names to pytrees of arrays, on one mesh.
          meta: JSON.
          publish: called in the thread before the step appears; may raise.
        """
        start = time.monotonic()
        is_busy = self._thread is not None and self._thread.is_alive()
        facts = self._gather([is_busy, self._newest])
        busy, newest = facts[:, 0], facts[:, 1]
        if newest.min() == newest.max():
            self._whole = int(newest[0])
        if busy.any():
            slow = ", ".join(map(str, np.flatnonzero(busy)))
            reason = f"an earlier one is still being written or sent by process {slow}"
            self._left_out += 1
            if self._index == 0:
                self._skips.note(step, reason)
        else:
            self._skips.note(step, "")
            self._start(step, items, meta, publish)
        self._stall_secs += time.monotonic() - start
        return not busy.any()

    def _gather(self, values: list[Any]) -> np.ndarray:
        """The whole numbers of all processes (process, value)."""
        mine = np.array(values, np.int32)
        if self._count == 1:
            return mine[None]
        # By the devices, whose next step all processes start only after this.
        return np.asarray(multihost_utils.process_allgather(mine))

    def _start(
        self,
        step: int,
        items: Mapping[str, Any],
        meta: Mapping[str, Any],
        publish: Callable[[], None],
    ) -> None:
        if self._copy is None:
            self._copy = local_files.HostCopy(items)
        self._copy.take(items)
        part = local_files.Part(step, self._index, self._count, self._lineage.token)
        header = local_files.Header(part, self._copy.mesh, meta, self._copy.shards)
        keep = {self._whole} - {0}
        # A daemon, since the disk or a peer may not respond.
        self._thread = threading.Thread(
            target=self._write,
            args=(header, self._copy.payload, keep, publish),
            daemon=True,
        )
        self._thread.start()

    def _write(
        self,
        header: local_files.Header,
        payload: np.ndarray,
        keep: set[int],
        publish: Callable[[], None],
    ) -> None:
        part, line, digest = header.part, b"", b""
        with item_files.WriteAttempt() as attempt:
            line, path = header.line(), self._own / part.name
            digest = local_files.write(path, line, payload, publish)
            peer_copies.delete_others(self._own, self._index, {part.step, *keep})
            self._newest = part.step
            self._written += 1
        reason = attempt.reason and f"{attempt.reason}; training continues"
        self._writes.note(part.step, reason)
        if attempt.reason or self._keeper is None:
            return
        address = self._peers[self._keeper].address
        assert address is not None  # several processes have servers
        with item_files.WriteAttempt() as attempt:
            content = (*local_files.chunks(line, payload), memoryview(digest))
            peer_copies.put(address, self._secret, part, content, keep)
        reason = attempt.reason and f"process {self._keeper}: {attempt.reason}"
        self._copies.note(part.step, reason)

    def restore(
        self,
        abstract_items: Mapping[str, Any],
        newer_than: int,
        check: Callable[[int, Mapping[str, Any]], str],
    ) -> verification.Restored | None:
        """Restores the newest whole local step after `newer_than`, or None.

        Must be called once at a start, before the first `save`: the run continues from
        the step that it returns, or from `newer_than`, and local steps that are not of
        its past are deleted.

        Args:
          abstract_items: trees of jax.ShapeDtypeStruct with shardings.
          newer_than: the newest step of the shared disk; 0 if there is none.
          check: (step, metadata) -> why they cannot continue this run, or "".
        """
        restored = self._find(abstract_items, newer_than, check)
        self._go_on_from(restored.step if restored else newer_than)
        self._newest = self._whole = restored.step if restored else 0
        return restored

    def _find(
        self,
        abstract_items: Mapping[str, Any],
        newer_than: int,
        check: Callable[[int, Mapping[str, Any]], str],
    ) -> verification.Restored | None:
        search = local_search.Search(
            self._folder, self._index, self._peers, self._secret, abstract_items, check
        )
        for step, token in self._steps_after(newer_than):
            found = None
            with item_files.WriteAttempt() as attempt:
                found = search.load(step, token)
            is_other = isinstance(attempt.error, local_search.OtherRunError)
            reason = attempt.reason and (str(attempt.error) or attempt.reason)
            told = self._channel.exchange(json.dumps([is_other, reason]))
            failures = [one for one in map(json.loads, told) if one[1]]
            if found is not None and not failures:
                items = local_files.arrays(abstract_items, *found)
                return verification.Restored(step, items, dict(found[0].meta))
            is_other, reason = max(failures)
            if self._index == 0:
                form = "local checkpoint step %d is skipped: %s"
                if is_other:
                    form = "the local tier is ignored: its step %d %s"
                logger.warning(form, step, reason)
            if is_other:
                break
        return None

    def _steps_after(self, step: int) -> list[tuple[int, str]]:
        """(step, token) of what is on any disk and of the run's past, newest first."""
        parts = {part for peer in self._peers for part in peer.files}
        found = {(part.step, part.token) for part in parts if part.step > step}
        return sorted(one for one in found if self._lineage.has(one[1], one[0]))[::-1]

    def discard_after(self, step: int) -> None:
        """Deletes later local steps, for a run that goes back to `step`."""
        self.wait()
        self._channel.exchange("")
        self._go_on_from(step)
        self._newest = self._whole = 0

    def _go_on_from(self, step: int) -> None:
        """Begins the part of the run after `step`; deletes what is not of its past."""
        text = self._lineage.cut(step).begin().to_text()
        self._lineage = lineage.parse(self._from_first(text))
        if self._index == 0:
            lineage.write(self._workdir, self._lineage)
        self._channel.exchange("")
        mine = self._peers[self._index].place
        # The folders of processes that are on another host now are nobody's.
        users = {
            f"process_{process}"
            for process, peer in enumerate(self._peers)
            if peer.place == mine and process != self._index
        }
        deleted = 0
        for path, part in local_files.find(self._folder).items():
            if path.parent.name not in users and not self._is_kept(path, part):
                path.unlink(missing_ok=True)
                deleted += 1
        if deleted:
            logger.info(
                "%d local checkpoint files of other steps, hosts or runs are deleted",
                deleted,
            )

    def _is_kept(self, path: pathlib.Path, part: local_files.Part) -> bool:
        if path.parent != self._own or part.processes != self._count:
            return False
        is_kept_here = self._index in (
            part.process,
            peer_copies.keeper_of(part.process, self._hosts),
        )
        return is_kept_here and self._lineage.has(part.token, part.step)

    def delete(self) -> None:
        """Deletes all local steps, once the run has ended."""
        self.wait()
        # Until then a peer may be sending a copy.
        self._channel.exchange("")
        for path in local_files.find(self._folder):
            if path.parent == self._own:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Waits a moment for the newest step, and takes no more copies."""
        self.wait(_END_SECS)
        if self._server is not None:
            self._server.close()
        if self._index == 0 and self._copy is not None:
            logger.info(
                "local checkpoints: %d written, %d left out, %d of %.3g MiB each "
                "process keeps at most; training waited %.2f s for them",
                self._written,
                self._left_out,
                2 if self._keeper is None else 4,
                self._copy.payload.size / 2**20,
                self._stall_secs,
            )

    def wait(self, seconds: float | None = None) -> None:
        """Waits until the newest local step is written and sent, or for a time."""
        if self._thread is not None:
            self._thread.join(seconds)


class _Series:
    """Logs the first of several equal problems in a row, and how many there were."""

    def __init__(self, message: str) -> None:
        self._message, self._count = message, 0

    def note(self, step: int, reason: str) -> None:
        """Notes how a step went; "" for well."""
        message = self._message % step
        if reason and not self._count:
            logger.warning("%s: %s", message, reason)
        if not reason and self._count > 1:
            logger.warning("%s: no longer so, after %d in a row", message, self._count)
        self._count = self._count + 1 if reason else 0
