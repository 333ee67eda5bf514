"""Which process holds a folder, and does it still run?

A record names it with what tells it from all other processes: the boot of the kernel,
the pid space of a container, the pid and the time at which it started.
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
      host, pid, slurm_job: as a person looks for it; slurm_job may be "".
      since: UTC, ISO 8601.
      token: of this taking of the lock.
      kernel, pid_space, started: say whether `pid` is that process here.
      device: number of the folder's file system, as this kernel counts.
      has_kernel_lock: whether it holds the lock of the file as well.
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
        """Whether it runs on this host, as long as that has not been restarted."""
        return self.kernel == _kernel()

    def is_visible(self) -> bool:
        """Whether this process sees it by its pid, so that `is_running` holds."""
        return self.is_here() and self.pid_space == _pid_space()

    def is_running(self) -> bool:
        """Whether it runs or is stopped, of one that is visible."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
        found = _start_of(self.pid)
        # Another process has the number of one that has ended.
        return not found or found == self.started

    def to_json(self) -> str:
        """What `read` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1)


UNKNOWN = Holder(
    *("an unknown host", 0, "", "an unknown time", "", "", "", "", 0, False)
)


def read(path: pathlib.Path) -> Holder | None:
    """The holder that a record names; UNKNOWN if it is damaged, None without one."""
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return UNKNOWN


def _parse(text: bytes) -> Holder:
    """The holder of a record; `read` names the errors of a damaged one."""
    holder = Holder(**json.loads(text))
    for field in dataclasses.fields(Holder):
        kind = {"int": int, "str": str, "bool": bool}[field.type]
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
    """Tells one running kernel from all others: another host, or a reboot of it."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _pid_space() -> str:
    """Tells containers of one kernel apart, which count processes for themselves."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """When a process started, in the kernel's count; "" if that cannot be read."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The command, in parentheses, may contain anything.
    state, *fields = stat.rpartition(")")[2].split()
    return "ended" if state in "ZX" else fields[18]
