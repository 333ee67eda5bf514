"""Runs a sweep on this machine, some runs at a time."""

from __future__ import annotations

import collections
import logging
import os
import pathlib
import subprocess
import time
from collections.abc import Sequence

from glide_jax.runtime import lifecycle, wording
from glide_jax.sweep import run_list, run_supervisor
from glide_jax.sweep.state import RunRecord, exit_code

GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"


def run(
    runs: Sequence[run_list.SweepRun],
    root: pathlib.Path,
    words: Sequence[str],
    stop: lifecycle.StopRequest,
    *,
    parallel: int,
) -> int:
    """Runs `glide WORDS --only=ID` for each run, `parallel` at a time.

    A request to stop is passed on to the runs.

    Returns:
      0; 42 after a request to stop; else the code of a run that failed, or if none
      failed, a retryable code.
    """
    waiting = collections.deque(runs)
    slots: dict[int, tuple[run_list.SweepRun, subprocess.Popen]] = {}
    codes: list[int] = []
    is_stopping = False
    while slots or (waiting and not stop.requested):
        for slot in range(parallel):
            if waiting and slot not in slots and not stop.requested:
                started = waiting.popleft()
                slots[slot] = started, _start(started, words, slot, parallel)
        if stop.requested and not is_stopping:
            for _, process in slots.values():
                process.terminate()
            is_stopping = True
        for slot, (ended, process) in list(slots.items()):
            if process.poll() is not None:
                del slots[slot]
                codes.append(exit_code(process.returncode))
                _log_result(ended, root, codes, len(runs))
        time.sleep(run_supervisor.POLL_SECS)
    if stop.requested:
        logging.warning(
            "stopped by %s; %s not started; the same command continues",
            *(stop.signal_name, wording.counted(len(waiting), "run")),
        )
    return _final(codes, stop)


def environment(slot: int, parallel: int) -> dict[str, str]:
    """Returns the environment of a slot, with its share of CUDA_VISIBLE_DEVICES."""
    gpus = os.environ.get(GPUS_VARIABLE, "").split(",")
    own = gpus[slot::parallel]
    if parallel > 1 and len(gpus) >= parallel:
        return {**os.environ, GPUS_VARIABLE: ",".join(own)}
    return dict(os.environ)


def _start(
    run: run_list.SweepRun, words: Sequence[str], slot: int, parallel: int
) -> subprocess.Popen:
    logging.info("started: %s (%s)", run.label, run.id)
    verb, *flags = words
    return subprocess.Popen(
        [*run_supervisor.GLIDE, verb, f"--only={run.id}", *flags],
        stdin=subprocess.DEVNULL,
        env=environment(slot, parallel),
    )


def _log_result(
    run: run_list.SweepRun, root: pathlib.Path, codes: list[int], count: int
) -> None:
    record = RunRecord(root, run.id)
    done = sum(code == lifecycle.ExitCode.OK for code in codes)
    logging.info(
        "%s: %s (%s) in %.0f s; %d of %d finished",
        *(record.state(), run.label, run.id, record.seconds(), done, count),
    )
    if codes[-1] != lifecycle.ExitCode.OK:
        logging.warning(
            "%s (log: %s)", record.reason() or "it printed nothing", record.log
        )


def _final(codes: Sequence[int], stop: lifecycle.StopRequest) -> int:
    if stop.requested:
        return lifecycle.ExitCode.PREEMPTED
    bad = [code for code in codes if code != lifecycle.ExitCode.OK]
    return min(bad, key=lifecycle.is_retryable) if bad else lifecycle.ExitCode.OK
