"""launch/curves.sh: its commands, their order, and errors."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest

from glide_jax.cli import main
from tests.launch import launchers

COMMAND = str(launchers.LAUNCH / "curves.sh")
# Writes down its arguments, and the reference where it is asked for one.
GLIDE = """#!/usr/bin/env bash
printf '%q ' "$@" >>"$RECORD"
echo >>"$RECORD"
for word in "$@"; do
  file="${word#*=}"
  case "$word" in
    --output=*.npz) mkdir -p "$(dirname "$file")" && touch "$file" ;;
    --output=*/bundle) mkdir -p "$file" && touch "$file/bundle.json" ;;
  esac
done
"""


@pytest.fixture
def start(tmp_path):
    """start(*flags) -> (exit code, the commands started, stderr)."""
    program = tmp_path / "venv" / "bin" / "glide"
    program.parent.mkdir(parents=True)
    program.write_text(GLIDE)
    program.chmod(0o755)
    for name in ("base_cfg", "noised_clip"):
        (tmp_path / "models" / name).mkdir(parents=True)
    record = tmp_path / "record"

    def run(*flags):
        record.write_text("")
        found = {"VIRTUAL_ENV": str(tmp_path / "venv"), "RECORD": str(record)}
        result = subprocess.run(
            [COMMAND, *flags],
            env={**os.environ, **found},
            capture_output=True,
            text=True,
            check=False,
        )
        commands = [shlex.split(line) for line in record.read_text().splitlines()]
        return result.returncode, commands, result.stderr

    return run


@pytest.fixture
def where(tmp_path):
    return f"--root={tmp_path / 'curves'}", f"--models={tmp_path / 'models'}"


def test_it_makes_a_judge_and_a_reference_sweeps_reports_and_plots(
    start, where, tmp_path
):
    code, commands, _ = start(*where)
    assert code == 0
    train, export, reference, sweep, report, draw = commands
    root = tmp_path / "curves"
    assert train[0] == "train"
    assert "--config.seed=1" in train
    assert export == ["export", f"{root}/judge", f"--output={root}/judge/bundle"]
    features = f"--features=clip:{root}/judge/bundle"
    assert features in reference
    assert features in sweep
    assert reference[:2] == ["evaluate", "reference"]
    assert sweep[:2] == ["sweep", "experiments/sweeps/curves.py"]
    assert report == [
        "sweep",
        f"--root={root}",
        "--report",
        f"--rows={root}/rows.jsonl",
    ]
    assert draw == ["evaluate", f"--curves={root}", f"--output={root}/curves.png"]


def test_a_second_start_keeps_the_judge_and_the_reference(start, where):
    start(*where)
    _, commands, _ = start(*where)
    assert [command[0] for command in commands] == ["sweep", "sweep", "evaluate"]


def test_its_flags_make_nine_runs_of_glide_evaluate(
    start, where, tmp_path, monkeypatch, capsys
):
    _, (*_, sweep, _, _), _ = start(*where, "--", "--num_images=64")
    monkeypatch.chdir(launchers.ROOT)
    # The models and the reference are not there.
    assert main.run([sweep[0], "--dry_run", "--nocheck_inputs", *sweep[1:]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    # A flag that is given replaces the script's own.
    assert all("--num_images=64" in line for line in lines)
    assert not any("--num_images=512" in line for line in lines)
    assert all("--save_images=512" in line for line in lines)
    assert f"--reference={tmp_path}/curves/reference.npz" in lines[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--models=absent",), "--models=absent has no base_cfg"),
        (("--scale=3",), "--scale=3 is not a flag; see --help"),
    ],
)
def test_a_user_error_is_one_line_and_starts_nothing(start, flags, message):
    code, commands, error = start(*flags)
    assert (code, commands) == (2, [])
    (line,) = error.splitlines()
    assert message in line
