"""Runs one run of a sweep to its end, wherever it was left: what every runner starts.

The rule and the pause are those of launch/restart.sh: again after exit codes that mean
it, and after no others.
"""

from __future__ import annotations

import logging
import os
import pathlib
import shlex
import subprocess
import sys
import time
from typing import IO

from glide_jax.runtime import lifecycle
from glide_jax.sweep import result, run_list
from glide_jax.sweep.state import RunRecord, exit_code

POLL_SECS = 0.1
GLIDE = (sys.executable, "-m", "glide_jax.cli.main")
PAUSE_VARIABLE = "GLIDE_JAX_RESTART_PAUSE_SECS"
NO_RESULT = 1  # the code of an attempt that ended well and left no result.json


def run(
    plan: run_list.Plan,
    run: run_list.SweepRun,
    root: pathlib.Path,
    stop: lifecycle.StopRequest,
    *,
    restarts: int,
) -> int:
    """Starts it until it is finished; returns how it ended, 42 where `stop` asked.

    A run that another process has is waited for.
    """
    entry = RunRecord(root, run.id)
    is_told = False
    while not entry.is_finished:
        with entry.locked() as lock:
            # Whoever had it may have finished since the look above.
            if entry.is_finished:
                break
            if lock is not None:
                return _until_its_end(plan, run, root, lock, stop, restarts=restarts)
        if not is_told:
            logging.info("%s is being run by another process: waiting", run.label)
            is_told = True
        if stop.requested:
            return lifecycle.ExitCode.PREEMPTED
        time.sleep(POLL_SECS)
    return lifecycle.ExitCode.OK


def _until_its_end(
    plan: run_list.Plan,
    run: run_list.SweepRun,
    root: pathlib.Path,
    lock: IO,
    stop: lifecycle.StopRequest,
    *,
    restarts: int,
) -> int:
    entry = RunRecord(root, run.id)
    words = run_list.arguments(plan, run, root)
    for restart in range(restarts + 1):
        if stop.requested:
            return lifecycle.ExitCode.PREEMPTED
        entry.begin()
        code = _start(words, entry, lock, stop)
        if code == lifecycle.ExitCode.OK:
            code = _collect(plan, entry, words)
        entry.end(code)
        if not lifecycle.is_retryable(code):
            return code
        if restart < restarts and not stop.requested:
            logging.warning(
                "%s: exit code %d: starting again (%d of %d)",
                *(run.label, code, restart + 1, restarts),
            )
            _pause(stop)
    return lifecycle.ExitCode.PREEMPTED if stop.requested else code


def _start(
    words: list[str], entry: RunRecord, lock: IO, stop: lifecycle.StopRequest
) -> int:
    """One attempt; a request to stop is handed on, and its end is waited for."""
    with entry.log.open("a") as log:
        now = time.strftime("%FT%TZ", time.gmtime())
        log.write(f"{now} {os.uname().nodename}: {shlex.join(['glide', *words])}\n")
        log.flush()
        process = subprocess.Popen(
            [*GLIDE, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock.fileno()],  # it holds the lock as long as it lives
        )
        code = _wait(process, stop)
        log.write(f"{time.strftime('%FT%TZ', time.gmtime())} exit code {code}\n")
    return code


def _wait(process: subprocess.Popen, stop: lifecycle.StopRequest) -> int:
    """Its exit code; where `stop` is asked for, it is asked as well."""
    is_asked = False
    while process.poll() is None:
        if stop.requested and not is_asked:
            process.terminate()
            is_asked = True
        time.sleep(POLL_SECS)
    return exit_code(process.returncode)


def _collect(plan: run_list.Plan, entry: RunRecord, words: list[str]) -> int:
    if plan.verb == "train":
        result.write(entry.result, result.of_training(entry.folder, words))
    if not entry.is_finished:
        logging.error("glide %s left no %s", plan.verb, entry.result)
        return NO_RESULT
    result.read(entry.result)
    return lifecycle.ExitCode.OK


def _pause(stop: lifecycle.StopRequest) -> None:
    stop.sleep(float(os.environ.get(PAUSE_VARIABLE, "10")))
