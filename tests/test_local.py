"""launch/local.sh starts, signals and ends processes; what they run is no matter."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import time

import pytest

from tests import local_processes

LOCAL = pathlib.Path(__file__).parents[1] / "launch" / "local.sh"
ID = "$GLIDE_JAX_PROCESS_ID"


def run(script: str, logs: pathlib.Path, processes: int = 3, *flags: str):
    command = [str(LOCAL), f"--processes={processes}", f"--logs={logs}", *flags]
    return subprocess.run(
        [*command, "--", "bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_each_process_knows_its_place_and_its_devices(tmp_path):
    names = ("PROCESS_ID", "NUM_PROCESSES", "COORDINATOR")
    variables = " ".join(f"$GLIDE_JAX_{name}" for name in names)
    result = run(f"echo {variables} $NPROC $JAX_PLATFORMS", tmp_path, 2, "--devices=4")
    assert result.returncode == 0
    logs = [(tmp_path / f"process{i}.log").read_text().split() for i in (0, 1)]
    assert [log[:2] for log in logs] == [["0", "2"], ["1", "2"]]
    assert logs[0][2] == logs[1][2]
    assert logs[0][2].startswith("127.0.0.1:")
    # Fewer threads than this, and fake devices starve each other.
    assert [log[3:] for log in logs] == [["16", "cpu"]] * 2
    assert result.stdout.split() == logs[0], "process 0 is heard on the terminal"


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ("0 0 0", 0),
        ("42 42 42", 42),
        ("0 2 0", 2),
        ("0 137 2", 2),  # lost because of the mistake, whoever ends first
        ("42 2 42", 2),
        ("0 0 139", 139),
    ],
)
def test_the_exit_code_says_whether_to_start_again(tmp_path, codes, expected):
    script = f"codes=({codes}); exit ${{codes[{ID}]}}"
    assert run(script, tmp_path).returncode == expected


def test_one_that_fails_ends_the_others_and_is_heard(tmp_path):
    script = f"if [ {ID} = 1 ]; then echo why; exit 2; fi; exec sleep 60"
    begin = time.monotonic()
    result = run(script, tmp_path)
    assert result.returncode == 2
    assert time.monotonic() - begin < 30
    assert "[1] why" in result.stderr
    assert "process 1 exited with code 2" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_and_all_are_waited_for(tmp_path, number):
    script = "trap 'echo saved; exit 42' TERM; echo up; while :; do sleep 0.1; done"
    command = [str(LOCAL), "--processes=2", f"--logs={tmp_path}", "--"]
    launcher = subprocess.Popen(
        [*command, "bash", "-c", script], start_new_session=True
    )
    logs = [tmp_path / f"process{i}.log" for i in (0, 1)]
    deadline = time.monotonic() + 30
    with local_processes.ended(launcher):
        while not all(log.exists() and "up" in log.read_text() for log in logs):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        launcher.send_signal(number)
        assert launcher.wait(timeout=30) == 42
    assert all(log.read_text().split() == ["up", "saved"] for log in logs)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes=two", "--", "true"], "--processes=two is not a whole number"),
        (["--gpus=2", "--", "true"], "--gpus=2 is not a flag"),
        (["--processes=2"], "the command is missing"),
    ],
)
def test_a_mistake_is_one_line(flags, message):
    result = subprocess.run(
        [str(LOCAL), *flags], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
