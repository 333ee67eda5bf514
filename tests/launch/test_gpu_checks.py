"""launch/gpu_checks.sh: measurements and refusals on a machine without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.launch import launchers

COMMAND = str(launchers.LAUNCH / "gpu_checks.sh")


def run(*flags, timeout=60):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "VIRTUAL_ENV": sys.prefix}
    return subprocess.run(
        [COMMAND, *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.parametrize(
    ("flag", "named"), [("--sizes=tiny", "--any_device"), ("--size=tiny", "--help")]
)
def test_mistakes_are_one_line_with_the_remedy(flag, named):
    done = run(flag)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("launch/gpu_checks.sh: ")
    assert named in last


@pytest.mark.slow
def test_rows_are_written_and_a_failure_does_not_end_the_script(tmp_path):
    done = run(
        f"--output={tmp_path}",
        "--sizes=unknown,tiny",
        "--batch=4",
        "--pictures=1",
        "--any_device",
        timeout=500,
    )
    assert done.returncode == 1, done.stderr
    assert "failed: training step, base, unknown" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").open()]
    assert [(row["config"], row["batch"]) for row in rows] == [
        ("base64_tiny", 4),
        ("upsample256_tiny", 1),
    ]
    (row,) = map(json.loads, (tmp_path / "sample.jsonl").open())
    assert row["batch"] == 1
