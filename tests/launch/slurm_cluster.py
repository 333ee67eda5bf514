"""A Slurm cluster of two nodes on this machine, with its own key and folder."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

PROGRAMS = ("sbatch", "scontrol", "slurmctld", "slurmd", "munged")

# A requeued job starts when the credential of its last start has expired: after
# cred_expire seconds (120 unless set). A start before that may be refused by its node.
# The scheduler looks for jobs that can start every sched_interval (60 unless set).
SLURM_CONF = """\
ClusterName=local
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=8
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=30
JobRequeue=1
NodeName=DEFAULT CPUs=2 RealMemory=8000
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={node1}
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={node2}
PartitionName=debug Nodes=n[1-2] Default=YES State=UP
"""


def why_not() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)} here; ./launch/test.sh --all installs Slurm"
    return "" if os.geteuid() == 0 else "slurmctld and slurmd are started as root"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened to a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until(
    is_true: Callable[[], bool], what: str, timeout_secs: float = 60
) -> None:
    """Looks five times a second."""
    end = time.monotonic() + timeout_secs
    while not is_true():
        assert time.monotonic() < end, f"{what}: not within {timeout_secs} s"
        time.sleep(0.2)


class Cluster:
    """Runs Slurm's commands; `environment` is what jobs are submitted with."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf"}

    def run(self, *command: str) -> str:
        """The output of a command that must succeed."""
        result = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def job(self, number: str) -> dict[str, str]:
        """The output of `scontrol show job`."""
        text = self.run("scontrol", "--oneliner", "show", "job", number)
        return dict(pair.split("=", 1) for pair in text.split() if "=" in pair)

    def cancel_all(self) -> None:
        """Of a test that failed: jobs outlive the daemons that started them."""
        if self.run("squeue", "--noheader"):
            self.run("scancel", "--full", "--signal=KILL", "--user=root")
            self.run("scancel", "--user=root")
            wait_until(lambda: not self.run("squeue", "--noheader"), "the jobs' end")

    def states(self) -> list[str]:
        """Of the nodes."""
        shown = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%t"],
            env=self.environment,
            capture_output=True,
            text=True,
        )
        return shown.stdout.split()


@contextlib.contextmanager
def start(folder: pathlib.Path) -> Iterator[Cluster]:
    """The cluster with both nodes idle; its daemons end with the block."""
    controller, node1, node2 = free_ports(3)
    (folder / "slurm.conf").write_text(
        SLURM_CONF.format(
            folder=folder, controller=controller, node1=node1, node2=node2
        )
    )
    for name in ("state", "spool-n1", "spool-n2", "munge"):
        (folder / name).mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    cluster = Cluster(folder)
    munge = folder / "munge"
    daemons = {
        "munged": [
            *("munged", "--foreground", "--force", f"--key-file={key}"),
            *(f"--socket={munge}/socket", f"--pid-file={munge}/pid"),
            *(f"--log-file={munge}/log", f"--seed-file={munge}/seed"),
        ],
        "slurmctld": ["slurmctld", "-D", "-c"],
        "n1": ["slurmd", "-D", "-N", "n1"],
        "n2": ["slurmd", "-D", "-N", "n2"],
    }
    with contextlib.ExitStack() as stack:
        started = {}
        for name, command in daemons.items():
            log = stack.enter_context((folder / f"{name}.out").open("w"))
            started[name] = subprocess.Popen(
                [shutil.which(command[0]), *command[1:]],
                env=cluster.environment,
                stdout=log,
                stderr=log,
            )
            stack.callback(end, started[name])
            if name == "munged":
                wait_until((munge / "socket").exists, "munged's socket")

        def is_ready() -> bool:
            for name, daemon in started.items():
                last_words = (folder / f"{name}.out").read_text()[-1000:]
                assert daemon.poll() is None, f"{name} has ended: {last_words}"
            return cluster.states() == ["idle", "idle"]

        wait_until(is_ready, "two idle nodes")
        stack.callback(cluster.cancel_all)
        yield cluster


def end(daemon: subprocess.Popen) -> None:
    """Asks it to end, and no longer asks after half a minute."""
    daemon.terminate()
    try:
        daemon.wait(timeout=30)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
