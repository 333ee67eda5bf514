"""User errors of a launcher: one line, exit code 2, no submission."""

from __future__ import annotations

import subprocess

import pytest

from tests.launch import launchers

RUN = launchers.RUN
SLURM = ("slurm.sh", *RUN)
GKE = launchers.COMMANDS["gke"]
QUEUED = launchers.COMMANDS["queued_resource"]
SSH = launchers.COMMANDS["ssh"]


def refused(*command: str) -> str:
    """The one line."""
    result = launchers.run((*command, "--dry_run"))
    assert result.returncode == 2, result.stdout
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{command[0]}: ")
    return line


@pytest.mark.parametrize("script", sorted({c[0] for c in launchers.COMMANDS.values()}))
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ((), "missing, e.g. --config=experiments"),
        ((launchers.CONFIG,), "missing, e.g. --name=base64"),
        (("--config=absent.py:tiny", "--name=a"), "there is no file absent.py"),
        ((*RUN, "--nmae=b"), "--nmae=b is not a flag; use --FLAG=VALUE with one of"),
        ((*RUN, "--dry_run=yes"), "--dry_run=yes is not a flag"),
        ((*RUN, "runs/base"), "runs/base is not an action or a flag"),
        ((*RUN, "--workdir"), "--workdir has no value"),
        ((*RUN, "--workdir="), "--workdir= has no value"),
        ((*RUN, "--setup=a\nb"), "--setup=a... has a line break"),
        ((launchers.CONFIG, "--name=a b"), "--name=a b is not a valid name; use up to"),
        (("--dry_run", "--", "train"), "train is not a verb that hosts share"),
    ],
)
def test_common_flags_are_checked(script, flags, named):
    assert named in refused(script, *flags)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ("--name=judge", "--", "evaluate", "--output=x"),
            "is --workdir; leave it out",
        ),
        (("--name=judge", "--", "evaluate", "elo"), "elo is not a flag of evaluate"),
        (("--name=judge", "--", "sample", "--prompt=a\nb"), "has a line break"),
        ((*RUN, "--", "sample"), "--config is for training, and sample is given after"),
        (("--", "sample", "--prompt=x"), "--name is missing"),
        (("--name=judge", "--"), "-- is not a flag"),
    ],
)
def test_the_words_of_another_verb_are_checked(words, named):
    assert named in refused("slurm.sh", "--dry_run", *words)


@pytest.mark.parametrize(
    ("script", "missing"),
    [
        ("slurm.sh", []),
        ("gke.sh", ["tpu", "image", "workdir"]),
        ("queued_resource.sh", ["tpu", "workdir"]),
        ("skypilot.sh", ["workdir", "accelerators", "chip"]),
        ("ssh.sh", ["hosts", "workdir"]),
        ("tpu_vm.sh", ["tpu", "workdir"]),
        ("xpk.sh", ["tpu", "cluster", "workdir"]),
    ],
)
def test_all_missing_flags_are_named_at_once(script, missing):
    flags = ["--config", "--name", *(f"--{name}" for name in missing)]
    line = refused(script)
    assert f"{', '.join(flags)} are missing" in line
    assert all(f" {flag}=" in line for flag in flags)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("gke.sh", launchers.CONFIG, "--name=Base_64"), "up to 40 lowercase letters"),
        (
            ("gke.sh", launchers.CONFIG, f"--name={'a' * 41}"),
            "up to 40 lowercase letters",
        ),
        ((*SLURM, "--nodes=0"), "--nodes=0 is not a whole number of 1 or more"),
        ((*SLURM, "--gpus=eight"), "--gpus=eight is not a whole number"),
        ((*SLURM, "--restarts=-1"), "--restarts=-1 is not a whole number of 0 or more"),
        ((*SLURM, "--workdir=http://x/y"), "--workdir=http://x/y cannot be used here"),
        ((*SLURM, "--workdir=s3://bucket"), "is not a folder of a bucket"),
        ((*GKE, "--tpu=v5p-9999"), "no slice of v5p has 4999 chips"),
        ((*GKE, "--tpu=v2-8", "--slices=1"), "GKE has no v2; use launch/tpu_vm.sh"),
        (
            (*QUEUED, "--tpu=v3-32"),
            "--slices=2: Cloud TPU connects slices of v4 and later",
        ),
        ((*GKE, "--tpu=h100"), "--tpu=h100 is not a TPU slice"),
        (
            (*GKE, "--tpu=v5e:3x3"),
            "no slice of v5e has the shape 3x3; use one of 1x1 2x2 2x4 4x4",
        ),
        ((*GKE, "--tpu=v5p:0x4x4"), "--tpu=v5p:0x4x4 is not a TPU slice"),
        (
            (*GKE, "--tpu=v5p:4x8"),
            "no slice of v5p has the shape 4x8; use one of 2x2x1",
        ),
        ((*GKE, "--capacity=cheap"), "--capacity=cheap is not one of spot, reserved"),
        ((*GKE, "--workdir=runs/x"), "use an absolute path that all hosts share"),
        ((*GKE, "--workdir=s3://b/x"), "--workdir=s3://b/x cannot be used here"),
        (("gke.sh", *RUN, "--tpu=v5p-8"), "--image, --workdir are missing, e.g."),
        ((*QUEUED, "--workdir=/nfs/x"), "cannot be used here; use gs://BUCKET/PATH"),
        (
            (*QUEUED, "--tpu=v5p:4x4x16"),
            "v5p-512 the shape 4x8x8; use --tpu=v5p-512 for that",
        ),
        ((*QUEUED, "--tpu=tpu7x:4x4x4"), "use launch/gke.sh or launch/xpk.sh"),
        ((*launchers.COMMANDS["xpk"], launchers.BUCKET), "xpk mounts buckets as"),
        ((*launchers.COMMANDS["skypilot"], "--tpu=v5p-8"), "leave out --accelerators"),
        ((*launchers.COMMANDS["skypilot"], "--restarts=3"), "restarts without a limit"),
        ((*SSH, "--hosts=a;b"), "--hosts=a;b is not a list of hosts"),
        (
            (*SSH, "--folder=a b"),
            "--folder=a b has a character that a shell may interpret",
        ),
        ((*SSH, "--coordinator=a;b"), "--coordinator=a;b is not a host name"),
        ((*SSH, "--chip=a100"), "--chip=a100 is not known; use one of cpu v2"),
        ((*SLURM, "--chip=h1000"), "--chip=h1000 is not known"),
        ((*SLURM, "--cpus=0"), "--cpus=0 is not a whole number of 1"),
        ((*SLURM, "--cpus=12", "--gpus=8"), "use a multiple of 8"),
        ((*SLURM, "--mem=64"), "use a number with a unit, such as 64G"),
        ((*SLURM, "--mem=64GB"), "--mem=64GB is not an amount of memory"),
        ((*SLURM, "--nocheck=yes"), "--nocheck=yes is not a flag"),
        ((*QUEUED, "--on_failure=ask"), "--on_failure=ask is not one of keep, delete"),
        ((*SSH, "--gpus=many"), "--gpus=many is not a whole number"),
        ((*SSH, "--chip=cpu"), "leave --gpus out"),
        (
            ("ssh.sh", *RUN, "--hosts=a", "--chip=h100", "--workdir=/n"),
            "--gpus is missing",
        ),
        (
            (*launchers.COMMANDS["skypilot"], "--accelerators=H100:none"),
            "is not KIND or KIND:NUMBER",
        ),
        (
            (*SLURM, "--workdir=runs/$(id)"),
            "has a character that a shell may interpret",
        ),
        ((*SLURM, "--gpus=8", "--tasks=4"), "--tasks=4 is not --gpus=8"),
        ((*SSH, "--workdir=runs/x"), "--workdir=runs/x cannot be used here"),
    ],
)
def test_flags_of_an_engine_are_checked(command, named):
    assert named in refused(*command)


@pytest.mark.parametrize("engine", launchers.CONTROLS)
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ((), "--name is missing"),
        (("--name=a b",), "--name=a b is not a valid name"),
        (
            ("--name=base64", launchers.CONFIG),
            "is not a flag of stop; use --FLAG=VALUE",
        ),
        (("--name=base64", "--nocheck"), "--nocheck is not a flag of stop"),
        (
            ("--name=base64", "--config.train.num_steps=9"),
            "--config.train.num_steps=9 is not a flag of stop",
        ),
    ],
)
def test_flags_of_stop_are_checked(engine, flags, named):
    assert named in refused(launchers.CONTROLS[engine][0], "stop", *flags)


@pytest.mark.parametrize("flag", ["--name=other", "--config.train.num_steps=9"])
def test_a_flag_that_is_given_twice_is_an_error(flag):
    command = [launchers.LAUNCH / "slurm.sh", *RUN, flag, flag, "--dry_run"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{flag.partition('=')[0]} is given twice" in result.stderr


@pytest.mark.parametrize("engine", launchers.COMMANDS)
def test_a_missing_program_is_an_error_except_in_a_dry_run(engine, tmp_path):
    """The machine of this test has bash and the basic tools, and nothing else."""
    needed = ["bash", "env", "basename", "dirname", "cat", "sed", "paste", "rm"]
    for name in needed:
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    command = launchers.COMMANDS[engine]
    path = {"PATH": str(tmp_path)}
    result = launchers.run(command, environment=path)
    program = {
        "slurm.sh": "sbatch",
        "gke.sh": "kubectl",
        "xpk.sh": "xpk",
        "skypilot.sh": "sky",
        "ssh.sh": "ssh",
    }.get(command[0], "gcloud")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert f"{program} is not installed" in line
    assert "--dry_run" in line


@pytest.mark.parametrize("script", sorted({c[0] for c in launchers.COMMANDS.values()}))
def test_help_shows_an_example_and_every_flag(script):
    result = launchers.run((script, "--help"))
    assert result.returncode == 0
    assert f"launch/{script} --config=" in result.stdout
    text = (launchers.LAUNCH / script).read_text()
    own = text.split('read_flags "')[1].split('"')[0].split()
    for flag in (
        *own,
        "config",
        "name",
        "workdir",
        "restarts",
        "setup",
        "dry_run",
        "nocheck",
    ):
        assert f"--{flag}" in result.stdout, flag
