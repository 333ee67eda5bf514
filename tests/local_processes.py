"""Runs a command in several processes, as launch/local.sh starts them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator

from tests import fake_devices


def environment(**more: str) -> dict[str, str]:
    """The environment of this process, with the package on the path."""
    return {**os.environ, "PYTHONPATH": str(fake_devices.ROOT), **more}


def start(
    logs: pathlib.Path, command: list[str], *, processes: int = 2, devices: int = 4
) -> subprocess.Popen:
    """Starts the command in processes; their output goes to logs/process*.log."""
    return subprocess.Popen(
        [
            str(fake_devices.ROOT / "launch" / "local.sh"),
            f"--processes={processes}",
            f"--devices={devices}",
            f"--logs={logs}",
            "--",
            *command,
        ],
        env=environment(GLIDE_JAX_LOG="DEBUG", GLIDE_JAX_START_TIMEOUT_SECS="60"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that `finish` can end all of it
    )


def run(
    logs: pathlib.Path,
    command: list[str],
    *,
    processes: int = 2,
    devices: int = 4,
    expected: int = 0,
) -> None:
    """Runs the command to the expected exit code."""
    launcher = start(logs, command, processes=processes, devices=devices)
    finish(launcher, logs, expected)


def finish(
    launcher: subprocess.Popen,
    logs: pathlib.Path,
    expected: int = 0,
    timeout_secs: float = 600,
) -> None:
    """Waits for the expected exit code, and leaves no process behind."""
    with ended(launcher):
        code = launcher.wait(timeout=timeout_secs)
    assert code == expected, logs_of(logs)


@contextlib.contextmanager
def ended(launcher: subprocess.Popen) -> Iterator[None]:
    """Kills the processes of the launcher at the end of the `with` block."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def logs_of(logs: pathlib.Path) -> str:
    """The end of every log of a run, for the message of a failing test."""
    return "\n".join(path.read_text()[-3000:] for path in sorted(logs.iterdir()))


def process_of(pid: int, process_id: int, program: bytes = b"glide_jax") -> int:
    """The process id of a child with a given GLIDE_JAX_PROCESS_ID."""
    name = f"GLIDE_JAX_PROCESS_ID={process_id}\0".encode()
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    for child in map(int, children.read_text().split()):
        folder = pathlib.Path("/proc", str(child))
        if (
            name in (folder / "environ").read_bytes()
            and program in (folder / "cmdline").read_bytes()
        ):
            return child
    raise AssertionError(f"no process {process_id}")
