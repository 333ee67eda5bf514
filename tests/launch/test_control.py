"""`status` and `stop` of the clouds' launchers, whose programs are stand-ins here.

Slurm and ssh do it for real in test_slurm.py and test_ssh.py.
"""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from tests.launch import launchers

# What each program prints of a run, with words of its own around it.
SHOWN = {
    "tpu_vm": "SSH: connecting to worker 0\nbase64 on w-0, process 0: pid 7, log l",
    "gke": "NAME RESTARTS\nbase64 0",
    "xpk": "[XPK] Starting\nbase64-2 RUNNING\nbase64 RUNNING\n[XPK] Exiting",
    "skypilot": "ID TASK NAME STATUS\n8 - base64-2 RUNNING\n7 - base64 RUNNING",
}
ABSENT = {
    "tpu_vm": "SSH: connecting to worker 0",
    "gke": "",
    "xpk": "[XPK] Starting\nbase64-2 RUNNING\n[XPK] Exiting",
    "skypilot": "ID TASK NAME STATUS\n8 - base64-2 RUNNING",
}
PROGRAMS = {"tpu_vm": "gcloud", "gke": "kubectl", "xpk": "xpk", "skypilot": "sky"}
STOPS = {
    "tpu_vm": "launch/host_runs.sh stop base64",
    "gke": "--namespace=art delete jobset base64",
    "xpk": "workload delete --cluster=my-cluster --workload=base64",
    "skypilot": "jobs cancel --yes --name=base64",
}
ENGINES = pytest.mark.parametrize("engine", SHOWN)


def control(
    engine: str, action: str, tmp_path: pathlib.Path, script: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The end of `status` or `stop`, and what its program was called with."""
    calls = tmp_path / "calls"
    calls.write_text("")
    launchers.write_program(
        tmp_path / "programs",
        PROGRAMS.get(engine, "gcloud"),
        f'echo "$*" | tr "\\n" " " >>"{calls}"; echo >>"{calls}"\n{script}',
    )
    name, *flags = launchers.CONTROLS[engine]
    result = launchers.run((name, action, *flags), programs=tmp_path / "programs")
    return result, calls.read_text().splitlines()


@ENGINES
def test_status_shows_the_run_only(engine, tmp_path):
    script = f"cat <<'END'\n{SHOWN[engine]}\nEND"
    result, _ = control(engine, "status", tmp_path, script)
    assert (result.returncode, result.stderr) == (0, "")
    shown = result.stdout.splitlines()
    assert any("base64" in line.split() for line in shown)
    assert not any("base64-2" in line or "SSH" in line for line in shown)


@ENGINES
@pytest.mark.parametrize("action", ["status", "stop"])
def test_a_missing_run_is_reported_in_one_line(engine, action, tmp_path):
    script = f"cat <<'END'\n{ABSENT[engine]}\nEND" if ABSENT[engine] else ""
    result, calls = control(engine, action, tmp_path, script)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{launchers.CONTROLS[engine][0]}: there is no run base64 ")
    assert not any(STOPS[engine] in call for call in calls)


@ENGINES
def test_stop_stops_an_existing_run(engine, tmp_path):
    script = f"cat <<'END'\n{SHOWN[engine]}\nEND"
    result, calls = control(engine, "stop", tmp_path, script)
    assert result.returncode == 0, result.stderr
    assert STOPS[engine] in calls[-1]


@ENGINES
def test_a_failing_program_is_an_error(engine, tmp_path):
    result, calls = control(engine, "stop", tmp_path, "echo no login >&2; exit 1")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[0] == "no login"
    assert "failed with code 1; its message is above" in result.stderr
    assert len(calls) == 1


QUEUE = r"""
case "$*" in
  *"queued-resources list"*) echo {state} ;;
  *"tpu-vm list"*) printf "base64-0\nbase64-1\n" ;;
  *"tpu-vm ssh base64-1"*) exit {code} ;;
  *" ssh "*) echo "SSH: connecting"; {told} ;;
esac
"""
TOLD = 'echo "base64 on w-0, process 0: saves a checkpoint and exits"'


@pytest.mark.parametrize(
    ("state", "told", "deletes"),
    [("ACTIVE", TOLD, False), ("ACTIVE", ":", True), ("WAITING", ":", True)],
)
def test_slices_without_a_run_are_released_at_once(state, told, deletes, tmp_path):
    script = QUEUE.format(state=state, told=told, code=0)
    result, calls = control("queued_resource", "stop", tmp_path, script)
    assert result.returncode == 0, result.stderr
    assert any("queued-resources delete base64" in c for c in calls) == deletes
    stops = [c for c in calls if "sudo launch/host_runs.sh stop base64" in c]
    assert len(stops) == (2 if state == "ACTIVE" else 0), "on both slices"


def test_slices_are_kept_if_a_host_cannot_be_reached(tmp_path):
    script = QUEUE.format(state="ACTIVE", told=":", code=255)
    result, calls = control("queued_resource", "stop", tmp_path, script)
    assert result.returncode == 2
    assert not any("delete" in call for call in calls)


def test_a_deleted_resource_has_no_run(tmp_path):
    script = QUEUE.format(state="", told=":", code=0)
    result, _ = control("queued_resource", "status", tmp_path, script)
    assert (result.returncode, result.stdout) == (1, "")
    assert "there is no run base64 among the queued resources" in result.stderr
