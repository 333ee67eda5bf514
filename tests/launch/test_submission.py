"""A launcher runs exactly what its dry run shows.

The programs of the clouds are stand-ins that write down what they are given: there is
no cloud here. Slurm and ssh run for real in test_slurm.py and test_ssh.py.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import tarfile

import pytest

from tests.launch import launchers


@pytest.fixture
def programs(tmp_path) -> pathlib.Path:
    """A folder of stand-ins that append their arguments to `tmp_path/calls`."""
    folder = tmp_path / "programs"
    for name in ("gcloud", "kubectl", "sbatch", "sky", "xpk"):
        launchers.write_program(
            folder,
            name,
            f'printf "%s\\n" "{name} $*" >>"{tmp_path}/calls"\n'
            f'cat >"{tmp_path}/{name}.stdin"',
        )
    return folder


def submit(command, programs, **environment) -> list[str]:
    """What was called, a line each."""
    result = launchers.run(
        (*command, "--nocheck"), programs=programs, environment=environment
    )
    assert result.returncode == 0, result.stderr
    return (programs.parent / "calls").read_text().splitlines()


def shown(command: tuple[str, ...]) -> list[str]:
    text = launchers.run((*command, "--dry_run", "--nocheck")).stdout
    return [part.rstrip("\n") for part in launchers.parts(text)]


@pytest.mark.parametrize(
    ("engine", "program", "arguments"),
    [
        ("slurm", "sbatch", ""),
        ("gke", "kubectl", "--namespace=art apply -f -"),
        ("gke_nfs", "kubectl", "apply -f -"),
    ],
)
def test_a_rendered_file_is_passed_on_standard_input(
    engine, program, arguments, programs, tmp_path
):
    command = launchers.COMMANDS[engine]
    if engine == "slurm":
        command = (*command, f"--workdir={tmp_path}/run")
    assert submit(command, programs) == [f"{program} {arguments}"]
    given = (tmp_path / f"{program}.stdin").read_text()
    assert given.rstrip("\n") == shown(command)[0]


def test_slurm_has_a_folder_for_its_log_before_the_job_starts(programs, tmp_path):
    submit((*launchers.COMMANDS["slurm"], f"--workdir={tmp_path}/run"), programs)
    assert (tmp_path / "run" / "logs").is_dir()


def test_skypilot_gets_the_file_of_the_dry_run(programs, tmp_path):
    launchers.write_program(
        programs,
        "sky",
        f'cp "${{!#}}" "{tmp_path}/task.yaml"\n'
        'for a in "$@"; do case "$a" in --workdir=*)'
        f' ls -A "${{a#*=}}" >"{tmp_path}/files";; esac; done',
    )
    command = launchers.COMMANDS["skypilot"]
    result = launchers.run((*command, "--nocheck"), programs=programs)
    assert result.returncode == 0, result.stderr
    task = (tmp_path / "task.yaml").read_text()
    assert task.rstrip("\n") == shown(command)[1]
    copied = (tmp_path / "files").read_text().splitlines()
    assert {"glide_jax", "launch", "setup.py", ".skyignore"} <= set(copied)
    assert not {".git", ".venv", "runs"} & set(copied)


def test_xpk_gets_the_command_and_a_copy_of_the_checkout(programs, tmp_path):
    launchers.write_program(
        programs,
        "xpk",
        f'printf "%s\\n" "$@" >"{tmp_path}/arguments"\n'
        'for a in "$@"; do case "$a" in --script-dir=*)'
        f' ls -A "${{a#*=}}" >"{tmp_path}/files";; esac; done',
    )
    result = launchers.run((*launchers.COMMANDS["xpk"], "--nocheck"), programs=programs)
    assert result.returncode == 0, result.stderr
    arguments = (tmp_path / "arguments").read_text().splitlines()
    (command,) = [a for a in arguments if a.startswith("--command=")]
    assert command.startswith(
        "--command=launch/run_on_host.sh --name=base64 --workdir=/mnt/glide"
    )
    assert command.endswith("\"--config.data.sources=('folder:photos',)\"")
    copied = (tmp_path / "files").read_text().splitlines()
    assert {"glide_jax", "launch", "setup.py"} <= set(copied)
    assert not {".git", ".venv", "runs"} & set(copied)


def test_a_tpu_vm_gets_the_code_first_and_the_run_last(programs):
    calls = submit(launchers.COMMANDS["tpu_vm"], programs)
    copied, unpacked, started = calls
    assert copied.startswith("gcloud compute tpus tpu-vm scp ")
    assert " my-slice:/tmp/base64.tar.gz --zone=us-east5-a --worker=all" in copied
    assert "tar -xzf /tmp/base64.tar.gz -C ~/base64" in unpacked
    assert "nohup setsid launch/run_on_host.sh --name=base64 --workdir=gs://" in started
    assert started.endswith("</dev/null &")


QUEUE = r"""
printf "%s\n" "gcloud $*" >>"$CALLS"
case "$*" in
  *" list "*)  # the state of this look: a line of $STATES, taken off
    head -n 1 "$STATES"; sed -i 1d "$STATES" ;;
  *"storage cp"*) cat >"$CALLS.tar" ;;
  *"storage ls"*) [ ! -e "$CALLS.failed" ] || cat "$CALLS.failed" ;;
esac
"""
# What is asked of the cloud to look at it, and to forget hosts that failed once.
LOOKS = (" list ", " storage ls ", " storage rm ")


def watch(
    programs, tmp_path, states, *flags
) -> tuple[subprocess.CompletedProcess, list[str]]:
    """How watching a queued resource ends, and what it did beside looking."""
    launchers.write_program(programs, "gcloud", QUEUE)
    launchers.write_program(programs, "sleep", "")
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    calls = tmp_path / "calls"
    calls.write_text("")
    result = launchers.run(
        (*launchers.COMMANDS["queued_resource"], "--nocheck", *flags),
        programs=programs,
        environment={"STATES": str(tmp_path / "states"), "CALLS": str(calls)},
    )
    lines = calls.read_text().splitlines()
    return result, [line for line in lines if not any(look in line for look in LOOKS)]


def verbs(calls: list[str]) -> list[str]:
    return [line.removeprefix("gcloud ").split("resources ")[-1][:6] for line in calls]


def test_slices_are_requested_once_and_monitored(programs, tmp_path):
    result, calls = watch(programs, tmp_path, ["", "WAITING", "ACTIVE", "ACTIVE"])
    assert result.returncode == 0
    upload, create = calls
    assert upload.endswith(
        "storage cp - gs://my-bucket/runs/base64/launch/base64.tar.gz"
    )
    with tarfile.open(tmp_path / "calls.tar") as archive:
        names = archive.getnames()
    assert "launch/run_on_host.sh" in names
    assert not [name for name in names if name.startswith((".git/", ".venv"))]
    assert "create base64 --node-count=2 --node-prefix=base64" in create
    assert (
        "--accelerator-type=v5p-256 --runtime-version=v2-alpha-tpuv5 --spot" in create
    )


def test_lost_slices_are_requested_again(programs, tmp_path):
    states = ["ACTIVE", "SUSPENDED", "ACTIVE", "FAILED", "ACTIVE"]
    result, calls = watch(programs, tmp_path, states)
    assert result.returncode == 0
    assert verbs(calls) == ["delete", "create", "delete", "create"]


def test_restarts_limits_the_requests(programs, tmp_path):
    states = ["ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE"]
    result, calls = watch(programs, tmp_path, states, "--restarts=1")
    assert result.returncode == 1
    assert verbs(calls) == ["delete", "create"]


FAILED = "gs://my-bucket/runs/base64/launch/base64.failed/w-3"


def test_slices_are_kept_if_a_host_cannot_be_prepared(programs, tmp_path):
    (tmp_path / "calls.failed").write_text(FAILED + "\n")
    result, calls = watch(programs, tmp_path, ["ACTIVE", "ACTIVE"])
    assert result.returncode == 5
    assert verbs(calls) == []
    (line,) = result.stdout.splitlines()
    assert line.startswith("could not be prepared: w-3; ")
    assert "gs://my-bucket/runs/base64/logs" in line
    assert "queued-resources delete base64 --zone=us-east5-a --force" in line


def test_on_failure_delete_releases_the_slices(programs, tmp_path):
    (tmp_path / "calls.failed").write_text(FAILED + "\n")
    states = ["ACTIVE", "ACTIVE"]
    result, _ = watch(programs, tmp_path, states, "--on_failure=delete")
    assert result.returncode == 0


# A host of the slices, with the cloud's metadata and storage as stand-ins: `gcloud` is
# told what the code is, and writes down the rest.
HOST = r"""
printf "%s\n" "gcloud $*" >>"$CALLS"
case "$*" in
  *"storage cat"*) [ ! -e "$CODE" ] || cat "$CODE" ;;
  *"storage cp - "*) cat >"$MARKS" ;;
  *"storage ls"*) [ ! -e "$MARKS" ] || echo "$3" ;;
  *"storage rm"*) rm -f "$MARKS" ;;
esac
"""


@pytest.mark.parametrize(
    ("code", "flags", "deletes"),
    [
        (0, (), True),
        (2, (), True),  # a mistake, told in the log
        (5, (), False),  # the environment, say
        (5, ("--on_failure=delete",), True),
        (None, (), False),  # the code has not come
    ],
)
def test_the_first_host_releases_the_slices_unless_preparation_failed(
    programs, tmp_path, code, flags, deletes
):
    command = (*launchers.COMMANDS["queued_resource"], *flags, "--dry_run", "--nocheck")
    startup = launchers.parts(launchers.run(command).stdout)[1]
    startup = startup.replace("/opt/", f"{tmp_path}/opt/")
    (tmp_path / "startup.sh").write_text(startup)
    launchers.write_program(programs, "gcloud", HOST)
    metadata = 'case "$*" in *number*) echo 0;; *zone*) echo a/us-east5-a;; esac'
    launchers.write_program(programs, "curl", metadata)
    archive = tmp_path / "code.tar.gz"
    if code is not None:
        script = launchers.write_program(tmp_path / "launch", "run_on_host.sh", "")
        script.write_text(f"#!/usr/bin/env bash\nexit {code}\n")
        with tarfile.open(archive, "w:gz") as made:
            made.add(script, "launch/run_on_host.sh")
    result = subprocess.run(
        ["bash", tmp_path / "startup.sh"],
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "MARKS": str(tmp_path / "marks"),
            "CODE": str(archive),
        },
        capture_output=True,
        text=True,
    )
    calls = (tmp_path / "calls").read_text()
    assert ("queued-resources delete base64" in calls) == deletes, result.stderr
    assert (tmp_path / "marks").exists() == (code in (5, None))
