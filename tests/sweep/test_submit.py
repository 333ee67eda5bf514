"""Submissions of a sweep to clusters, compared with golden transcripts.

After an intended change, `python -m tests.sweep.test_submit` writes the transcripts
again; commit the difference together with the change.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys

import pytest

from glide_jax.cli import main
from glide_jax.errors import UserError
from glide_jax.runtime import lifecycle
from glide_jax.sweep import runners, submit
from tests import fake_devices

GOLDEN = fake_devices.ROOT / "tests" / "golden" / "sweep"
SWEEP = ("sweep", "experiments/sweeps/lr_batch.py")
COMMANDS = {
    "slurm": (
        *SWEEP,
        "--root=runs/lr_batch",
        "--runner=slurm",
        "--parallel=4",
        "--gpus=1",
        "--chip=h100",
        "--cpus=12",
        "--mem=64G",
        "--partition=gpu",
        "--account=art",
        "--time=12:00:00",
        "--",
        "--config.data.sources=('folder:photos',)",
    ),
    "jobset": (
        *SWEEP,
        "--root=/nfs/runs/lr_batch",
        "--runner=jobset",
        "--parallel=8",
        "--restarts=20",
        "--image=registry.example/glide_jax",
        "--volume=shared:/nfs",
        "--limits=google.com/tpu=8",
        "--node_selector=cloud.google.com/gke-tpu-accelerator=tpu-v6e-slice",
        "--node_selector=cloud.google.com/gke-tpu-topology=2x4",
        "--chip=v6e",
        "--namespace=art",
        "--",
        "--config.data.sources=('folder:photos',)",
    ),
    "print": (*SWEEP, "--root=ROOT", "--runner=print"),
}
AGAIN = [42, *range(128, 256)]
JOB = submit.Job("small", ["a"], ["sweep", "x.py"], "/nfs/a", 1, 1)


def dry_run(engine: str) -> str:
    """What would be submitted, with placeholders for the checkout and Python."""
    shown, before = io.StringIO(), os.getcwd()
    os.chdir(fake_devices.ROOT)
    try:
        with contextlib.redirect_stdout(shown):
            verb, *words = COMMANDS[engine]
            # The data is on the cluster.
            assert main.run([verb, "--dry_run", "--nocheck_inputs", *words]) == 0
    finally:
        os.chdir(before)
    text = shown.getvalue().replace(sys.executable, "/python")
    return text.replace(str(fake_devices.ROOT), "/checkout")


def text_of(engine: str) -> str:
    """The golden text that is handed over, without the line that says to whom."""
    return (GOLDEN / f"{engine}.txt").read_text().partition("\n")[2]


@pytest.mark.parametrize("engine", COMMANDS)
def test_a_dry_run_prints_its_golden_transcript_and_writes_nothing(engine):
    assert dry_run(engine) == (GOLDEN / f"{engine}.txt").read_text()
    assert not (fake_devices.ROOT / "ROOT").exists()


def test_a_command_is_printed_for_each_run():
    lines = (GOLDEN / "print.txt").read_text().splitlines()
    ids = [re.search("--only=([0-9a-f]{10}) ", line)[1] for line in lines]
    assert len(set(ids)) == len(lines) == 6


def test_the_array_has_a_task_for_each_run_and_bash_reads_the_script():
    script = text_of("slurm")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "#SBATCH --array=0-5%4" in script
    assert len(re.search(r"runs=\((.*)\)", script)[1].split()) == 6
    assert not re.search("@[A-Z]+@", script)


def test_every_option_is_a_flag_with_the_runners_that_read_it(capsys):
    assert main.run(["sweep", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for runner in runners.RUNNERS.values():
        assert runner.meaning in text
    for name, (field, readers) in runners.options().items():
        assert f"--{name}" in text or f"--[no]{name}" in text
        assert f"{', '.join(readers)}: {field.metadata['meaning'][:20]}" in text


def test_memory_without_a_unit_is_refused():
    with pytest.raises(
        UserError, match="--mem=64 is not an amount of memory; give a number"
    ):
        submit.slurm_script(JOB, submit.SlurmOptions(mem="64"))


def test_the_old_name_of_a_flag_is_refused_with_the_new_one(capsys):
    command = [*SWEEP, "--root=runs/a", "--runner=slurm", "--cpus_per_task=12"]
    assert main.run(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "glide sweep: --cpus_per_task is now called --cpus; use that"


def manifest() -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(text_of("jobset"))


def test_a_jobset_has_an_index_for_each_run_and_fails_one_by_one():
    spec = manifest()["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert (job["completions"], job["parallelism"]) == (6, 6)
    assert job["completionMode"] == "Indexed"
    assert job["backoffLimitPerIndex"] == 20
    assert spec["failurePolicy"]["maxRestarts"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    pod = job["template"]["spec"]
    assert rule["action"] == "FailIndex"
    assert rule["onExitCodes"] == {
        "containerName": pod["containers"][0]["name"],
        "operator": "NotIn",
        "values": AGAIN,
    }
    assert [code for code in range(256) if lifecycle.is_retryable(code)] == AGAIN
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x4"
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": "8"}


def test_a_pod_runs_the_run_of_its_index(tmp_path):
    container = manifest()["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    container = container["spec"]["containers"][0]
    (script,) = container["args"]
    # As Kubernetes hands it on.
    script = script.replace("$$(", "$(")
    for name, text in (("glide", "echo export SET=yes"), ("python", 'echo $SET "$@"')):
        path = tmp_path / ".venv" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
    shown = subprocess.run(
        [*container["command"], script],
        env={**os.environ, "JOB_COMPLETION_INDEX": "2"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = (GOLDEN / "print.txt").read_text().splitlines()
    words = shlex.split(shown)
    assert words[:3] == ["yes", "-m", "glide_jax.cli.main"]
    assert len(words) > 3
    assert words[3:6] == ["sweep", words[4], SWEEP[1]]
    assert len(lines) == 6
    assert (
        words[4].removeprefix("--only=")
        == re.search(r"runs=\(([^)]*)\)", script)[1].split()[2]
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image": ""}, "--image is missing"),
        ({"volume": ""}, "--volume= is not CLAIM:/PATH"),
        ({"volume": "shared:nfs"}, "--volume=shared:nfs is not CLAIM:/PATH"),
        ({"volume": "a:/b"}, "--root=/nfs/a is not on the volume .* such as /b/small"),
        ({"limits": ("gpu",)}, "--limits=gpu is not KEY=VALUE"),
        ({"node_selector": ("a: b=c",)}, "--node_selector=a: b=c is not KEY=VALUE"),
    ],
)
def test_what_kubernetes_would_not_take_is_refused(changes, named):
    given = {"image": "a/b", "volume": "c:/nfs"}
    assert "kind: JobSet" in submit.jobset_manifest(JOB, submit.JobsetOptions(**given))
    with pytest.raises(UserError, match=named):
        submit.jobset_manifest(JOB, submit.JobsetOptions(**given | changes))


def test_an_answer_of_the_cluster_is_reported_in_one_line(tmp_path, monkeypatch):
    path = tmp_path / "sbatch"
    path.write_text("#!/bin/sh\necho 'sbatch: error:\nno such partition' >&2; exit 1\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match="refused the sweep: sbatch: error: no such"):
        submit.hand_over(["sbatch"], "", "")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        UserError, match="sbatch is not on this machine; log in, or add"
    ):
        submit.hand_over(["sbatch"], "", "log in")


def write_golden_files() -> None:
    """Takes what would be handed over today as golden."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for engine in COMMANDS:
        (GOLDEN / f"{engine}.txt").write_text(dry_run(engine))


if __name__ == "__main__":
    write_golden_files()
