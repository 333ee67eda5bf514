"""The command run in this process, and a trained workdir with its bundle."""

from __future__ import annotations

import functools
import os
import pathlib

import pytest

from glide_jax.cli import main
from glide_jax.train import setup
from tests.train import small_runs


@pytest.fixture(scope="session")
def make_config(tmp_path_factory):
    """make_config(CLIP, {"train.num_steps": 4}) -> settings of a small run."""
    folder = small_runs.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return functools.partial(small_runs.make_config, folder)


@pytest.fixture(scope="session")
def experiment(make_config, tmp_path_factory) -> pathlib.Path:
    """An experiment file of a small text2im run."""
    folder = tmp_path_factory.mktemp("experiment")
    return small_runs.write_experiment(folder / "small.py", make_config())


@pytest.fixture(scope="session")
def workdir(make_config, tmp_path_factory) -> pathlib.Path:
    """A workdir with one checkpoint, and its bundle in WORKDIR/bundle."""
    folder = tmp_path_factory.mktemp("workdir") / "base"
    run, state = setup.prepare(make_config(), folder)
    run.save(state, 1, {})
    run.checkpoints.close()
    assert main.run(["export", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def clip_bundle(make_config, tmp_path_factory) -> pathlib.Path:
    """A bundle of another family."""
    folder = tmp_path_factory.mktemp("workdir") / "clip"
    run, state = setup.prepare(make_config(small_runs.CLIP), folder)
    run.save(state, 1, {})
    run.checkpoints.close()
    assert main.run(["export", str(folder)]) == 0
    return folder / "bundle"


@pytest.fixture
def refused(tmp_path, capsys, caplog, monkeypatch):
    """refused("train", "--workdir=x") -> its one line; nothing may be left behind.

    The command runs inside `tmp_path`, so that paths without a root lie there.
    """
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> str:
        before = files(tmp_path)
        assert main.run(list(argv)) == 2
        captured = capsys.readouterr()
        # Outside the tests log records are lines on stderr as well.
        lines = captured.err.splitlines() + [
            record.getMessage() for record in caplog.records if record.levelno >= 20
        ]
        assert len(lines) == 1, lines
        assert captured.out == ""
        assert files(tmp_path) == before
        return lines[0]

    return run


def files(folder: pathlib.Path) -> set[str]:
    """All files at any depth."""
    return {os.path.join(root, n) for root, _, names in os.walk(folder) for n in names}
