"""`launch/chaos.sh`: disturbs a run, compares it with an undisturbed one, reports."""

from __future__ import annotations

import argparse
import pathlib
import random
import signal
import sys
import tempfile
from types import FrameType
from typing import NoReturn

FLAGS = "--minutes=N --seed=N --local_every=N --output=FOLDER, or --kills=N"


class _Parser(argparse.ArgumentParser):
    """Tells of a mistake in one line, as the launchers do."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"chaos.sh: {message}; use {FLAGS}\n")


def main(arguments: list[str]) -> int:
    """The exit code: 0 if the runs are equal, 1 if not, 2 for a mistake."""
    parser = _Parser(prog="chaos.sh", add_help=False)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--local_every", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path)
    given = parser.parse_args(arguments)
    output = given.output or pathlib.Path(tempfile.mkdtemp(prefix="glide_jax_chaos."))
    if output.exists() and any(output.iterdir()):
        parser.error(f"--output={output} is not an empty folder")
    if given.local_every < 0 or given.local_every >= 10:
        parser.error(f"--local_every={given.local_every} is not from 0 to 9")
    if given.kills < 0:
        parser.error(f"--kills={given.kills} is less than none")
    if given.minutes < 0:
        parser.error(f"--minutes={given.minutes:g} is less than none")
    output = output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    print(f"seed {given.seed}; report, runs and logs in {output}", flush=True)
    signal.signal(signal.SIGTERM, _end)

    # JAX takes seconds to come, a mistake is told at once.
    from tests.chaos import lost_steps, report, training
    from tests.chaos import soak as soaks

    def say(line: str) -> None:
        print(line, flush=True)

    if given.kills:
        return lost_steps.run(output, given.seed, given.kills, say)
    soak = soaks.Soak(output, given.seed, given.local_every, say)
    num_steps, same, wrong = 0, {}, ""
    try:
        soak.disturb(given.minutes)
        num_steps = soak.finish()
        same = soak.make_undisturbed(num_steps)
    except (training.SoakError, AssertionError) as error:
        wrong = str(error)
        print(wrong, file=sys.stderr)
    found = report.describe(
        soak,
        seed=given.seed,
        minutes=given.minutes,
        local_every=given.local_every,
        num_steps=num_steps,
        same=same,
        wrong=wrong,
    )
    report.write(output, found)
    print(report.page(found), flush=True)
    return 1 if wrong else 0


def _end(number: int, frame: FrameType | None) -> None:
    """So that the processes started are ended as this one is."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
