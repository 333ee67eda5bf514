"""Launchers check the settings on this machine before submission."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

from glide_jax.parallel import chips
from glide_jax.plan import machines
from tests.launch import launchers

COMMANDS = launchers.COMMANDS


@pytest.fixture
def asked(tmp_path):
    """asked(ENGINE, FLAG...) -> the arguments of `glide train`; a stand-in is asked."""
    python = launchers.write_program(
        tmp_path / "bin",
        "python",
        f'[ "$1" = -c ] && exit 0\nprintf "%s\\n" "$@" >"{tmp_path}/asked"',
    )

    def run(engine: str, *flags: str) -> list[str]:
        command = (*COMMANDS[engine], *flags, "--dry_run")
        environment = {"VIRTUAL_ENV": str(python.parents[1])}
        result = launchers.run(command, environment=environment)
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
        return (tmp_path / "asked").read_text().splitlines()

    return run


@pytest.mark.parametrize(
    ("engine", "flags", "devices", "slices"),
    [
        ("slurm", (), 16 * 8, None),
        ("tpu_vm", (), 32, 1),
        ("queued_resource", (), 2 * 128, 2),
        ("gke", (), 2 * 128, 2),
        ("gke_nfs", (), 16, 1),
        # JAX counts two devices to a chip of Ironwood.
        ("gke_nfs", ("--tpu=tpu7x:2x2x2", "--slices=3"), 3 * 16, 3),
        ("xpk", (), 2 * 128, 2),
        ("xpk", ("--tpu=v5litepod-16", "--slices=1"), 16, 1),
        ("skypilot", (), 4 * 8, None),
        ("skypilot", ("--accelerators=L4", "--chip=l4", "--nodes=3"), 3, None),
        ("skypilot_tpu", (), 32, 1),
        ("ssh", (), 2 * 8, None),
    ],
)
def test_settings_are_checked_for_the_runs_number_of_devices(
    asked, engine, flags, devices, slices
):
    arguments = asked(engine, *flags)
    assert arguments[:4] == ["-m", "glide_jax.cli.main", "train", "--dry_run"]
    assert f"--devices={devices}" in arguments
    named = [argument for argument in arguments if argument.startswith("--slices")]
    assert named == ([] if slices is None else [f"--slices={slices}"])
    own = [one for one in COMMANDS[engine] if one.startswith("--config")]
    assert arguments[-len(own) :] == own


def test_processes_of_a_cpu_are_devices(asked):
    flags = ("--config.train.global_batch_size=6", "--gpus=2", "--tasks=2", "--nodes=3")
    assert "--devices=6" in asked("slurm", *flags)


def test_the_launchers_count_devices_of_a_chip_as_jax_does():
    script = 'die() { exit 2; }; . launch/tpu.sh; read_tpu; echo "$devices"'
    for chip in machines.TPUS:
        shape = "2x2x1" if chip in ("v4", "v5p", "tpu7x") else "2x2"
        result = subprocess.run(
            ["bash", "-c", f"tpu={chip}:{shape}; {script}"],
            cwd=launchers.ROOT,
            capture_output=True,
            text=True,
        )
        assert result.stdout == f"{4 * chips.CHIPS[chip].devices}\n", result.stderr


@pytest.mark.parametrize("chip", machines.TPUS)
def test_the_launchers_and_plans_know_the_same_slices(chip):
    script = 'die() { echo no; exit; }; . launch/tpu.sh; read_tpu; echo "$shape"'
    for machine in machines.MACHINES.values():
        for shape in machine.shapes:
            result = subprocess.run(
                ["bash", "-c", f"tpu={chip}:{shape}; {script}"],
                cwd=launchers.ROOT,
                capture_output=True,
                text=True,
            )
            is_known = shape in machines.MACHINES[chip].shapes
            assert result.stdout == (f"{shape}\n" if is_known else "no\n")


@pytest.mark.parametrize(
    ("engine", "flag", "named"),
    [
        ("slurm", "--config.optim.learning_rte=1", "did you mean optim.learning_rate?"),
        ("queued_resource", "--config.mesh.fsdp=3", "256 in 2 slices"),
        ("gke", "--config.train.global_batch_size=100", "is not divisible by 256"),
        ("ssh", "--config.train.num_steps=many", "num_steps"),
    ],
)
def test_invalid_settings_are_errors_before_submission(engine, flag, named, tmp_path):
    for program in ("sbatch", "gcloud", "kubectl", "ssh", "rsync"):
        launchers.write_program(tmp_path, program, f'touch "{tmp_path}/called"')
    result = launchers.run(
        (*COMMANDS[engine], flag),
        programs=tmp_path,
        environment={"VIRTUAL_ENV": sys.prefix},
    )
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{COMMANDS[engine][0]}: ")
    assert named in line
    assert not (tmp_path / "called").exists()


def test_without_an_environment_the_check_is_skipped_with_a_warning(tmp_path):
    environment = {"VIRTUAL_ENV": str(tmp_path)}
    command = (*COMMANDS["gke"], "--config.optim.learning_rte=1", "--dry_run")
    result = launchers.run(command, environment=environment)
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert "gke.sh: the settings are not checked" in line
    assert "make_environment" in line
    # The line can be followed: what it names is there.
    remedy = line.partition("to create it: ")[2]
    assert shlex.split(remedy)[-1] == '. launch/environment.sh && make_environment ""'
    silent = launchers.run((*command, "--nocheck"), environment=environment)
    assert (silent.returncode, silent.stderr) == (0, "")


SINFO = """\
gpu* 96 gpu:h100:8(S:0-1)
gpu* 64 gpu:h100:8
cpu 48 (null)
small 4 gpu:2,tmpfs:9
"""


@pytest.mark.parametrize(
    ("flags", "cpus"),
    [
        ((), 8),  # of the smallest node, an eighth
        (("--gpus=2", "--partition=gpu"), 8),  # a GPU's share, though two are asked for
        (("--gpus=2", "--partition=small"), 2),
        (("--gpus=8", "--partition=small"), 1),  # never none
        (("--cpus=24",), 3),
    ],
)
def test_a_process_gets_its_share_of_the_cores_of_a_node(tmp_path, flags, cpus):
    lines = json.dumps(SINFO)
    script = (
        'for a in "$@"; do case "$a" in --partition=*) p="${a#*=}";; esac; done\n'
        f'printf {lines} | grep "^${{p:-.}}"'
    )
    launchers.write_program(tmp_path, "sinfo", script)
    command = ("slurm.sh", *launchers.RUN, "--gpus=8", "--chip=h100", "--nocheck")
    result = launchers.run((*command, *flags, "--dry_run"), programs=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"#SBATCH --cpus-per-task={cpus}\n" in result.stdout


def test_tasks_without_gpus_share_the_cores_of_the_default_partition(tmp_path):
    launchers.write_program(tmp_path, "sinfo", 'echo "big 64 (null)"; echo "d* 10 x"')
    command = ("slurm.sh", *launchers.RUN, "--tasks=3", "--nocheck", "--dry_run")
    result = launchers.run(command, programs=tmp_path)
    assert "#SBATCH --cpus-per-task=3\n" in result.stdout


@pytest.mark.parametrize("script", ["exit 1", "true", 'echo "cpu* 8 (null)"'])
def test_without_sinfo_the_cluster_chooses_the_cores(tmp_path, script):
    launchers.write_program(tmp_path, "sinfo", script)
    command = ("slurm.sh", *launchers.RUN, "--gpus=8", "--chip=h100", "--nocheck")
    result = launchers.run((*command, "--dry_run"), programs=tmp_path)
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert "--cpus=N" in line
    assert "--cpus-per-task" not in result.stdout
