"""launch/ssh.sh over a real ssh server, with this machine as both hosts."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import local_processes
from tests.launch import launchers, slurm_cluster
from tests.train import small_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 100_000  # not reached: an interruption comes in time on any machine
# Programs that run for milliseconds; see tests/conftest.py.
QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS=1"
SSHD_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile {folder}/pid
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
PermitRootLogin yes
UsePAM no
SetEnv VIRTUAL_ENV={environment} TMPDIR={folder} JAX_PLATFORMS=cpu NPROC=8 {quick}
"""
SSH_CONFIG = """\
Host first second
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/user_key
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


@pytest.fixture
def programs(tmp_path):
    """A folder whose `ssh` knows the hosts `first` and `second`."""
    absent = [n for n in ("sshd", "ssh", "ssh-keygen", "rsync") if not shutil.which(n)]
    if absent or os.geteuid() != 0:
        pytest.skip(f"no {absent or 'root'} here; ./launch/test.sh --all installs them")
    (port,) = slurm_cluster.free_ports(1)
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name]
        subprocess.run(command, check=True)
    facts = {
        "port": port,
        "folder": tmp_path,
        "environment": sys.prefix,
        "quick": QUICK,
    }
    (tmp_path / "sshd_config").write_text(SSHD_CONFIG.format(**facts))
    (tmp_path / "ssh_config").write_text(SSH_CONFIG.format(**facts))
    asked_for = pathlib.Path("/run/sshd")  # by sshd, which lets nobody see it
    made = not asked_for.exists()
    asked_for.mkdir(exist_ok=True)
    folder = tmp_path / "programs"
    script = f'exec {shutil.which("ssh")} -F {tmp_path}/ssh_config "$@"'
    launchers.write_program(folder, "ssh", script)
    server = [shutil.which("sshd"), "-D", "-e", "-f", str(tmp_path / "sshd_config")]
    with (tmp_path / "sshd.log").open("w") as log:
        daemon = subprocess.Popen(server, stderr=log)
        try:
            slurm_cluster.wait_until(
                lambda: (
                    subprocess.run([folder / "ssh", "first", "true"]).returncode == 0
                ),
                "the ssh server",
            )
            yield folder
        finally:
            daemon.terminate()
            daemon.wait()
            if made:
                asked_for.rmdir()


@pytest.fixture
def command(tmp_path) -> list[str]:
    """A run of two processes."""
    tokenizer = small_runs.write_tokenizer(tmp_path / "tokenizer")
    changes = {"train.num_steps": STEPS, "log.every_steps": 10}
    config = small_runs.make_config(tokenizer, small_runs.CLIP, changes)
    experiment = small_runs.write_experiment(tmp_path / "small.py", config)
    (port,) = slurm_cluster.free_ports(1)
    return [
        str(launchers.LAUNCH / "ssh.sh"),
        f"--config={experiment}",
        "--name=small",
        f"--workdir={tmp_path}/run",
        "--hosts=first,second",
        "--coordinator=127.0.0.1",
        f"--port={port}",
        f"--folder={tmp_path}/checkout",
    ]


def newest_step(folder) -> int:
    rows = folder / "run" / "metrics.jsonl"
    lines = rows.read_text().splitlines() if rows.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def saved_steps(folder) -> set[int]:
    return {int(path.name) for path in (folder / "run" / "checkpoints").iterdir()}


def wait_for_step(folder, step: int, launcher: subprocess.Popen) -> None:
    def has_come() -> bool:
        assert launcher.poll() is None, (folder / "shown").read_text()
        return newest_step(folder) >= step

    slurm_cluster.wait_until(has_come, f"step {step}", 120)


def environment(programs) -> dict[str, str]:
    """With the folder's `ssh` in front."""
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}


@contextlib.contextmanager
def started(programs, command, shown: pathlib.Path) -> Iterator[subprocess.Popen]:
    """A launch in a session of its own, which writes to the file `shown`."""
    with shown.open("w") as file:
        launcher = subprocess.Popen(
            command,
            env=environment(programs),
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        with local_processes.ended(launcher):
            yield launcher


def control(programs, tmp_path, action):
    """The end of `status` or `stop`."""
    hosts = ("--hosts=first,second", f"--folder={tmp_path}/checkout")
    command = ("ssh.sh", action, "--name=small", *hosts)
    return launchers.run(command, programs=programs)


def test_a_run_is_shown_stopped_interrupted_and_resumed(programs, command, tmp_path):
    nothing = control(programs, tmp_path, "status")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr == "ssh.sh: there is no run small on first, second\n"

    shown = tmp_path / "shown"
    with started(programs, command, shown) as launcher:
        wait_for_step(tmp_path, 30, launcher)
        status = control(programs, tmp_path, "status")
        assert status.returncode == 0, status.stderr
        assert "small on " in status.stdout
        assert "process 0: pid " in status.stdout
        assert "process 1: pid " in status.stdout
        stopped = control(programs, tmp_path, "stop")
        assert stopped.returncode == 0, stopped.stderr
        assert launcher.wait(timeout=200) == 42
    assert "restarting (" not in shown.read_text()
    assert control(programs, tmp_path, "stop").returncode == 1
    first = newest_step(tmp_path)
    assert 30 <= first < STEPS
    assert max(saved_steps(tmp_path)) >= first
    copied = {path.name for path in (tmp_path / "checkout").iterdir()}
    assert {"glide_jax", "launch"} <= copied
    assert not {".git", ".venv", "runs"} & copied

    # The second launch goes on although the first was stopped.
    logs = tmp_path / "run" / "logs"

    def count_ends() -> list[int]:
        return [path.read_text().count("exit code 42") for path in logs.glob("*.log")]

    ends = sum(count_ends())
    with started(programs, command, shown) as launcher:
        wait_for_step(tmp_path, first + 30, launcher)
        os.killpg(launcher.pid, signal.SIGINT)  # Ctrl-C
        launcher.wait(timeout=200)
    slurm_cluster.wait_until(
        lambda: sum(count_ends()) == ends + 2, "saving on both hosts"
    )
    second = newest_step(tmp_path)
    assert first + 30 <= second < STEPS
    assert max(saved_steps(tmp_path)) >= second

    last = second + 30
    result = subprocess.run(
        [*command, f"--config.train.num_steps={last}"],
        env=environment(programs),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert newest_step(tmp_path) == last
    assert len(list(logs.glob("*.log"))) == 2, "a log for each process"


def test_unreachable_hosts_are_reported(programs, tmp_path):
    launchers.write_program(programs, "ssh", "exit 255")
    result = control(programs, tmp_path, "status")
    assert result.returncode == 2
    assert "first: ssh failed with code 255" in result.stderr
    assert "status: ssh failed with code 1" in result.stderr.splitlines()[-1]
