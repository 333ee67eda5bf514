"""The whole pipeline: what is planted is dropped, and shards do not depend on the run.

The embedded engine works in one process and in two, and is killed.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pyarrow.parquet
import pytest
from PIL import Image

from glide_jax.cli import main
from glide_jax.data import schema, sources
from tests import fake_devices
from tests.prepare import planted

pytest.importorskip("apache_beam", reason='needs pip install -e ".[prepare]"')
pytestmark = pytest.mark.slow

CONFIG = "--config=experiments/data/prepare.py"
NUM_GOOD = 150
SEGFAULT, ASSERTION = b"the picture that ends its process", b"that raises"


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> pathlib.Path:
    """A folder with good pairs, and one or more of what each rule drops."""
    folder = tmp_path_factory.mktemp("raw")
    for i in range(NUM_GOOD):
        picture = planted.png(planted.texture(i))
        planted.write(folder, f"a{i:03d}.png", picture, f"texture number {i}")
    for i in range(5):
        # Copies have more pixels or come later, so that the original is kept.
        first = planted.texture(i)
        planted.write(folder, f"b{i}.png", planted.png(first), "the same file")
        again = planted.png(first, level=0)
        planted.write(folder, f"c{i}.png", again, "the same pixels")
        planted.write(folder, f"d{i}.jpg", planted.jpeg(first), "a jpeg of it")
        small = planted.png(planted.cropped(first))
        planted.write(folder, f"e{i}.png", small, "a crop of it")
    other = planted.png(planted.texture(1000, 50, 60))
    planted.write(folder, "f0.png", other, "a small picture")
    planted.write(
        folder, "f1.png", planted.png(planted.texture(1001, 200, 90)), "a wide one"
    )
    planted.write(folder, "f2.png", b"\x89PNG broken", "a broken one")
    planted.write(folder, "f3.png", planted.png(planted.texture(1002)), "word")
    text = "image may contain: text"
    planted.write(folder, "f4.png", planted.png(planted.texture(1003)), text)
    frames = [planted.texture(1004 + i) for i in range(2)]
    frames[0].save(folder / "f5.gif", save_all=True, append_images=frames[1:])
    (folder / "f5.txt").write_text("an animated one")
    for i in range(4):
        caption = "our summer sale"
        planted.write(
            folder, f"g{i}.png", planted.png(planted.texture(2000 + i)), caption
        )
    planted.write(folder, "h0.jpg", planted.jpeg(planted.texture(3000), 80), "held out")
    return folder


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("held_out")
    planted.write(folder, "0.png", planted.png(planted.texture(3000)), "held out")
    return folder


EXPECTED = {
    "broken": 1,
    "too_small": 1,
    "aspect": 1,
    "animated": 1,
    "caption_short": 1,
    "caption_boilerplate": 1,
    "validation": 1,
    "duplicate_bytes": 5,
    "duplicate_pixels": 5,
    "near_duplicate": 10,
    "caption_repeated": 4,
}


def command(raw, held_out, output, *more: str) -> list[str]:
    return [
        *("data", "prepare", CONFIG, f"--output={output}"),
        f"--config.data.sources=folder:{raw}",
        f"--config.data.validation_sources=folder:{held_out}",
        *("--config.caption.max_pictures=3", "--config.output.pairs_per_shard=40"),
        *more,
    ]


@pytest.fixture(scope="module")
def prepared(raw, held_out, tmp_path_factory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("prepared") / "out"
    assert main.run(command(raw, held_out, output)) == 0
    return output


def manifest(output: pathlib.Path) -> dict:
    return json.loads((output / "manifest.json").read_text())


def test_what_is_planted_is_dropped_counted_and_named(prepared, raw):
    found = manifest(prepared)
    assert found["dropped"] == EXPECTED
    assert found["pairs_kept"] == NUM_GOOD
    rows = pyarrow.parquet.read_table(prepared / "dropped").to_pylist()
    assert collections.Counter(row["rule"] for row in rows) == EXPECTED
    for row in rows:
        if row["rule"].startswith("duplicate") or row["rule"] == "near_duplicate":
            # b0.png, c0.png, d0.jpg and e0.png are copies of a000.png.
            assert row["other_key"] == f"a00{row['key'][1]}.png"
    for rule in EXPECTED.keys() - {"broken"}:
        with Image.open(prepared / "sheets" / f"{rule}.png") as sheet:
            assert min(sheet.size) > 100
    card = (prepared / "README.md").read_text()
    assert all(f"| {rule} | {count} |" in card for rule, count in EXPECTED.items())


def test_training_reads_the_tars_by_index(prepared, raw):
    source = sources.open_source(f"webdataset:{prepared / 'train'}")
    before = sources.open_source(f"folder:{raw}")
    assert len(source) == NUM_GOOD
    rows = pyarrow.parquet.read_table(sorted((prepared / "train").glob("*.parquet")))
    kept = [before[row["source_index"]] for row in rows.to_pylist()]
    assert [
        (record.image, record.caption)
        for record in (source[i] for i in range(NUM_GOOD))
    ] == [(record.image, record.caption) for record in kept]
    order = [row["source_index"] for row in rows.to_pylist()]
    assert order != sorted(order)
    sizes = [shard["pairs"] for shard in manifest(prepared)["shards"]]
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == 4


def test_array_records_have_the_same_pairs(prepared, raw, held_out, tmp_path):
    words = ("--config.output.format=array_record", "--config.output.name=pairs")
    output = tmp_path / "out"
    assert main.run(command(raw, held_out, output, *words)) == 0
    records = sources.open_source(f"tfds:{output / 'pairs'}?split=train")
    tars = sources.open_source(f"webdataset:{prepared / 'train'}")
    assert isinstance(records, schema.Source)
    assert len(records) == len(tars)
    for i in range(len(tars)):
        assert (records[i].image, records[i].caption) == (
            tars[i].image,
            tars[i].caption,
        )


def test_two_processes_write_the_same_shards(prepared, raw, held_out, tmp_path):
    words = command(raw, held_out, tmp_path / "out", "--processes=2")
    subprocess.run(
        [sys.executable, "-m", "glide_jax.cli.main", *words],
        cwd=fake_devices.ROOT,
        check=True,
    )
    assert manifest(tmp_path / "out")["shards"] == manifest(prepared)["shards"]


def test_other_settings_are_refused(prepared, raw, held_out, capsys):
    words = command(raw, held_out, prepared, "--config.seed=1")
    assert main.run(words) == 2
    assert "seed: 0 -> 1" in capsys.readouterr().err


def start(words: list[str], **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "glide_jax.cli.main", *words],
        cwd=fake_devices.ROOT,
        start_new_session=True,
        **more,
    )


def test_a_killed_run_continues_with_what_it_has(prepared, raw, held_out, tmp_path):
    output = tmp_path / "out"
    words = command(raw, held_out, output)
    for place in ("work/facts_validation/*.parquet", "work/shards/*.json"):
        process = start(words)
        while not list(output.glob(place)):
            assert process.poll() is None
            time.sleep(0.01)
        # Only the driver: its helpers have to end by themselves.
        process.kill()
        process.wait()
        wait_for_end_of_group(process.pid)
    assert not (output / "manifest.json").exists()
    before = {p: p.stat().st_mtime_ns for p in output.rglob("work/facts/*.parquet")}
    assert before
    assert main.run(words) == 0
    assert before.items() <= {p: p.stat().st_mtime_ns for p in before}.items()
    assert manifest(output)["shards"] == manifest(prepared)["shards"]
    assert not list(output.rglob(".*.tmp"))


def wait_for_end_of_group(group: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("a worker outlives its parent")


# Makes Pillow fail on two pictures as a broken decoder would, in every new process.
BROKEN_DECODER = f"""
import os, signal
from PIL import Image
whole = Image.open
def broken(stream, *arguments, **keywords):
    content = stream.getvalue() if hasattr(stream, "getvalue") else b""
    if {SEGFAULT!r} in content:
        os.kill(os.getpid(), signal.SIGSEGV)
    assert {ASSERTION!r} not in content, "an unexpected error"
    return whole(stream, *arguments, **keywords)
Image.open = broken
"""


def test_a_picture_that_ends_a_worker_is_dropped_and_named(tmp_path):
    raw, output = tmp_path / "raw", tmp_path / "out"
    for i in range(70):
        end = {33: SEGFAULT, 60: ASSERTION}.get(i, b"")
        picture = planted.png(planted.texture(i)) + end
        planted.write(raw, f"{i:02d}.png", picture, f"texture number {i}")
    (tmp_path / "sitecustomize.py").write_text(BROKEN_DECODER)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    words = ["data", "prepare", CONFIG, f"--output={output}"]
    words.append(f"--config.data.sources=folder:{raw}")
    process = start(words, env={**os.environ, "PYTHONPATH": path})
    assert process.wait() == 0
    found = manifest(output)
    assert found["dropped"] == {"crash": 2}
    assert found["pairs_kept"] == 68
    rows = pyarrow.parquet.read_table(output / "dropped").to_pylist()
    assert [row["index"] for row in rows] == [33, 60]
    assert "BrokenProcessPool" in rows[0]["detail"]
    assert "an unexpected error" in rows[1]["detail"]
