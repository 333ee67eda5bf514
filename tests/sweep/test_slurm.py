"""A sweep as one array job of a real Slurm; one of its tasks is requeued."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from glide_jax.sweep import run_list, state
from tests import fake_devices, local_processes
from tests.launch import slurm_cluster
from tests.sweep import training_sweeps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 80


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    reason = slurm_cluster.why_not()
    if reason:
        pytest.skip(reason)
    with slurm_cluster.start(tmp_path_factory.mktemp("slurm")) as cluster:
        cluster.environment |= local_processes.environment(JAX_PLATFORMS="cpu")
        yield cluster


def submit(cluster, path, root) -> str:
    """The number of the array."""
    command = [sys.executable, "-m", "glide_jax.cli.main", "sweep", str(path)]
    flags = [f"--root={root}", "--runner=slurm", "--parallel=2"]
    result = subprocess.run(
        [*command, *flags],
        env=cluster.environment,
        cwd=fake_devices.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return re.fullmatch(r"Submitted batch job (\d+)\n", result.stdout)[1]


def told(root) -> str:
    logs = sorted((root / "logs").iterdir())
    return "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in logs)


def test_an_array_runs_every_run_and_a_requeued_task_resumes(cluster, tmp_path):
    path = training_sweeps.write(tmp_path, "listed('seed', [0, 1])", STEPS)
    root = tmp_path / "root"
    number = submit(cluster, path, root)
    runs = run_list.read(root).runs
    entries = [state.RunRecord(root, run.id) for run in runs]
    first = entries[0]

    def is_under_way() -> bool:
        assert not first.has_failed, told(root)
        return len(training_sweeps.steps(first.folder)) > 5

    slurm_cluster.wait_until(is_under_way, "steps of the first run", 300)
    # As the time limit sends it: the run saves itself, its script requeues the task.
    # By its own number, as scancel takes a step of NUMBER_0 for one of all tasks.
    own = cluster.job(f"{number}_0")["JobId"]
    assert own != number
    cluster.run("scancel", "--signal=TERM", f"{own}.0")

    def is_over() -> bool:
        assert not any(entry.has_failed for entry in entries), told(root)
        return not cluster.run("squeue", "--noheader")

    slurm_cluster.wait_until(is_over, "the end of both tasks", 400)
    assert [entry.state() for entry in entries] == ["finished"] * 2, told(root)
    assert [[one.code for one in entry.attempts()] for entry in entries] == [
        [42, 0],
        [0],
    ]
    for entry in entries:
        assert training_sweeps.steps(entry.folder) == list(range(1, STEPS + 1))
    log = (root / "logs" / f"slurm-{number}_0.log").read_text()
    assert f"run {runs[0].id}\n" in log
    assert "exit code 42; restarts before: 0" in log
    assert "exit code 0; restarts before: 1" in log
