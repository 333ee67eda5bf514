"""launch/chaos.sh as continuous integration runs it: for one minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests import fake_devices

COMMAND = str(fake_devices.ROOT / "launch" / "chaos.sh")


def run(*flags: str) -> subprocess.CompletedProcess:
    # Else the script makes an environment of its own.
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    return subprocess.run(
        [COMMAND, *flags], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_run_disturbed_for_a_minute_ends_equal_to_one_left_alone(tmp_path):
    output = tmp_path / "soak"
    result = run("--minutes=1", f"--output={output}")
    print(result.stdout)  # the seed and the report, for whoever sees this fail
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((output / "report.json").read_text())
    assert found["is_equal"]
    assert found["starts"] > 1
    assert sum(sum(times.values()) for times in found["injected"].values()) > 0
    assert found["same"]["arrays"] > 100
    assert found["same"]["bad_records*.jsonl"] == 2
    assert "bit for bit" in (output / "report.md").read_text()
    # Of the two processes that run in the end.
    assert found["exit_codes"]["0"] == 2


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--minutes=long"], "--minutes: invalid float value: 'long'"),
        (["--minutes=-1"], "--minutes=-1 is less than none"),
        (["--local_every=10"], "--local_every=10 is not from 0 to 9"),
        (["--kills=-1"], "--kills=-1 is less than none"),
        (["--hours=1"], "unrecognized arguments: --hours=1"),
        ([f"--output={fake_devices.ROOT}"], "is not an empty folder"),
    ],
)
def test_a_mistake_is_one_line(flags, told):
    result = run(*flags)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert told in line
