"""A signal ends `glide data` with 42, and leaves nothing that looks whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from glide_jax.cli import main
from glide_jax.data import emoji, folder
from glide_jax.text import sentencepiece_training
from tests import fake_devices


@pytest.fixture
def pictures(tmp_path):
    """A folder of six captioned pictures."""
    place = tmp_path / "pictures"
    place.mkdir()
    for i in range(6):
        shade = np.full((8, 8, 3), 40 * i, np.uint8)
        Image.fromarray(shade).save(place / f"{i}.png")
        (place / f"{i}.txt").write_text(f"shade {i}")
    return place


@pytest.fixture
def signal_at(monkeypatch):
    """signal_at(3, owner, name): the fourth call of owner.name sends one first."""

    def prepare(count: int, owner: object, name: str, number=signal.SIGTERM) -> list:
        calls = []
        whole = getattr(owner, name)

        def call(*arguments):
            if len(calls) == count:
                os.kill(os.getpid(), number)
            calls.append(arguments)
            return whole(*arguments)

        monkeypatch.setattr(owner, name, call)
        return calls

    return prepare


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_build_leaves_nothing_and_starts_over(
    tmp_path, pictures, signal_at, capsys, number
):
    output = tmp_path / "out"
    command = ["data", "build", f"--source=folder:{pictures}", "--name=drawn"]
    command += [f"--output={output}"]
    calls = signal_at(3, folder.Folder, "__getitem__", number)
    assert main.run(command) == 42
    assert len(calls) == 4  # the record under way, and no more
    assert "the same command starts over" in capsys.readouterr().err
    assert not output.exists()
    assert main.run(command) == 0
    assert [path.name for path in output.iterdir()] == ["drawn"]


def test_a_build_removes_what_a_killed_one_has_left(tmp_path, pictures):
    output = tmp_path / "out"
    command = ["data", "build", f"--source=folder:{pictures}", "--name=drawn"]
    command += [f"--output={output}"]
    kill = (
        "import os, signal, sys; from glide_jax.cli import main; from glide_jax.data "
        "import folder; folder.Folder.__getitem__ = lambda *_: os.kill(os.getpid(), "
        "signal.SIGKILL); main.run(sys.argv[1:])"
    )
    killed = subprocess.run(
        [sys.executable, "-c", kill, *command], cwd=fake_devices.ROOT, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(list(output.iterdir())) == 1
    assert main.run(command) == 0
    assert [path.name for path in output.iterdir()] == ["drawn"]


def test_a_stopped_split_leaves_the_data_set_as_it_was(tmp_path, pictures, signal_at):
    command = ["data", "build", f"--source=folder:{pictures}", "--name=drawn"]
    command += [f"--output={tmp_path / 'out'}"]
    assert main.run(command) == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    signal_at(3, folder.Folder, "__getitem__")
    assert main.run([*command, "--split=validation"]) == 42
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    assert after == before


def test_a_stopped_tokenizer_is_not_written(tmp_path, pictures, signal_at, monkeypatch):
    command = ["data", "tokenizer", f"--source=folder:{pictures}", "--vocab_size=300"]
    monkeypatch.setattr(sentencepiece_training, "train_sentencepiece", None)
    signal_at(3, folder.Folder, "__getitem__")
    assert main.run([*command, f"--output={tmp_path / 'out'}"]) == 42
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    not (emoji.FONT_PATH.is_file() and emoji.NAMES_PATH.is_file()),
    reason="Debian's emoji are not installed",
)
def test_a_stopped_emoji_set_leaves_nothing(tmp_path, signal_at):
    calls = signal_at(2, emoji, "draw")
    assert main.run(["data", "emoji", f"--output={tmp_path / 'out'}"]) == 42
    assert len(calls) == 3
    assert not (tmp_path / "out").exists()
