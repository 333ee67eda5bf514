"""Runs one run of a sweep until it ends; every runner starts this.

The rule of restarts and the pause between them are those of launch/restart.sh: a run is
restarted after retryable exit codes only.
"""

from __future__ import annotations

import logging
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO

from glide_jax.runtime import lifecycle
from glide_jax.sweep import result, run_list
from glide_jax.sweep.state import RunRecord, exit_code

POLL_SECS = 0.1
GLIDE = (sys.executable, "-m", "glide_jax.cli.main")
PAUSE_VARIABLE = "GLIDE_JAX_RESTART_PAUSE_SECS"
NO_RESULT = 1  # exit code of an attempt that succeeded without a result.json


def run(
    plan: run_list.Plan,
    run: run_list.SweepRun,
    root: pathlib.Path,
    stop: lifecycle.StopRequest,
    *,
    restarts: int,
) -> int:
    """Starts a run until it is finished; returns its exit code, 42 after a stop.

    If another process runs it, this waits.
    """
    record = RunRecord(root, run.id)
    is_logged = False
    while not record.is_finished:
        with record.locked() as lock:
            # Another process may have finished it in the meantime.
            if record.is_finished:
                break
            if lock is not None:
                return _run_until_end(plan, run, root, lock, stop, restarts=restarts)
        if not is_logged:
            logging.info("%s is being run by another process: waiting", run.label)
            is_logged = True
        if stop.requested:
            return lifecycle.ExitCode.PREEMPTED
        time.sleep(POLL_SECS)
    return lifecycle.ExitCode.OK


def assist(
    plan: run_list.Plan,
    run: run_list.SweepRun,
    root: pathlib.Path,
    stop: lifecycle.StopRequest,
    *,
    restarts: int,
    process_id: int,
) -> int:
    """Runs a run's command as one of several processes; returns its exit code.

    Process 0 calls `run`, which keeps the record. This process starts and restarts the
    command by the same rule, and logs it to ROOT/logs/ID.N.log.
    """
    record = RunRecord(root, run.id)
    log = record.log.with_suffix(f".{process_id}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    words = run_list.arguments(plan, run, root)
    code = lifecycle.ExitCode.OK
    for restart in range(restarts + 1):
        if record.is_finished:
            return lifecycle.ExitCode.OK
        if stop.requested:
            return lifecycle.ExitCode.PREEMPTED
        code = _start(words, log, (), stop)
        if not lifecycle.is_retryable(code):
            return code
        if restart < restarts:
            _pause(stop)
    return code


def _run_until_end(
    plan: run_list.Plan,
    run: run_list.SweepRun,
    root: pathlib.Path,
    lock: IO,
    stop: lifecycle.StopRequest,
    *,
    restarts: int,
) -> int:
    """Restarts a run while its exit code is retryable; returns the last code."""
    record = RunRecord(root, run.id)
    words = run_list.arguments(plan, run, root)
    code = lifecycle.ExitCode.PREEMPTED
    for restart in range(restarts + 1):
        if stop.requested:
            return lifecycle.ExitCode.PREEMPTED
        record.begin()
        # The process holds the lock until it ends.
        code = _start(words, record.log, (lock.fileno(),), stop)
        if code == lifecycle.ExitCode.OK:
            code = _collect(plan, record, words)
        record.end(code)
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
    words: list[str],
    path: pathlib.Path,
    open_files: Sequence[int],
    stop: lifecycle.StopRequest,
) -> int:
    """Runs one attempt; a request to stop is passed on, and the end is awaited."""
    with path.open("a") as log:
        now = time.strftime("%FT%TZ", time.gmtime())
        log.write(f"{now} {os.uname().nodename}: {shlex.join(['glide', *words])}\n")
        log.flush()
        process = subprocess.Popen(
            [*GLIDE, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=open_files,
        )
        code = _wait(process, stop)
        log.write(f"{time.strftime('%FT%TZ', time.gmtime())} exit code {code}\n")
    return code


def _wait(process: subprocess.Popen, stop: lifecycle.StopRequest) -> int:
    """Returns the exit code; a request to stop is passed on to the process."""
    is_stopping = False
    while process.poll() is None:
        if stop.requested and not is_stopping:
            process.terminate()
            is_stopping = True
        time.sleep(POLL_SECS)
    return exit_code(process.returncode)


def _collect(plan: run_list.Plan, record: RunRecord, words: list[str]) -> int:
    """Writes the result of a training run, and checks that of others."""
    if plan.verb == "train":
        result.write(record.result, result.of_training(record.folder, words))
    if not record.is_finished:
        logging.error("glide %s left no %s", plan.verb, record.result)
        return NO_RESULT
    result.read(record.result)
    return lifecycle.ExitCode.OK


def _pause(stop: lifecycle.StopRequest) -> None:
    stop.sleep(float(os.environ.get(PAUSE_VARIABLE, "10")))
