"""Runs the scripts of launch/, with stand-ins of the clouds' programs on the path."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
CONFIG = "--config=experiments/configs/base64.py:paper"
RUN = (CONFIG, "--name=base64")
BUCKET = "--workdir=gs://my-bucket/runs/base64"

# An ordinary command of each engine, some with a second one.
COMMANDS = {
    "slurm": (
        "slurm.sh",
        *RUN,
        "--nodes=16",
        "--gpus=8",
        "--cpus=96",
        "--mem=512G",
        "--chip=h100",
        "--partition=gpu",
        "--account=art",
        "--time=2-00:00:00",
        "--config.data.sources=('folder:photos',)",
    ),
    "tpu_vm": (
        "tpu_vm.sh",
        *RUN,
        "--tpu=v5p-64",
        "--slice=my-slice",
        "--zone=us-east5-a",
        BUCKET,
    ),
    "queued_resource": (
        "queued_resource.sh",
        *RUN,
        "--tpu=v5p-256",
        "--slices=2",
        "--zone=us-east5-a",
        "--capacity=spot",
        BUCKET,
    ),
    "gke": (
        "gke.sh",
        *RUN,
        "--tpu=v5p:4x4x8",
        "--slices=2",
        "--image=registry.example/glide_jax",
        "--service_account=glide",
        "--capacity=spot",
        "--namespace=art",
        BUCKET,
        "--mount",
    ),
    "gke_nfs": (
        "gke.sh",
        *RUN,
        "--tpu=v6e-16",
        "--image=registry.example/glide_jax",
        "--workdir=/nfs/runs/base64",
        "--restarts=3",
        "--config.data.sources=('folder:photos',)",
    ),
    "xpk": (
        "xpk.sh",
        *RUN,
        "--tpu=v5p-256",
        "--slices=2",
        "--cluster=my-cluster",
        "--storage=glide",
        "--workdir=/mnt/glide/runs/base64",
        "--config.data.sources=('folder:photos',)",
    ),
    "skypilot": (
        "skypilot.sh",
        *RUN,
        "--accelerators=H100:8",
        "--chip=h100",
        "--nodes=4",
        "--infra=aws/us-east-1",
        "--capacity=spot",
        "--workdir=s3://my-bucket/runs/base64",
        "--setup=sudo apt-get install -y s3fs",
    ),
    "skypilot_tpu": ("skypilot.sh", *RUN, "--tpu=v5p-64", BUCKET),
    "ssh": (
        "ssh.sh",
        *RUN,
        "--hosts=alice@gpu1,alice@gpu2",
        "--chip=a100-80gb",
        "--gpus=8",
        "--workdir=/nfs/runs/base64",
        "--setup=mountpoint -q /nfs || sudo mount /nfs",
    ),
}

# How each engine's runs are shown and stopped.
CONTROLS = {
    "slurm": ("slurm.sh", "--name=base64"),
    "tpu_vm": (
        "tpu_vm.sh",
        "--name=base64",
        "--slice=my-slice",
        "--zone=us-east5-a",
    ),
    "queued_resource": ("queued_resource.sh", "--name=base64", "--zone=us-east5-a"),
    "gke": ("gke.sh", "--name=base64", "--namespace=art"),
    "xpk": ("xpk.sh", "--name=base64", "--cluster=my-cluster"),
    "skypilot": ("skypilot.sh", "--name=base64"),
    "ssh": ("ssh.sh", "--name=base64", "--hosts=alice@gpu1,alice@gpu2"),
}


def run(
    command: tuple[str, ...],
    *,
    programs: pathlib.Path | None = None,
    environment: dict[str, str] | None = None,
    timeout_secs: float = 200,
) -> subprocess.CompletedProcess[str]:
    """A launcher's end; `programs` is a folder of made-up ones, before all others.

    A flag that a test adds to one of COMMANDS takes the place of that one's. Without
    the line on untracked files, of which a checkout at work has some: test_code.py is
    about it.
    """
    flags = {flag.partition("=")[:2]: flag for flag in command[1:]}
    path = os.environ["PATH"]
    result = subprocess.run(
        [str(LAUNCH / command[0]), *flags.values()],
        env={
            **os.environ,
            "PATH": f"{programs}:{path}" if programs else path,
            **(environment or {}),
        },
        capture_output=True,
        text=True,
        timeout=timeout_secs,
        check=False,
    )
    result.stderr = re.sub(r"(?m)^\S+: left behind: .*\n", "", result.stderr)
    return result


def dry_run(command: tuple[str, ...]) -> str:
    """What a launcher would run, where the checkout is called /checkout.

    Without the check of the settings, which takes seconds: see test_check.py.
    """
    result = run((*command, "--dry_run", "--nocheck"))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout.replace(str(ROOT), "/checkout")


def dry_controls(engine: str) -> str:
    """What `stop` of an engine would run, the script of `status` included."""
    script, *flags = CONTROLS[engine]
    status = run((script, "status", *flags, "--dry_run"))
    stop = run((script, "stop", *flags, "--dry_run"))
    for result in (status, stop):
        assert (result.returncode, result.stderr) == (0, "")
    assert stop.stdout.startswith(status.stdout), "stop looks for the run first"
    return stop.stdout.replace(str(ROOT), "/checkout")


def parts(transcript: str) -> list[str]:
    """The texts that a dry run shows, without their titles."""
    return re.split(r"(?m)^--- .*\n", transcript)[1:]


def write_program(folder: pathlib.Path, name: str, script: str) -> pathlib.Path:
    """A program of that name in the folder."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)
    return path
