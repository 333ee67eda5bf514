"""Finds a process's part of a local step: on its own disk, or at a peer."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from glide_jax.checkpoint import item_files, local_files, manifest, peer_copies

logger = logging.getLogger(__name__)


class OtherRunError(Exception):
    """Internal: local steps cannot continue this run; the reason."""


class Search:
    """The disks of a run, as the processes have told each other at a start."""

    def __init__(
        self,
        folder: pathlib.Path,
        process: int,
        peers: Sequence[peer_copies.Peer],
        secret: str,
        abstract_items: Mapping[str, Any],
        check: Callable[[int, Mapping[str, Any]], str],
    ) -> None:
        """Takes what a part must fit.

        Args:
          folder: of the run on this host; that of this process is below it.
          process: index of this process.
          peers: all processes by index.
          secret: of this start.
          abstract_items: trees of jax.ShapeDtypeStruct with shardings.
          check: (step, metadata) -> why they cannot continue this run, or "".
        """
        self._folder, self._own = folder, folder / f"process_{process}"
        self._index, self._count = process, len(peers)
        self._peers, self._secret = peers, secret
        self._abstract_items, self._check = abstract_items, check

    def load(self, step: int, token: str) -> tuple[local_files.Header, np.ndarray]:
        """This process's part of a step, from its own disk or from a peer.

        Raises:
          OtherRunError: it was written by other settings or another layout.
          DamagedError: no disk has the whole part.
        """
        files = [part for peer in self._peers for part in peer.files]
        there = [part for part in files if (part.step, part.token) == (step, token)]
        counts = {part.processes for part in there}
        if counts != {self._count}:
            written_by = ", ".join(map(str, sorted(counts)))
            raise OtherRunError(
                f"was written by {written_by} processes, and this run has {self._count}"
            )
        part = local_files.Part(step, self._index, self._count, token)
        path, failures = self._own / part.name, []
        for name, bring in self._sources(part):
            with item_files.WriteAttempt() as attempt:
                bring(path)
                header, payload = local_files.read(path)
                if header.part != part:
                    raise manifest.DamagedError([f"is of step {header.part.step}"])
            if not attempt.reason:
                if failures:
                    logger.warning(
                        *("local checkpoint step %d comes from %s: %s", step, name),
                        "; ".join(failures),
                    )
                self._check_continues(header)
                return header, payload
            failures.append(f"{name} {attempt.error}")
        reason = "; ".join(failures) or "is on no disk"
        raise manifest.DamagedError([f"the part of process {self._index}: {reason}"])

    def _sources(
        self, part: local_files.Part
    ) -> Iterator[tuple[str, Callable[[pathlib.Path], None]]]:
        """Where the part is: (name, a function that brings it to a path)."""
        found = local_files.find(self._folder)
        here = [path for path, one in found.items() if one == part]
        for path in sorted(here, key=lambda path: path.parent != self._own):
            yield str(path), _copier(path)
        for process, peer in enumerate(self._peers):
            if process != self._index and part in peer.files:
                yield f"process {process}", self._fetcher(process, part)

    def _fetcher(
        self, process: int, part: local_files.Part
    ) -> Callable[[pathlib.Path], None]:
        address = self._peers[process].address
        assert address is not None  # several processes have servers

        def fetch(path: pathlib.Path) -> None:
            peer_copies.get(address, self._secret, part, path)
            # A warning, since only these are logged by all processes.
            logger.warning(
                "local checkpoint step %d is from process %d", part.step, process
            )

        return fetch

    def _check_continues(self, header: local_files.Header) -> None:
        """Raises OtherRunError if the part is not of this run and layout."""
        mesh = local_files.mesh_of(self._abstract_items)
        if header.mesh != mesh:
            raise OtherRunError(
                f"was written on mesh {header.mesh}, and this run has {mesh}"
            )
        reason = self._check(header.part.step, header.meta)
        if reason:
            raise OtherRunError(reason)
        if set(header.shards) != set(local_files.wanted_shards(self._abstract_items)):
            raise OtherRunError("has other shards than the devices of this run need")


def _copier(source: pathlib.Path) -> Callable[[pathlib.Path], None]:
    """Copies a file of another process of this host; the own one stays as it is."""

    def copy(path: pathlib.Path) -> None:
        if path != source:
            with source.open("rb") as file:
                local_files.receive(path, source.stat().st_size, file.read)

    return copy
