"""Sweep files, and a program in the place of `glide` that does what a test says."""

from __future__ import annotations

import pathlib

import pytest

from glide_jax.sweep import run_list, run_supervisor, sweep_file

FILE = """
from glide_jax.sweep import listed, product, seeds, zipped
COMMAND = {command!r}
def sweep():
    return {runs}
"""
RESULT = (
    '{"schema": 1, "verb": "evaluate", "settings": {}, "metrics": {"fid": 3.5}, '
    '"machine": {"platform": "cpu"}, "command": "glide evaluate"}'
)
# Its last argument is the folder's flag; $n counts its starts.
SCRIPT = """#!/usr/bin/env bash
folder="${{@: -1}}"; folder="${{folder#*=}}"
mkdir -p "$folder"
echo "$*" >>"$folder/calls"
n="$(wc -l <"$folder/calls")"
finish() {{ echo '{result}' >"$folder/result.json"; }}
{script}
"""


@pytest.fixture
def write_sweep(tmp_path):
    """write_sweep("listed('seed', [0, 1])") -> a sweep file."""

    def write(runs: str, command: str = "evaluate --base=bundle") -> pathlib.Path:
        path = tmp_path / "small.py"
        path.write_text(FILE.format(command=command, runs=runs))
        return path

    return write


@pytest.fixture
def make_plan(write_sweep):
    """make_plan("listed('seed', [0, 1])", *flags) -> its plan."""

    def make(runs: str, *shared: str, command: str = "evaluate --base=bundle"):
        return run_list.make(sweep_file.load(write_sweep(runs, command)), shared)

    return make


@pytest.fixture
def glide(tmp_path, monkeypatch):
    """glide("exit 3"): what is started as `glide` from now on."""
    monkeypatch.setenv(run_supervisor.PAUSE_VARIABLE, "0")

    def play(script: str) -> None:
        path = tmp_path / "glide"
        path.write_text(SCRIPT.format(script=script, result=RESULT))
        monkeypatch.setattr(run_supervisor, "GLIDE", ("bash", str(path)))

    return play


@pytest.fixture
def root(tmp_path):
    """The folder of a sweep."""
    return tmp_path / "root"
