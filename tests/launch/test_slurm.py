"""launch/slurm.sh on a real Slurm: submission, requeues, completion, stop."""

from __future__ import annotations

import json
import re
import sys
import time

import pytest

from glide_jax.text import sentencepiece_tokenizer
from tests.launch import launchers, slurm_cluster
from tests.sample import conftest as tiny_models
from tests.train import small_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 1000  # two interruptions come in time on a fast machine too


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    reason = slurm_cluster.why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster.start(folder) as cluster:
        (port,) = slurm_cluster.free_ports(1)
        cluster.environment |= {
            "VIRTUAL_ENV": sys.prefix,
            "TMPDIR": str(folder),
            "JAX_PLATFORMS": "cpu",
            # Programs that run for milliseconds; see tests/conftest.py.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            # Room for the threads of two processes; see tests/fake_devices.py.
            "NPROC": "8",
            # Both nodes are this machine, which does not know them by n1 and n2.
            "GLIDE_JAX_COORDINATOR": f"127.0.0.1:{port}",
        }
        yield cluster


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """An experiment file: many updates of a small model, saved once in a while."""
    folder = tmp_path_factory.mktemp("experiment")
    tokenizer = small_runs.write_tokenizer(folder / "tokenizer")
    changes = {
        "train.num_steps": STEPS,
        "log.every_steps": 10,
        "checkpoint.every_steps": 500,
    }
    config = small_runs.make_config(tokenizer, small_runs.CLIP, changes)
    return small_runs.write_experiment(folder / "small.py", config)


def submit(cluster, experiment, workdir, *flags) -> str:
    """The number of the job."""
    result = launchers.run(
        (
            "slurm.sh",
            f"--config={experiment}",
            "--name=small",
            f"--workdir={workdir}",
            "--nodes=2",
            *flags,
        ),
        environment=cluster.environment,
    )
    assert result.returncode == 0, result.stderr
    return re.fullmatch(r"Submitted batch job (\d+)\n", result.stdout)[1]


def control(cluster, action, name="small"):
    """The end of `status` or `stop`."""
    return launchers.run(
        ("slurm.sh", action, f"--name={name}"), environment=cluster.environment
    )


def wait_for_state(cluster, number, *states, timeout_secs=60) -> dict[str, str]:
    """The job, when it is in one of these states."""

    def is_there() -> bool:
        return cluster.job(number)["JobState"] in states

    slurm_cluster.wait_until(is_there, " or ".join(states), timeout_secs)
    return cluster.job(number)


def newest_step(workdir) -> int:
    """The last step in the metrics."""
    rows = workdir / "metrics.jsonl"
    lines = rows.read_text().splitlines() if rows.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def logs(workdir) -> str:
    files = sorted((workdir / "logs").glob("*.log"))
    return "\n".join(f"== {file.name}\n{file.read_text()[-3000:]}" for file in files)


def wait_for_steps(cluster, number, workdir, step):
    """Until the run has made that step; the logs if it ends before."""

    def has_come() -> bool:
        state = cluster.job(number)["JobState"]
        assert state not in ("FAILED", "COMPLETED", "CANCELLED"), logs(workdir)
        return newest_step(workdir) >= step

    slurm_cluster.wait_until(has_come, f"step {step}", 120)


def wait_for_requeue(cluster, number, restarts):
    """Until the job waits for that start."""

    def is_pending() -> bool:
        job = cluster.job(number)
        return job["Restarts"] == str(restarts) and job["JobState"] == "PENDING"

    slurm_cluster.wait_until(is_pending, f"restart {restarts}", 90)


def wait_for_end(cluster, number, workdir) -> dict[str, str]:
    """The job, when it is over; the logs if it makes no step for three minutes.

    How long the remaining steps take depends on the machine.
    """
    seen, since = newest_step(workdir), time.monotonic()
    while (job := cluster.job(number))["JobState"] not in ("COMPLETED", "FAILED"):
        if (step := newest_step(workdir)) > seen:
            seen, since = step, time.monotonic()
        stalled_secs = time.monotonic() - since
        assert stalled_secs < 180, f"no step after {seen}: {job}\n{logs(workdir)}"
        time.sleep(0.2)
    return job


def saved_steps(workdir) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_a_run_finishes_after_requeue_and_preemption(cluster, experiment, tmp_path):
    workdir = tmp_path / "run"
    number = submit(cluster, experiment, workdir)
    # One process a node of two cores, which a site's default would give one.
    assert cluster.job(number)["CPUs/Task"] == "2"
    wait_for_steps(cluster, number, workdir, 30)
    step = cluster.run("scontrol", "--oneliner", "show", "step", f"{number}.0")
    assert "CPUs=4 " in step, "srun asks for them as well"
    # As an administrator, or a partition that preempts by requeueing.
    cluster.run("scontrol", "requeue", number)
    wait_for_requeue(cluster, number, 1)
    first = newest_step(workdir)
    assert 30 <= first < STEPS
    assert saved_steps(workdir)[-1] >= first, "it saved itself when it was stopped"

    wait_for_steps(cluster, number, workdir, first + 30)
    # As the time limit sends it: the script requeues the job by itself.
    cluster.run("scancel", "--signal=TERM", f"{number}.0")
    wait_for_requeue(cluster, number, 2)
    assert newest_step(workdir) < STEPS

    job = wait_for_end(cluster, number, workdir)
    assert job["JobState"] == "COMPLETED", logs(workdir)
    assert (job["ExitCode"], job["Restarts"]) == ("0:0", "2")
    assert saved_steps(workdir)[-1] == STEPS
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == [1, *range(10, STEPS + 1, 10)], "no step is lost or told twice"
    log = (workdir / "logs" / f"slurm-{number}.log").read_text()
    assert "exit code 42; restarts before: 1" in log
    assert "exit code 0; restarts before: 2" in log
    assert len(list((workdir / "logs").glob("*.1.log"))) == 1, "a log for each process"


def test_a_user_error_ends_the_job(cluster, experiment, tmp_path):
    workdir = tmp_path / "run"
    # Nobody sees on this machine that the data are missing on the nodes.
    source = "--config.data.sources=('folder:/absent',)"
    number = submit(cluster, experiment, workdir, source, "--nodes=1")

    job = wait_for_end(cluster, number, workdir)
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "2:0", "0")
    assert "/absent" in logs(workdir)


def test_a_stopped_run_saves_and_is_not_requeued(cluster, experiment, tmp_path):
    workdir = tmp_path / "run"
    endless = "--config.train.num_steps=1000000"
    number = submit(cluster, experiment, workdir, "--mem=1G", "--cpus=2", endless)
    job = cluster.job(number)
    assert (job["MinMemoryNode"], job["CPUs/Task"]) == ("1G", "2")
    wait_for_steps(cluster, number, workdir, 30)
    shown = control(cluster, "status")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"job {number}: RUNNING for ")
    stopped = control(cluster, "stop")
    assert stopped.returncode == 0, stopped.stderr
    assert f"job {number} saves a checkpoint and exits" in stopped.stdout
    job = wait_for_state(cluster, number, "FAILED", "PENDING", timeout_secs=90)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "42:0")
    assert job["Restarts"] == "0"
    step = newest_step(workdir)
    assert step >= 30
    assert saved_steps(workdir)[-1] >= step
    for action in ("status", "stop"):
        gone = control(cluster, action)
        assert (gone.returncode, gone.stdout) == (1, "")
        (line,) = gone.stderr.splitlines()
        assert line.startswith("slurm.sh: there is no run small of yours in the queue")


def test_stop_cancels_a_pending_job(cluster, experiment, tmp_path):
    update = ("scontrol", "update", "nodename=n[1-2]")
    cluster.run(*update, "state=drain", "reason=none is free")
    try:
        number = submit(cluster, experiment, tmp_path / "run")
        assert f"job {number}: PENDING" in control(cluster, "status").stdout
        assert control(cluster, "stop").returncode == 0
        assert cluster.job(number)["JobState"] == "CANCELLED"
    finally:
        cluster.run(*update, "state=resume")


# What slurm.sbatch and sweep.sbatch have in common, with a step that ends by a signal.
JOB = """\
#!/usr/bin/env bash
#SBATCH --requeue
#SBATCH --job-name=signals
#SBATCH --output={folder}/%A.%a.log
. {launch}/restart.sh
trap : TERM
srun --ntasks=1 sleep 300 &
step=$!
while kill -0 "$step" 2>/dev/null; do wait "$step"; done
wait "$step"
end_slurm_job $? 5
"""


def start_sleeping(cluster, folder, *flags) -> str:
    """The number of the job, whose first step has begun."""
    (folder / "job").write_text(JOB.format(folder=folder, launch=launchers.LAUNCH))
    number = cluster.run("sbatch", "--parsable", *flags, f"{folder}/job").strip()

    def has_begun() -> bool:
        return ".0 " in cluster.run("squeue", "--steps", "--noheader")

    slurm_cluster.wait_until(has_begun, "the first step")
    return number


def test_a_cancelled_job_does_not_requeue_itself(cluster, tmp_path):
    number = start_sleeping(cluster, tmp_path)
    cluster.run("scancel", number)

    def has_ended() -> bool:
        return not cluster.run("squeue", "--noheader")

    slurm_cluster.wait_until(has_ended, "the job's end")
    assert cluster.job(number)["JobState"] == "CANCELLED"
    assert cluster.job(number)["Restarts"] == "0"
    (log,) = tmp_path.glob("*.log")
    assert "not requeued by this script" in log.read_text()


def test_all_tasks_of_a_sweep_are_stopped(cluster, tmp_path):
    start_sleeping(cluster, tmp_path, "--array=0-3%2")
    shown = control(cluster, "status", "signals").stdout
    assert "RUNNING" in shown
    assert "PENDING" in shown
    assert control(cluster, "stop", "signals").returncode == 0

    def has_ended() -> bool:
        return not cluster.run("squeue", "--noheader")

    slurm_cluster.wait_until(has_ended, "the end of all tasks")
    logs = [path.read_text() for path in tmp_path.glob("*.log")]
    assert 1 <= len(logs) <= 2, "those that waited never started"
    assert all("exit code 143; restarts before: 0" in log for log in logs)


def test_a_requeued_task_does_not_affect_the_others(cluster, tmp_path):
    number = start_sleeping(cluster, tmp_path, "--array=0-1%2")
    both = ["squeue", "--noheader", "--states=RUNNING", "--format=%i"]
    slurm_cluster.wait_until(
        lambda: len(cluster.run(*both).split()) == 2, "both tasks to run"
    )
    # The last task has the number of the array itself.
    cluster.run("scancel", "--signal=TERM", f"{number}_1")
    slurm_cluster.wait_until(
        lambda: "Restarts=1" in cluster.run("scontrol", "show", "job", f"{number}_1"),
        "the requeue of a task",
    )
    first = cluster.job(f"{number}_0")
    assert (first["JobState"], first["Restarts"]) == ("RUNNING", "0")
    assert control(cluster, "stop", "signals").returncode == 0


def test_invalid_settings_are_errors_before_a_job_is_queued(
    cluster, experiment, tmp_path
):
    flag = "--config.train.num_steps=many"
    command = ("slurm.sh", f"--config={experiment}", "--name=small", flag)
    result = launchers.run(
        (*command, f"--workdir={tmp_path}/run"), environment=cluster.environment
    )
    assert result.returncode == 2
    assert "num_steps" in result.stderr
    assert not (tmp_path / "run").exists()


def test_two_nodes_share_pictures_out(cluster, tmp_path):
    proto = sentencepiece_tokenizer.train_sentencepiece(tiny_models.CAPTIONS, 300)
    tokenizer = sentencepiece_tokenizer.SentencePieceTokenizer(proto)
    model = tiny_models._make_model("base", tokenizer)
    bundle = tiny_models.write_bundle(tmp_path / "base", model)
    workdir = tmp_path / "pictures"
    flags = ("--name=pictures", f"--workdir={workdir}", "--nodes=2")
    words = ("--prompt=a big r circle", "--num_images=4", "--respacing=2")
    result = launchers.run(
        ("slurm.sh", *flags, "--", "sample", f"--base={bundle}", *words),
        environment=cluster.environment,
    )
    assert result.returncode == 0, result.stderr
    number = re.fullmatch(r"Submitted batch job (\d+)\n", result.stdout)[1]
    job = wait_for_state(cluster, number, "COMPLETED", "FAILED", timeout_secs=600)
    assert job["JobState"] == "COMPLETED", logs(workdir)
    record = json.loads((workdir / "samples.json").read_text())
    assert [entry["index"] for entry in record["images"]] == [0, 1, 2, 3]
    assert all((workdir / entry["file"]).exists() for entry in record["images"])
    # Half of them each: the first process counts its own.
    assert "pictures drawn: 2/2" in logs(workdir)
