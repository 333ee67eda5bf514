"""Disturbs a run for some minutes, lets it end, and makes it once more undisturbed."""

from __future__ import annotations

import collections
import contextlib
import itertools
import pathlib
import random
import shutil
import time
from collections.abc import Iterable, Iterator

from glide_jax.checkpoint import folders
from glide_jax.runtime import lifecycle
from glide_jax.train import run_folder
from tests.chaos import disk as disks
from tests.chaos import equality, injections, training, world
from tests.train import small_runs

ENDLESS_STEPS = 1_000_000
# Made in peace once the time is up.
LAST_STEPS = 15
# Of the starts, that something is done before, in and to the end of.
SHARES = (0.6, 0.6, 1.0)
USER_ERROR = int(lifecycle.ExitCode.USER_ERROR)


class Soak:
    """One run under all that the injections do.

    Attributes:
      tally: by injection, how often which exit code or outcome followed.
      starts: of launch/local.sh, for the disturbed run.
      codes: how often each exit code ended one of them.
    """

    def __init__(
        self, output: pathlib.Path, seed: int, local_every: int = 0, say=print
    ) -> None:
        self._output, self._rng, self._say = output, random.Random(seed), say
        self._workdir = output / "disk" / "run"
        self._workdir.parent.mkdir()
        self.disk = disks.make(self._workdir.parent)
        shards = output / "shards"
        world.write_shards(shards)
        config = world.make_config(output, ENDLESS_STEPS, local_every)
        # Not on the disk that is filled.
        self._local_disks = output / "local" if local_every else None
        self._config = config
        self._experiment = output / "experiment.py"
        small_runs.write_experiment(self._experiment, config)
        self._do = injections.Injections(
            self._rng, self._workdir, shards, self.disk, self._local_disks
        )
        self.tally: dict[str, collections.Counter[str]] = {
            name: collections.Counter()
            for kind in (self._do.standing, self._do.ridden_out, self._do.ending)
            for name in kind
        }
        self.codes: collections.Counter[int] = collections.Counter()
        self.starts = 0
        self._is_unseen = False  # damage of a checkpoint, by any start until now

    def disturb(self, minutes: float) -> None:
        """Starts it again and again until the time is up."""
        decks = [
            _deal(kind, self._rng)
            for kind in (self._do.standing, self._do.ridden_out, self._do.ending)
        ]
        deadline = time.monotonic() + 60 * minutes
        while time.monotonic() < deadline:
            standing, ridden_out, ending = (
                next(deck) if self._rng.random() < share else ""
                for deck, share in zip(decks, SHARES, strict=True)
            )
            self._disturb_start(standing, ridden_out, ending)
        self._do.mend()

    def _disturb_start(self, standing: str, ridden_out: str, ending: str) -> None:
        """One start, with what is done before, in and to it."""
        outcome = self._do.standing[standing]() if standing else ""
        if outcome == injections.REFUSED:
            self._check_refused(standing)
        self._is_unseen |= outcome == injections.FELL_BACK
        found = ""
        with self._started() as run:
            is_early = ending.endswith("in a start")
            is_up = not is_early and run.wait_for_rows(self._rng.randint(1, 3))
            if is_up and self._is_unseen:
                self._check(run, run.count(" is skipped: "), "saw no damage")
                self._is_unseen = False
            if is_up and ridden_out:
                self.tally[ridden_out][self._do.ridden_out[ridden_out](run)] += 1
            if not run.is_over:
                time.sleep(self._rng.uniform(0, 1))
                found = self._do.ending[ending](run)
            code = self._wait(run)
            if code == USER_ERROR:  # a disk that is full is the user's to empty
                is_full = run.count("No space left") + run.count("File too large")
                self._check(run, is_full and ridden_out.startswith("disk"), "ended")
            else:
                self._check(run, lifecycle.is_retryable(code), f"ended with {code}")
                self.tally[ending][f"{code}, {found}" if found else str(code)] += 1
        if outcome:
            self.tally[standing][outcome] += 1
        done = "; ".join(filter(None, (standing, is_up and ridden_out, ending)))
        self._say(f"{self.starts}: {done}: exit code {code}, {self._newest()} steps")

    def _check_refused(self, standing: str) -> None:
        """A start with a shard that is not whole ends with one line, which names it."""
        with self._started() as run:
            code = self._wait(run)
            is_told = run.count(".tar") and not run.count("Traceback")
            self._check(run, code == USER_ERROR and is_told, f"{standing}: {code}")
        self._do.mend()

    def finish(self) -> int:
        """Lets the run end undisturbed; returns its number of steps."""
        num_steps = self._newest() + LAST_STEPS
        with self._started(f"--config.train.num_steps={num_steps}") as run:
            self._check(run, self._wait(run) == 0, "did not end well")
            is_seen = not self._is_unseen or run.count(" is skipped: ")
            self._check(run, is_seen, "saw no damage")
        return num_steps

    def make_undisturbed(self, num_steps: int) -> dict[str, int]:
        """Makes the run in one go; returns how much of the two is the same.

        Raises:
          AssertionError: naming what is not.
        """
        workdir = self._output / "undisturbed"
        flags = (
            f"--config.train.num_steps={num_steps}",
            f"--config.checkpoint.every_steps={num_steps}",
            "--config.checkpoint.local_every_steps=0",
        )
        logs = self._output / "logs" / "undisturbed"
        with training.Training(self._experiment, workdir, logs, *flags) as run:
            self._check(run, self._wait(run) == 0, "the undisturbed run failed")
        # Off the small disk, which goes with this process.
        disturbed = shutil.copytree(self._workdir, self._output / "disturbed")
        return equality.check_same(self._config, workdir, disturbed)

    @contextlib.contextmanager
    def _started(self, *flags: str) -> Iterator[training.Training]:
        self.starts += 1
        logs = self._output / "logs" / f"start{self.starts:03d}"
        with training.Training(
            *(self._experiment, self._workdir, logs, *flags), disks=self._local_disks
        ) as run:
            yield run

    def _wait(self, run: training.Training) -> int:
        code = run.wait()
        self.codes[code] += 1
        return code

    def _newest(self) -> int:
        steps = folders.list_whole_steps(run_folder.checkpoints(self._workdir))
        return max(steps, default=0)

    @staticmethod
    def _check(run: training.Training, is_right: object, wrong: str) -> None:
        if not is_right:
            raise training.SoakError(f"{wrong}; {run.told()}")


def _deal(names: Iterable[str], rng: random.Random) -> Iterator[str]:
    """All of them in a random order, then again: none is left out for long."""
    for _ in itertools.count():
        yield from rng.sample(sorted(names), k=len(list(names)))
