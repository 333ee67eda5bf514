"""Tars in object stores: the records of local tars, read by ranges, with faults."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import pathlib
import pickle
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from glide_jax.data import schema, sources, store_ranges, store_tars
from glide_jax.errors import UserError
from glide_jax.runtime import metric_writers, object_store
from glide_jax.text import sentencepiece_tokenizer
from glide_jax.train import loop
from tests.data import streams
from tests.stores import servers
from tests.train import small_runs

PICTURES = 12  # in each of three tars


class Twins(NamedTuple):
    """The same tars on the disk and in a store.

    Attributes:
      local: the folder.
      url: of the folder in the store.
      store: of `url`.
      faults: of the store.
      before: the requests that came earlier.
    """

    local: pathlib.Path
    url: str
    store: object_store.ObjectStore
    faults: servers.Faults
    before: int

    def tar_gets(self) -> int:
        """The number of requests of the contents of tars so far."""
        place = re.compile(r"GET (/download/|/bucket/[^?]*\.tar)")
        return sum(map(bool, map(place.match, self.faults.seen[self.before :])))


def members(first: int) -> dict[str, bytes]:
    """Captioned pictures of noise, some 2 KB each; the captions are JSON for some."""
    made = {}
    for i in range(first, first + PICTURES):
        noise = np.random.default_rng(i).integers(0, 256, (24, 24, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "PNG")
        made[f"{i:03d}.png"] = file.getvalue()
        if i % 3:
            made[f"{i:03d}.txt"] = f"caption {i}".encode()
        else:
            made[f"{i:03d}.json"] = f'{{"caption": "caption {i}"}}'.encode()
    return made


def write_tar(path: pathlib.Path, content: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture(autouse=True)
def own_state(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Each test has a cache and connections of its own, and repeats without delay."""
    monkeypatch.setenv("GLIDE_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(object_store, "_FIRST_WAIT_SECS", 0.01)
    monkeypatch.setattr(object_store, "RETRY_SECS", 20.0)
    monkeypatch.setattr(store_ranges, "_process", store_ranges._Process())
    yield
    # Every announced range is taken or dropped when the threads of a stream have ended.
    process, end = store_ranges._process, time.monotonic() + 30
    while process._free < store_ranges.AHEAD_BYTES and time.monotonic() < end:
        time.sleep(0.05)
    assert (process._free, process._blocks) == (store_ranges.AHEAD_BYTES, {})


@pytest.fixture(params=["gs", "s3"])
def twins(
    request: pytest.FixtureRequest,
    stores: servers.Servers,
    tmp_path: pathlib.Path,
) -> Twins:
    url = f"{request.param}://{servers.BUCKET}/{tmp_path.name}"
    store = object_store.ObjectStore(url, "--source")
    local = tmp_path / "tars"
    local.mkdir()
    for shard in range(3):
        path = local / f"{shard}.tar"
        write_tar(path, members(PICTURES * shard))
        store.upload(path, path.name)
    return Twins(local, url, store, stores.faults, len(stores.faults.seen))


def records(source: schema.Source) -> list[tuple[str, str, bytes]]:
    read = [source[index] for index in range(len(source))]
    return [(one.key, one.caption, bytes(one.image)) for one in read]


def test_records_are_those_of_local_tars_and_later_starts_read_no_tar(twins):
    want = records(sources.open_source(f"webdataset:{twins.local}"))
    assert len(want) == 3 * PICTURES
    source = sources.open_source(f"webdataset:{twins.url}/")
    assert twins.tar_gets() == 3, "small tars are one window each"
    assert records(source) == want
    assert twins.tar_gets() == 3 + len(want), "one request for picture and caption"
    several = f"0.tar,{twins.url}/{{1,2}}.tar"
    for place in ("{0..2}.tar", "*.tar", "[012].tar", several):
        before, sent = twins.tar_gets(), twins.faults.sent
        source = sources.open_source(f"webdataset:{twins.url}/{place}")
        assert twins.tar_gets() == before, "the indices are cached"
        assert twins.faults.sent - sent < 10_000, "only listings were read"
        assert source[17].key == want[17][0] == "1.tar:017"


def test_large_members_are_passed_over_by_the_index(twins, monkeypatch):
    monkeypatch.setattr(store_tars, "WINDOW_BYTES", 1024)
    sent = twins.faults.sent
    source = sources.open_source(f"webdataset:{twins.url}")
    size = sum(path.stat().st_size for path in twins.local.iterdir())
    assert twins.faults.sent - sent < 0.8 * size
    assert records(source) == records(sources.open_source(f"webdataset:{twins.local}"))


def test_a_table_beside_a_tar_has_captions(twins):
    pictures = {name: data for name, data in members(0).items() if ".png" in name}
    write_tar(twins.local / "0.tar", pictures)
    keys = [name[:-4] for name in pictures]
    table = pa.table({"key": keys, "caption": [f"of the table {key}" for key in keys]})
    parquet.write_table(table, twins.local / "0.parquet")
    for name in ("0.tar", "0.parquet"):
        twins.store.upload(twins.local / name, name)
    source = sources.open_source(f"webdataset:{twins.url}/0.tar")
    assert source[3].caption == "of the table 003"
    found = sources.list_inputs(f"webdataset:{twins.url}/0.tar")
    assert found is not None
    assert [line.split()[0] for line in found.objects] == ["0.tar", "0.parquet"]


@pytest.fixture(scope="module")
def tokenizer() -> sentencepiece_tokenizer.SentencePieceTokenizer:
    captions = [f"caption {i} of a word" for i in range(100)]
    model = sentencepiece_tokenizer.train_sentencepiece(captions, 300)
    return sentencepiece_tokenizer.SentencePieceTokenizer(model)


SETTINGS = {"image_px": 8, "text_context": 12, "global_batch_size": 8, "seed": 1}


@pytest.mark.parametrize("memory", [store_ranges.AHEAD_BYTES, 6000])
def test_batches_are_read_ahead_within_the_memory(
    twins, tokenizer, monkeypatch, memory
):
    """With room for two or three records, the others are read when they are used."""
    monkeypatch.setattr(store_ranges, "AHEAD_BYTES", memory)
    monkeypatch.setattr(store_ranges, "GAP_BYTES", 0)
    process, left = store_ranges._Process(), []
    monkeypatch.setattr(store_ranges, "_process", process)
    fetch = process.fetch

    def fetch_and_note(wanted: store_ranges.Range) -> bytes:
        left.append(process._free)
        return fetch(wanted)

    process.fetch = fetch_and_note
    mixed = [
        sources.open_mixture(
            (f"webdataset:{place}/{{0,1}}.tar", f"webdataset:{twins.local}/2.tar"),
            (1.0, 1.0),
        )
        for place in (twins.local, twins.url)
    ]
    before = twins.tar_gets()
    local, stored = (
        streams.make_batches(source, tokenizer, num_threads=2, **SETTINGS)
        for source in mixed
    )
    for _ in range(6):
        want, got = next(local), next(stored)
        assert want.keys() == got.keys()
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])
    stored.close()
    # Half of 8 records, of 6 batches and of those that wait.
    assert 24 <= twins.tar_gets() - before <= 4 * (6 + 4 + 2 + 1)
    assert 0 <= min(left) < memory - 2000


@pytest.mark.parametrize("kind", ["throttle", "cut"])
def test_throttled_and_cut_requests_are_repeated(twins, tokenizer, kind):
    want = records(sources.open_source(f"webdataset:{twins.local}"))
    twins.faults.add(kind, 2, "GET")
    source = sources.open_source(f"webdataset:{twins.url}")
    twins.faults.add(kind, 2, "GET")
    with schema.ahead(source, range(len(source))):
        assert records(source) == want
    batches = streams.make_batches(source, tokenizer, **SETTINGS)
    twins.faults.add(kind, 2, "GET")
    next(batches)
    batches.close()
    assert batches.faults.by_kind() == {}


@pytest.mark.parametrize("kind", ["vanished", "changed"])
def test_records_of_a_lost_tar_are_bad_ones(twins, tokenizer, kind):
    source = sources.open_source(f"webdataset:{twins.url}")
    if kind == "vanished":
        twins.store.delete(["1.tar"])
    else:
        twins.store.upload(twins.local / "0.tar", "1.tar")
    with schema.ahead(source, [0, PICTURES, 2 * PICTURES]):
        assert source[0].caption == "caption 0"
        with pytest.raises(schema.BadRecordError, match=f"{kind} shard") as caught:
            source[PICTURES]
        assert source[2 * PICTURES].caption == "caption 24"
    assert (caught.value.kind, caught.value.key) == (f"{kind} shard", "1.tar:012")
    settings = {**SETTINGS, "num_threads": 1}
    batches = streams.make_batches(source, tokenizer, max_bad_frac=0.9, **settings)
    for _ in range(6):
        next(batches)
    assert batches.faults.by_kind().keys() == {f"{kind} shard"}
    batches.close()
    batches = streams.make_batches(source, tokenizer, max_bad_frac=0.0, **settings)
    with pytest.raises(UserError, match=rf"{kind} shard.*max_bad_frac=0 allows"):
        list(itertools.islice(batches, 6))
    batches.close()
    # The next start lists what there is.
    left = sources.open_source(f"webdataset:{twins.url}")
    captions = [left[index].caption for index in range(PICTURES, len(left))]
    first = 2 * PICTURES if kind == "vanished" else 0
    assert captions[0] == f"caption {first}"


def test_a_store_that_stays_away_ends_the_stream_in_one_line(
    twins, tokenizer, monkeypatch
):
    source = sources.open_source(f"webdataset:{twins.url}")
    monkeypatch.setattr(object_store, "RETRY_SECS", 0.5)
    # Both clients repeat a request for half a minute themselves.
    monkeypatch.setattr(store_ranges, "REQUEST_SECS", 1.0)
    twins.faults.add("throttle", 10_000, "GET")
    batches = streams.make_batches(source, tokenizer, **SETTINGS)
    with pytest.raises(UserError, match=r"//bucket: the store cannot be used \("):
        next(batches)
    twins.faults.clear()
    batches.close()


def read_in_child(source: schema.Source, index: int, queue) -> None:
    queue.put(records_at(source, index))


def records_at(source: schema.Source, index: int) -> tuple[str, str]:
    with schema.ahead(source, [index]):
        return source[index].key, source[index].caption


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_source_is_read_in_other_processes(twins, method):
    source = sources.open_source(f"webdataset:{twins.url}")
    want = records_at(source, 20)
    assert records_at(pickle.loads(pickle.dumps(source)), 20) == want
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(source, 20, queue))
    child.start()
    assert queue.get(timeout=60) == want
    child.join(60)
    assert child.exitcode == 0


def test_places_without_tars_are_one_line(twins):
    twins.store.write("notes/a.txt", b"no tar")
    twins.store.write("3.tar", b"not a tar" * 100)
    bucket = twins.url.replace(f"//{servers.BUCKET}/", "//none/")
    for place, message in {
        f"{twins.url}/{{0..9}}.tar": r"no tar at .*/4\.tar",
        f"{twins.url}/notes": "no tar at .*/notes",
        f"{twins.url}/x*.tar": r"no tar at .*x\*",
        f"{twins.url}/0.tar,{twins.local}/0.tar": "two data sources",
        f"{twins.url}/3.tar": r"3\.tar is not an uncompressed tar",
        f"{bucket}/0.tar": "none: its bucket does not exist",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            sources.open_source(f"webdataset:{place}")
        assert "\n" not in str(caught.value)


def test_refused_credentials_are_one_line_before_a_tar_is_read(twins):
    twins.faults.add("deny", 1, "GET")
    with pytest.raises(UserError, match="bucket: the store refuses access") as caught:
        sources.open_source(f"webdataset:{twins.url}")
    assert "\n" not in str(caught.value)
    assert twins.tar_gets() == 0


def check(source: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "glide_jax.cli.main", "data", "check", source]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True
    )


def test_the_command_checks_them_and_missing_credentials_are_one_line(stores, tmp_path):
    url = f"s3://{servers.BUCKET}/{tmp_path.name}"
    write_tar(tmp_path / "a.tar", members(0))
    object_store.ObjectStore(url, "--source").upload(tmp_path / "a.tar", "a.tar")
    done = check(f"webdataset:{url}")
    assert done.returncode == 0, done.stderr
    assert f"{PICTURES} of {PICTURES} records can be used" in done.stdout
    nothing = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = check(f"webdataset:{url}", **nothing)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "AWS_PROFILE" in line


@pytest.mark.slow
def test_a_run_learns_the_same_from_a_store(twins, tmp_path):
    """Also when requests fail in it, and a resumed run."""
    folder = small_runs.write_tokenizer(tmp_path)
    losses = []
    for place, stops in ((str(twins.local), (4,)), (twins.url, (2, 4))):
        for stop in stops:
            changes = {
                "data.sources": (f"webdataset:{place}",),
                "train.num_steps": stop,
                "log.every_steps": 1,
            }
            config = small_runs.make_config(folder, small_runs.CLIP, changes)
            workdir = tmp_path / f"run{len(stops)}"
            loop.train(config, workdir)
            twins.faults.add("throttle", 2, "GET")
            twins.faults.add("cut", 1, "GET")
        rows = metric_writers.read_metrics(workdir / "metrics.jsonl")
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
