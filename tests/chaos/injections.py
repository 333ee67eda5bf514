"""What is done to a run, and how each of it may end.

Three kinds. What is done while the run stands still has to be noticed by its next
start; what it rides out must not end it; the others end it.
"""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import signal
import time
from collections.abc import Callable

from glide_jax.checkpoint import folders, manifest
from glide_jax.train import run_folder
from tests.chaos import disk as disks
from tests.chaos import training, world

# What came of it.
NOTHING_YET = "no older checkpoint yet, left alone"
FELL_BACK = "named, passed over"
MADE_UP_FOR = "went on from a copy, an older step or the store"
REFUSED = "refused with 2, mended"


class Injections:
    """Does what is asked for, by its name, where chance says.

    Each returns a word on what came of it, for the report's tally.
    """

    def __init__(
        self,
        rng: random.Random,
        workdir: pathlib.Path,
        shards: pathlib.Path,
        disk: disks.Disk,
        local_disks: pathlib.Path | None = None,
    ) -> None:
        self._rng, self._workdir, self._shards, self._disk = rng, workdir, shards, disk
        self._local_disks = local_disks
        self.standing = {
            "newest checkpoint: one bit flipped": lambda: self._damage(self._flip_bit),
            "newest checkpoint: a file cut short": lambda: self._damage(self._cut_file),
            "newest checkpoint: a file deleted": lambda: self._damage(os.remove),
            "a shard away at the start, then put back": self._take_shard,
            "a shard's head overwritten at the start, then mended": self._spoil_shard,
        }
        if local_disks is not None:
            self.standing |= {
                "a local disk emptied": self._empty_local_disk,
                "newest local step: one bit flipped": self._flip_local_bit,
            }
        self.ridden_out = {
            "disk full for a while": self._fill_disk,
            "a shard away for a moment while it is read": self._hide_shard,
            "a shard damaged for a moment while it is read": self._swap_shard,
        }
        self.ending = {
            "SIGTERM to all": self._terminate_all,
            "SIGTERM to one process": self._terminate_one,
            "SIGKILL of process 0": lambda run: self._kill(run, 0),
            "SIGKILL of process 1": lambda run: self._kill(run, 1),
            "SIGKILL of one process in a save": self._kill_in_a_save,
            "SIGKILL of one process in a start": self._kill_in_a_start,
        }
        self._away: dict[pathlib.Path, pathlib.Path] = {}

    def mend(self) -> None:
        """Restores all files that were removed or damaged."""
        for path, kept in self._away.items():
            kept.replace(path)
        self._away = {}
        self._disk.make_room()

    def _newest_file(self) -> pathlib.Path | None:
        """A file of the newest good checkpoint, if there is another to go back to."""
        folder, good = run_folder.checkpoints(self._workdir), []
        for step in folders.list_whole_steps(folder):
            listed = manifest.read(folder / str(step)).files
            if not manifest.find_damages(folder / str(step), listed):
                good.append(step)
        if len(good) < 2:
            return None
        found = (folder / str(good[-1])).rglob("*")
        return self._rng.choice(sorted(path for path in found if path.is_file()))

    def _damage(self, do: Callable[[pathlib.Path], None]) -> str:
        path = self._newest_file()
        if path is None:
            return NOTHING_YET
        do(path)
        return FELL_BACK

    def _flip_bit(self, path: pathlib.Path) -> None:
        content = bytearray(path.read_bytes())
        content[self._rng.randrange(len(content))] ^= 1 << self._rng.randrange(8)
        path.write_bytes(content)

    def _cut_file(self, path: pathlib.Path) -> None:
        path.write_bytes(path.read_bytes()[: self._rng.randrange(path.stat().st_size)])

    def _empty_local_disk(self) -> str:
        assert self._local_disks is not None  # it is not offered otherwise
        process = self._rng.randrange(training.PROCESSES)
        shutil.rmtree(training.disk_of(self._local_disks, process), ignore_errors=True)
        return MADE_UP_FOR

    def _flip_local_bit(self) -> str:
        assert self._local_disks is not None  # it is not offered otherwise
        parts = sorted(
            self._local_disks.rglob("*.part"),
            key=lambda path: int(path.name.partition(".")[0]),
        )
        if not parts:
            return NOTHING_YET
        self._flip_bit(parts[-1])
        return MADE_UP_FOR

    def _take_shard(self) -> str:
        self._set_aside()
        return REFUSED

    def _spoil_shard(self) -> str:
        path, kept = self._set_aside()
        path.write_bytes(b"\xff" * 512 + kept.read_bytes()[512:])
        return REFUSED

    def _set_aside(self) -> tuple[pathlib.Path, pathlib.Path]:
        path = world.shard(self._shards, self._rng.randrange(world.SHARDS))
        kept = path.with_suffix(".kept")
        path.rename(kept)
        self._away[path] = kept
        return path, kept

    def _fill_disk(self, run: training.Training) -> str:
        before = run.count(" was not written ")
        self._disk.fill([run.pid(i) for i in range(training.PROCESSES)])
        is_told = run.wait_until(
            lambda: run.count(" was not written ") > before, "a save that fails"
        )
        if is_told:
            time.sleep(self._rng.uniform(0, 1))
        self._disk.make_room()
        return "a save failed, room was made" if is_told else "its rows found no room"

    def _hide_shard(self, run: training.Training) -> str:
        self._set_aside()
        time.sleep(self._rng.uniform(0.2, 1.5))
        self.mend()
        return "waited for it"

    def _swap_shard(self, run: training.Training) -> str:
        self._spoil_shard()
        time.sleep(self._rng.uniform(0.2, 1.5))
        self.mend()
        return "waited for it"

    def _terminate_all(self, run: training.Training) -> str:
        run.signal(signal.SIGTERM)
        return ""

    def _terminate_one(self, run: training.Training) -> str:
        run.signal(signal.SIGTERM, self._rng.randrange(training.PROCESSES))
        return ""

    def _kill(self, run: training.Training, process: int) -> str:
        run.signal(signal.SIGKILL, process)
        return ""

    def _kill_in_a_save(self, run: training.Training) -> str:
        run.wait_until(run.is_saving, "a save")
        run.signal(signal.SIGKILL, self._rng.randrange(training.PROCESSES))
        return "left half a checkpoint" if run.is_saving() else "left a whole one"

    def _kill_in_a_start(self, run: training.Training) -> str:
        time.sleep(self._rng.uniform(1, 8))
        run.signal(signal.SIGKILL, self._rng.randrange(training.PROCESSES))
        return ""
