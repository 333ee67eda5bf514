"""A launcher hands over exactly what its dry run shows.

The programs of the clouds are stand-ins that write down what they are given: there is
no cloud here. Slurm and ssh run for real in test_slurm.py and test_ssh.py.
"""

from __future__ import annotations

import pathlib
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
    result = launchers.run(command, programs=programs, environment=environment)
    assert result.returncode == 0, result.stderr
    return (programs.parent / "calls").read_text().splitlines()


def shown(command: tuple[str, ...]) -> list[str]:
    text = launchers.run((*command, "--dry_run")).stdout
    return [part.rstrip("\n") for part in launchers.parts(text)]


@pytest.mark.parametrize(
    ("engine", "program", "arguments"),
    [
        ("slurm", "sbatch", ""),
        ("gke", "kubectl", "apply --namespace=art -f -"),
        ("gke_nfs", "kubectl", "apply -f -"),
    ],
)
def test_a_rendered_file_goes_to_the_standard_input(
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


def test_skypilot_is_given_the_file_that_is_shown(programs, tmp_path):
    launchers.write_program(programs, "sky", f'cp "${{!#}}" "{tmp_path}/task.yaml"')
    command = launchers.COMMANDS["skypilot"]
    result = launchers.run(command, programs=programs)
    assert result.returncode == 0, result.stderr
    task = (tmp_path / "task.yaml").read_text()
    assert task.rstrip("\n") == shown(command)[0]


def test_xpk_is_given_the_command_in_one_piece_and_a_copy_of_the_checkout(
    programs, tmp_path
):
    launchers.write_program(
        programs,
        "xpk",
        f'printf "%s\\n" "$@" >"{tmp_path}/arguments"\n'
        'for a in "$@"; do case "$a" in --script-dir=*)'
        f' ls -A "${{a#*=}}" >"{tmp_path}/files";; esac; done',
    )
    result = launchers.run(launchers.COMMANDS["xpk"], programs=programs)
    assert result.returncode == 0, result.stderr
    arguments = (tmp_path / "arguments").read_text().splitlines()
    (command,) = [a for a in arguments if a.startswith("--command=")]
    assert command.startswith("--command=launch/run_on_host.sh --workdir=/mnt/glide")
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
    assert "nohup setsid launch/run_on_host.sh --workdir=gs://" in started
    assert started.endswith("</dev/null &")


QUEUE = r"""
printf "%s\n" "gcloud $*" >>"$CALLS"
case "$*" in
  *" list "*)  # the state of this look: a line of $STATES, taken off
    head -n 1 "$STATES"; sed -i 1d "$STATES" ;;
  *"storage cp"*) cat >"$CALLS.tar" ;;
esac
"""


def watch(programs, tmp_path, states, *flags) -> tuple[int, list[str]]:
    """How watching a queued resource ends, and what it did beside looking."""
    launchers.write_program(programs, "gcloud", QUEUE)
    launchers.write_program(programs, "sleep", "")
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    calls = tmp_path / "calls"
    result = launchers.run(
        (*launchers.COMMANDS["queued_resource"], *flags),
        programs=programs,
        environment={"STATES": str(tmp_path / "states"), "CALLS": str(calls)},
    )
    made = [line for line in calls.read_text().splitlines() if " list " not in line]
    return result.returncode, made


def verbs(calls: list[str]) -> list[str]:
    return [line.removeprefix("gcloud ").split("resources ")[-1][:6] for line in calls]


def test_slices_are_asked_for_once_and_watched_until_they_are_given_back(
    programs, tmp_path
):
    code, calls = watch(programs, tmp_path, ["", "WAITING", "ACTIVE", "ACTIVE"])
    assert code == 0
    upload, create = calls
    assert upload.endswith(
        "storage cp - gs://my-bucket/runs/base64/launch/base64.tar.gz"
    )
    with tarfile.open(tmp_path / "calls.tar") as archive:
        names = archive.getnames()
    assert "./launch/run_on_host.sh" in names
    assert not [name for name in names if name.startswith(("./.git/", "./.venv"))]
    assert "create base64 --node-count=2 --node-prefix=base64" in create
    assert (
        "--accelerator-type=v5p-256 --runtime-version=v2-alpha-tpuv5 --spot" in create
    )


def test_slices_that_are_taken_away_are_asked_for_again(programs, tmp_path):
    states = ["ACTIVE", "SUSPENDED", "ACTIVE", "FAILED", "ACTIVE"]
    code, calls = watch(programs, tmp_path, states)
    assert code == 0
    assert verbs(calls) == ["delete", "create", "delete", "create"]


def test_slices_are_not_asked_for_more_often_than_restarts_allows(programs, tmp_path):
    states = ["ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE"]
    code, calls = watch(programs, tmp_path, states, "--restarts=1")
    assert code == 1
    assert verbs(calls) == ["delete", "create"]
