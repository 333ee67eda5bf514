"""Dry runs of the launchers compared with stored transcripts.

After a change that is meant, `python -m tests.launch.test_transcripts` writes the
transcripts anew; the difference belongs into the same commit.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from glide_jax.runtime import lifecycle
from tests.launch import launchers

GOLDEN = launchers.ROOT / "tests" / "golden" / "launch"
SCRIPTS = sorted(launchers.LAUNCH.rglob("*.sh"))
AGAIN = [42, *range(128, 256)]

engines = pytest.mark.parametrize("engine", launchers.COMMANDS)


def yaml_of(engine: str) -> dict:
    """The file that an engine renders, as a YAML library reads it."""
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(launchers.parts(golden(engine))[-1])


def golden(engine: str) -> str:
    return (GOLDEN / f"{engine}.txt").read_text()


@engines
def test_a_dry_run_prints_its_golden_transcript(engine):
    assert launchers.dry_run(launchers.COMMANDS[engine]) == golden(engine)


@engines
def test_every_engine_hands_another_verb_to_the_hosts(engine):
    flags = [flag for flag in launchers.COMMANDS[engine] if "--config" not in flag]
    words = ["--", "evaluate", "--base=/nfs/base", "--num_images=30000"]
    text = launchers.run((*flags, "--dry_run", *words)).stdout
    found = re.search(r'--"?\s+(- )?"?evaluate"?\s+(- )?"?--base=/nfs/base', text)
    assert found, text
    assert "--config" not in text


@pytest.mark.parametrize("engine", launchers.CONTROLS)
def test_a_dry_run_of_stop_prints_its_golden_transcript(engine):
    text = launchers.dry_controls(engine)
    assert text == (GOLDEN / "stop" / f"{engine}.txt").read_text()
    assert not re.search(r"@[A-Z_]+@", text)
    for script in launchers.parts(text):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_every_transcript_has_its_command_and_every_engine_a_transcript():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(launchers.COMMANDS)
    stops = {path.stem for path in (GOLDEN / "stop").iterdir()}
    assert stops == set(launchers.CONTROLS)
    assert {command[0] for command in launchers.CONTROLS.values()} == {
        command[0] for command in launchers.COMMANDS.values()
    }
    scripts = {command[0] for command in launchers.COMMANDS.values()}
    engines = {
        path.name
        for path in launchers.LAUNCH.glob("*.sh")
        if 'read_flags "' in path.read_text()
        # prepare.sh starts no training run: tests/prepare/test_launch.py.
        and path.name not in ("common.sh", "prepare.sh")
    }
    assert scripts == engines


@engines
def test_no_placeholder_is_left_and_bash_reads_every_script(engine):
    for part in launchers.parts(golden(engine)):
        assert not re.search(r"@[A-Z_]+@", part)
        if part.startswith(("#!", "set ")):
            subprocess.run(["bash", "-n"], input=part, text=True, check=True)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_every_file_of_launch(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.slow
def test_shellcheck_accepts_the_launchers():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; ./launch/test.sh --all does")
    own = [path for path in SCRIPTS if path.parent == launchers.LAUNCH]
    command = ["shellcheck", *own]  # options: .shellcheckrc
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_shell_and_python_agree_on_retryable_codes():
    script = (
        ". launch/restart.sh; for c in {0..255}; do is_retryable $c && echo $c; done"
    )
    result = subprocess.run(
        ["bash", "-c", script], cwd=launchers.ROOT, capture_output=True, text=True
    )
    assert [int(line) for line in result.stdout.split()] == AGAIN
    assert [code for code in range(256) if lifecycle.is_retryable(code)] == AGAIN


def test_a_jobset_fails_at_once_on_every_other_code():
    spec = yaml_of("gke")["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": pod["containers"][0]["name"],
        "operator": "NotIn",
        "values": AGAIN,
    }
    # Kubernetes heeds the policy only where pods are not restarted in place.
    assert (pod["restartPolicy"], job["backoffLimit"]) == ("Never", 0)
    (failure,) = spec["failurePolicy"]["rules"]
    assert failure["action"] == "FailJobSet"
    assert failure["onJobFailureReasons"] == ["PodFailurePolicy"]


def test_a_jobset_has_a_pod_for_every_host_of_every_slice():
    spec = yaml_of("gke")["spec"]
    job = spec["replicatedJobs"][0]
    assert job["replicas"] == 2
    # v5p:4x4x8 has 128 chips, four to a host.
    assert job["template"]["spec"]["completions"] == 128 // 4
    assert job["template"]["spec"]["parallelism"] == 128 // 4
    pod = job["template"]["spec"]["template"]["spec"]
    selector = pod["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5p-slice"
    assert selector["cloud.google.com/gke-tpu-topology"] == "4x4x8"
    assert selector["cloud.google.com/gke-spot"] == "true"
    command = pod["containers"][0]["command"]
    mount = pod["containers"][0]["volumeMounts"][0]["mountPath"]
    assert f"--workdir={mount}/runs/base64" in command


def test_settings_are_passed_to_a_pod_unchanged():
    job = yaml_of("gke_nfs")["spec"]["replicatedJobs"][0]["template"]["spec"]
    command = job["template"]["spec"]["containers"][0]["command"]
    assert command[-1] == "--config.data.sources=('folder:photos',)"
    assert "volumes" not in job["template"]["spec"]


def test_skypilot_recovers_on_the_code_of_its_script():
    task = yaml_of("skypilot")
    recovery = task["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [42]
    assert "max_restarts_on_errors" not in recovery
    assert task["num_nodes"] == 4
    assert task["resources"]["use_spot"] is True


def test_a_bucket_is_mounted_on_request_only():
    direct = yaml_of("skypilot_tpu")
    assert "file_mounts" not in direct
    assert f" {launchers.BUCKET} " in direct["run"]
    mounted = launchers.run(
        (*launchers.COMMANDS["skypilot_tpu"], "--mount", "--dry_run")
    )
    assert (
        "/mnt/my-bucket:\n    source: gs://my-bucket\n    mode: MOUNT" in mounted.stdout
    )
    assert "--workdir=/mnt/my-bucket/runs/base64" in mounted.stdout
    # Hosts that share pictures out need one folder.
    train = launchers.COMMANDS["skypilot_tpu"]
    flags = [word for word in train if not word.startswith("--config")]
    drawn = launchers.run((*flags, "--dry_run", "--", "sample", "--prompt=a"))
    assert "--workdir=/mnt/my-bucket/runs/base64" in drawn.stdout
    command = [one for one in launchers.COMMANDS["gke"] if one != "--mount"]
    pods = launchers.run((*command, "--dry_run")).stdout
    assert launchers.BUCKET in pods
    assert "volumeMounts" not in pods


@pytest.mark.parametrize(
    ("tpu", "shape", "hosts", "label"),
    [
        ("v5p-256", "4x4x8", 32, "tpu-v5p-slice"),
        ("v5p-8", "2x2x1", 1, "tpu-v5p-slice"),
        ("v4-128", "4x4x4", 16, "tpu-v4-podslice"),
        ("v5litepod-16", "4x4", 4, "tpu-v5-lite-podslice"),
        ("v5e:16x16", "16x16", 64, "tpu-v5-lite-podslice"),
        ("v6e-1", "1x1", 1, "tpu-v6e-slice"),
        ("v3-8", "2x2", 1, "tpu-v3-device"),
        ("v3-2048", "32x32", 256, "tpu-v3-slice"),
        ("v5p:4x4x16", "4x4x16", 64, "tpu-v5p-slice"),
        ("tpu7x:4x4x4", "4x4x4", 16, "tpu7x"),
    ],
)
def test_a_slice_can_be_given_by_either_name(tpu, shape, hosts, label):
    command = (*launchers.COMMANDS["gke_nfs"], f"--tpu={tpu}")
    text = launchers.dry_run(command)
    assert f"gke-tpu-topology: {shape}\n" in text
    assert f"completions: {hosts}\n" in text
    assert f"gke-tpu-accelerator: {label}\n" in text


@pytest.mark.parametrize(
    ("tpu", "version"),
    [
        # https://cloud.google.com/tpu/docs/runtimes
        ("v2-8", "tpu-ubuntu2204-base"),
        ("v3-32", "tpu-ubuntu2204-base"),
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-64", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
    ],
)
def test_tpu_vms_get_the_software_version_of_their_chip(tpu, version):
    yaml = pytest.importorskip("yaml")
    sky = launchers.dry_run((*launchers.COMMANDS["skypilot_tpu"], f"--tpu={tpu}"))
    resources = yaml.safe_load(launchers.parts(sky)[1])["resources"]
    assert resources["accelerators"] == f"tpu-{tpu}"
    assert resources["accelerator_args"] == {"runtime_version": version}
    one = ("--slices=1", f"--tpu={tpu}")
    queued = (*launchers.COMMANDS["queued_resource"], *one)
    assert f"--runtime-version={version} " in launchers.dry_run(queued)
    assert "accelerator_args" not in golden("skypilot")


def write_golden_files() -> None:
    """Takes what would run today as golden."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for engine, command in launchers.COMMANDS.items():
        (GOLDEN / f"{engine}.txt").write_text(launchers.dry_run(command))
    (GOLDEN / "stop").mkdir(exist_ok=True)
    for engine in launchers.CONTROLS:
        text = launchers.dry_controls(engine)
        (GOLDEN / "stop" / f"{engine}.txt").write_text(text)


if __name__ == "__main__":
    write_golden_files()
