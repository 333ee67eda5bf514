"""One start of a run: two processes of launch/local.sh, watched from outside."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

from glide_jax.train import run_folder
from tests import fake_devices, local_processes

PROCESSES = 2
# Nothing takes so long on a machine that does anything else than this.
PATIENCE_SECS = 600.0
POLL_SECS = 0.01


def disk_of(disks: pathlib.Path, process: int | str) -> pathlib.Path:
    """The local disk of a process, as if it ran on a host of its own."""
    return disks / f"host{process}"


class SoakError(Exception):
    """What a run should not have done; it ends the soak."""


class Training:
    """Processes that train; a context manager that leaves none of them behind."""

    def __init__(
        self,
        experiment: pathlib.Path,
        workdir: pathlib.Path,
        logs: pathlib.Path,
        *flags: str,
        disks: pathlib.Path | None = None,
    ) -> None:
        """Starts it; with `disks` each process has a local disk of its own there."""
        self.workdir, self._logs = workdir, logs
        logs.mkdir(parents=True)
        train = [
            *(sys.executable, "-m", "glide_jax.cli.main", "train"),
            *(f"--config={experiment}", f"--workdir={workdir}", *flags),
        ]
        if disks is not None:
            for process in range(PROCESSES):
                disk_of(disks, process).mkdir(parents=True, exist_ok=True)
            disk = disk_of(disks, "$GLIDE_JAX_PROCESS_ID")
            train = ["bash", "-c", f"TMPDIR={disk} exec {shlex.join(train)}"]
        command = [
            str(fake_devices.ROOT / "launch" / "local.sh"),
            f"--processes={PROCESSES}",
            "--devices=1",
            f"--logs={logs}",
            "--",
            *train,
        ]
        environment = {
            **os.environ,
            "GLIDE_JAX_CACHE": str(experiment.parent / "cache"),
            # Programs run for milliseconds; see tests/conftest.py.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        with (logs / "local.log").open("w") as log:
            self._launcher = subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *exception: object) -> None:
        # Of this start's session, launcher and all that it has started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._launcher.pid, signal.SIGKILL)
        self._launcher.wait()

    @property
    def is_over(self) -> bool:
        """Whether all of it has ended."""
        return self._launcher.poll() is not None

    def wait(self) -> int:
        """The exit code, as a shell gives it."""
        try:
            code = self._launcher.wait(PATIENCE_SECS)
        except subprocess.TimeoutExpired:
            raise SoakError(f"did not end; {self.told()}") from None
        return code if code >= 0 else 128 - code

    def wait_until(self, is_so, what: str) -> bool:
        """Returns whether it came to be so before the run ended."""
        deadline = time.monotonic() + PATIENCE_SECS
        while not is_so():
            if self.is_over:
                return False
            if time.monotonic() > deadline:
                raise SoakError(f"waited in vain for {what}; {self.told()}")
            time.sleep(POLL_SECS)
        return True

    def wait_for_rows(self, count: int) -> bool:
        """Until this start has written so many rows of metrics."""
        return self.wait_until(
            lambda: self.count(" images/s/chip, ") >= count, f"{count} rows"
        )

    def is_saving(self) -> bool:
        """Whether a checkpoint is half written."""
        return any(run_folder.checkpoints(self.workdir).glob("*.unfinished"))

    def signal(self, number: signal.Signals, process: int | None = None) -> None:
        """Sends a signal to one process, or to launch/local.sh."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(
                self._launcher.pid if process is None else self.pid(process), number
            )

    def pid(self, process: int) -> int:
        """The system's number of one of the processes.

        Raises:
          ProcessLookupError: there is none yet, or no more.
        """
        try:
            return local_processes.process_of(self._launcher.pid, process)
        except (AssertionError, FileNotFoundError):
            raise ProcessLookupError(f"no process {process}") from None

    def count(self, words: str) -> int:
        """How often the processes have said this in this start."""
        logs = self._logs.glob("process*.log")
        return sum(log.read_text(errors="replace").count(words) for log in logs)

    def text(self, process: int = 0) -> str:
        """What one process has logged until now."""
        path = self._logs / f"process{process}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def told(self) -> str:
        """The ends of all logs."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}"
            for path in sorted(self._logs.iterdir())
        )
