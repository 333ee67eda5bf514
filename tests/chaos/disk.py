"""A disk that can be filled to the last byte while a run writes to it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import subprocess
from collections.abc import Iterable
from typing import Protocol

SIZE_MB = 64


class Disk(Protocol):
    """Where the disturbed run writes.

    Attributes:
      told: what it is, for the report.
    """

    told: str

    def fill(self, processes: Iterable[int]) -> None:
        """Leaves these processes no room."""

    def make_room(self) -> None:
        """Undoes it."""


class SmallDisk:
    """A file system in memory: full means full, for every file (ENOSPC)."""

    told = f"a tmpfs of {SIZE_MB} MiB, filled to the last byte (ENOSPC)"

    def __init__(self, folder: pathlib.Path) -> None:
        size = f"size={SIZE_MB}m"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "none", str(folder)], check=True
        )
        self._ballast = folder / "ballast"

    def fill(self, processes: Iterable[int]) -> None:
        """Writes until nothing more can be."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def make_room(self) -> None:
        """Deletes what `fill` wrote."""
        self._ballast.unlink(missing_ok=True)


class SmallFiles:
    """For those who may mount nothing: no file of a process may grow (EFBIG)."""

    told = "a limit on the size of files, RLIMIT_FSIZE of the processes (EFBIG)"

    def __init__(self) -> None:
        self._limited: list[int] = []

    def fill(self, processes: Iterable[int]) -> None:
        """No file of theirs may grow beyond a page from now on."""
        for process in processes:
            _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
            resource.prlimit(process, resource.RLIMIT_FSIZE, (1 << 12, hard))
            self._limited.append(process)

    def make_room(self) -> None:
        """They may again, as far as they live."""
        for process in self._limited:
            with contextlib.suppress(ProcessLookupError):
                _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
                resource.prlimit(process, resource.RLIMIT_FSIZE, (hard, hard))
        self._limited = []


def make(folder: pathlib.Path) -> Disk:
    """A small disk on the folder where this process may mount one.

    launch/chaos.sh gives it a mount namespace of its own then, and says so.
    """
    may_mount = os.environ.get("GLIDE_JAX_CHAOS_MOUNTS") == "own"
    return SmallDisk(folder) if may_mount else SmallFiles()
