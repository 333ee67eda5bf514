"""A signal ends `glide data` with 42, and leaves no folder that looks complete."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from glide_jax.cli import main
from glide_jax.data import folder, picture_cache, sources
from glide_jax.text import sentencepiece_tokenizer
from tests import fake_devices
from tests.train import small_runs


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
    assert "the same command starts again" in capsys.readouterr().err
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


def test_a_build_of_smaller_pictures_keeps_shapes_and_what_is_small(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 40:] = (200, 100, 50)
    Image.fromarray(wide).save(photos / "wide.png")
    Image.fromarray(wide[:8, 36:44]).save(photos / "small.png")
    for name in ("wide", "small"):
        (photos / f"{name}.txt").write_text(name)
    command = ["data", "build", f"--source=folder:{photos}", "--name=copy", "--px=16"]
    assert main.run([*command, f"--output={tmp_path / 'out'}"]) == 0
    source = sources.open_source(f"tfds:{tmp_path / 'out' / 'copy'}")
    found = {source[i].caption: source[i].image for i in range(2)}
    assert found["small"] == (photos / "small.png").read_bytes()
    copy = np.asarray(Image.open(io.BytesIO(found["wide"])), int)
    assert copy.shape == (16, 32, 3)
    # JPEG of quality 95, away from the edge.
    assert np.abs(copy[:, 20:] - (200, 100, 50)).max() <= 3
    assert np.abs(copy[:, :12]).max() <= 3


def test_a_build_leaves_out_pictures_that_cannot_be_decoded(tmp_path, pictures, caplog):
    (pictures / "7.png").write_bytes(b"no picture")
    (pictures / "7.txt").write_text("cut")
    command = ["data", "build", f"--source=folder:{pictures}", "--name=kept"]
    command += [f"--output={tmp_path / 'out'}", "--max_bad_frac=0.2"]
    assert main.run(command) == 0
    assert "skipped: 7.png: broken image" in caplog.text
    assert len(sources.open_source(f"tfds:{tmp_path / 'out' / 'kept'}")) == 6


def test_a_check_lists_what_cannot_be_used_and_what_comes_twice(pictures, capsys):
    (pictures / "7.png").write_bytes(b"no picture")
    (pictures / "7.txt").write_text("cut")
    (pictures / "8.png").write_bytes((pictures / "1.png").read_bytes())
    (pictures / "8.txt").write_text("shade 1")
    (pictures / "9.png").write_bytes((pictures / "2.png").read_bytes())
    (pictures / "9.txt").write_text("another caption")
    (pictures / "5.txt").write_text("  ")
    command = ["data", "check", f"folder:{pictures}", "--px=16"]
    assert main.run([*command, "--max_bad_frac=0.3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5.png: empty caption"
    assert lines[1].startswith("7.png: broken image")
    assert lines[2:] == [
        "7 of 9 records can be used",
        "short side of the pictures: 8 to 8, median 8 px",
        "7 pictures below 16 px, enlarged by training",
        "captions: 7 to 15, median 7 characters",
        "8.png: the same picture and caption as 1.png",
        "1 duplicate; 1 picture again with another caption",
    ]
    # The rule of training: two of nine are more than a hundredth.
    assert main.run(command) == 2
    assert "2 of 9 records cannot be used" in capsys.readouterr().err


def test_a_check_counts_captions_that_the_context_cuts(tmp_path, pictures, capsys):
    tokenizer = small_runs.write_tokenizer(tmp_path / "tokenizer")
    (pictures / "0.txt").write_text("shade " * 12)
    flags = [f"--tokenizer={tokenizer}", "--context=20"]
    assert main.run(["data", "check", f"folder:{pictures}", *flags]) == 0
    assert "tokens; 1 are cut at 20" in capsys.readouterr().out


def test_a_stopped_tokenizer_is_not_written(tmp_path, pictures, signal_at, monkeypatch):
    command = ["data", "tokenizer", f"--source=folder:{pictures}", "--vocab_size=300"]
    monkeypatch.setattr(sentencepiece_tokenizer, "train_sentencepiece", None)
    signal_at(3, folder.Folder, "__getitem__")
    assert main.run([*command, f"--output={tmp_path / 'out'}"]) == 42
    assert not (tmp_path / "out").exists()


def test_a_cache_is_limited_and_the_counts_are_printed(tmp_path, capsys):
    cache = picture_cache.PictureCache(tmp_path, 8)
    for name in (b"a", b"b"):
        cache.load(name, lambda: np.zeros((8, 8, 3), np.uint8))
    assert main.run(["data", "cache", str(tmp_path), "--max_gb=0"]) == 0
    assert "2 pictures removed; 0 pictures kept" in capsys.readouterr().out
    for words in ([], ["--max_gb=-1"], ["--max_gb=inf"]):
        assert main.run(["data", "cache", str(tmp_path), *words]) == 2
        assert "--max_gb" in capsys.readouterr().err
