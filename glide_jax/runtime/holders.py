"""Identifies the process that holds a folder, and checks whether it still runs.

A record identifies a process uniquely by the kernel's boot, the pid namespace of a
container, the pid and the start time.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import secrets
import socket
import time


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that a record names.

    Attributes:
      host, pid, slurm_job: for people to find it; slurm_job may be "".
      since: UTC, ISO 8601.
      token: unique to this acquisition of the lock.
      kernel, pid_space, started: determine whether `pid` is that process here.
      device: number of the folder's file system on this kernel.
      has_kernel_lock: whether it also holds the kernel's file lock.
    """

    host: str
    pid: int
    slurm_job: str
    since: str
    token: str
    kernel: str
    pid_space: str
    started: str
    device: int
    has_kernel_lock: bool

    def __str__(self) -> str:
        job = f" of Slurm job {self.slurm_job}" if self.slurm_job else ""
        if self.pid == 0:
            return "a process that its record does not name"
        return f"process {self.pid}{job} on {self.host}, since {self.since}"

    def is_here(self) -> bool:
        """Whether it belongs to this host and its current boot."""
        return self.kernel == _kernel()

    def is_visible(self) -> bool:
        """Whether its pid is visible to this process, as `is_running` requires."""
        return self.is_here() and self.pid_space == _pid_space()

    def is_running(self) -> bool:
        """Whether a visible holder is running or stopped."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
        found = _start_of(self.pid)
        # A different start time means that another process reused the pid.
        return not found or found == self.started

    def to_json(self) -> str:
        """The JSON text that `read` parses."""
        return json.dumps(dataclasses.asdict(self), indent=1)


UNKNOWN = Holder(
    *("an unknown host", 0, "", "an unknown time", "", "", "", "", 0, False)
)


def read(path: pathlib.Path) -> Holder | None:
    """The holder in a record; UNKNOWN if it is damaged, None if there is none."""
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return UNKNOWN


def _parse(text: bytes) -> Holder:
    """Parses a record; `read` catches the errors of a damaged one."""
    holder = Holder(**json.loads(text))
    for field in dataclasses.fields(Holder):
        kind = {"int": int, "str": str, "bool": bool}[str(field.type)]
        if not isinstance(getattr(holder, field.name), kind):
            raise TypeError(field.name)
    if not 0 < holder.pid < 1 << 31:
        raise ValueError("pid")
    return holder


def describe(folder: pathlib.Path, has_kernel_lock: bool) -> Holder:
    """This process, about to hold the lock."""
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        slurm_job=os.environ.get("SLURM_JOB_ID", ""),
        since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        token=secrets.token_hex(16),
        kernel=_kernel(),
        pid_space=_pid_space(),
        started=_start_of(os.getpid()),
        device=folder.stat().st_dev,
        has_kernel_lock=has_kernel_lock,
    )


def _kernel() -> str:
    """An id of the running kernel, different for other hosts and after a reboot."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _pid_space() -> str:
    """An id of the pid namespace, which differs between containers of a kernel."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """The start time of a process in kernel ticks; "" if it cannot be read."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The command, in parentheses, may contain anything.
    state, *fields = stat.rpartition(")")[2].split()
    return "ended" if state in "ZX" else fields[18]
