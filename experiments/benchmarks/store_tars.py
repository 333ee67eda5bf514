"""Measures tars in object stores: records a second, and ways to index a tar.

    PYTHONPATH=. python experiments/benchmarks/store_tars.py \\
        --output=experiments/results/store_tars/rows.jsonl

The stores are the servers of `tests/stores` on this machine, in a process of their own,
which adds a latency to each request: 30 ms is that of a store in the same region. It
needs the extras [stores,stores-test].
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import logging
import multiprocessing
import os
import pathlib
import platform
import socketserver
import tarfile
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import connection
from typing import Any

import gcsfs
import numpy as np
import s3fs
from PIL import Image

from glide_jax.data import pipeline, sources, store_ranges, store_tars
from glide_jax.runtime import object_store
from glide_jax.text import sentencepiece_tokenizer
from tests.stores import servers

TARS, RECORDS, BATCH = 4, 128, 64
WINDOWS_KIB = (16, 256, 1024, 8192)
REQUESTS = (0, 8, 32)


def serve(pipe: connection.Connection, latency_secs: float) -> None:
    """Runs the servers until the pipe has a message."""
    take = servers.Faults.take

    def take_late(faults: servers.Faults, method: str, path: str) -> str:
        time.sleep(latency_secs)
        return take(faults, method, path)

    servers.Faults.take = take_late
    # By default, more than five new connections at once wait for a second.
    socketserver.TCPServer.request_queue_size = 128
    logging.disable(logging.INFO)
    with servers.run() as running:
        pipe.send(running.environment)
        pipe.recv()


@contextlib.contextmanager
def running_servers(latency_secs: float) -> Iterator[None]:
    """Servers in another process, which this one finds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, latency_secs))
    process.start()
    os.environ.update(ours.recv())
    # Instances remember the addresses of earlier servers.
    s3fs.S3FileSystem.clear_instance_cache()
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield
    ours.send("end")
    process.join()


def write_tars(folder: pathlib.Path) -> None:
    """Pictures of 256 px as img2dataset stores them, some 20 KB each, with captions."""
    rng = np.random.default_rng(0)
    for shard in range(TARS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(RECORDS):
                small = rng.integers(0, 256, (64, 64, 3), np.uint8)
                file = io.BytesIO()
                Image.fromarray(small).resize((256, 256)).save(file, "JPEG")
                key, caption = f"{shard:05d}{number:04d}", f"picture {number}"
                for suffix, content in {
                    "jpg": file.getvalue(),
                    "json": json.dumps(
                        {"caption": caption, "exif": "x" * 500}
                    ).encode(),
                    "txt": caption.encode(),
                }.items():
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def time_index(url: str, window_kib: int) -> float:
    """Seconds to index the tars of a store."""
    store_tars.WINDOW_BYTES = window_kib << 10
    store_ranges._process = store_ranges._Process()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GLIDE_JAX_CACHE"] = cache
        begin = time.perf_counter()
        sources.open_source(f"webdataset:{url}")
        return time.perf_counter() - begin


def rate(place: str, tokenizer: Any, requests: int) -> dict[str, float]:
    """Records a second of an epoch of batches of 64 px, made by two threads.

    Other work on the machine does not change the time of the CPU of a record.

    Args:
      place: of the tars.
      tokenizer: of the captions.
      requests: at the same time; 0: each record is read when it is used.
    """
    store_ranges.REQUESTS = max(requests, 1)
    store_ranges.AHEAD_BYTES = (256 << 20) if requests else 0
    store_ranges._process = store_ranges._Process()
    source = sources.open_source(f"webdataset:{place}")
    settings = pipeline.BatchSettings(pipeline.RowSettings(64, 16), BATCH)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    batches = pipeline.make_batches(source, tokenizer, settings)
    for _ in itertools.islice(batches, TARS * RECORDS // BATCH):
        pass
    secs = time.perf_counter() - begin
    cpu_secs = time.process_time() - cpu_begin
    batches.close()
    # The last readers end before the servers do.
    time.sleep(1)
    count = TARS * RECORDS
    return {"records_per_sec": count / secs, "cpu_ms": 1000 * cpu_secs / count}


def measure(folder: pathlib.Path, latency_secs: float) -> Iterator[dict[str, Any]]:
    """Yields the rows of both stores."""
    captions = [f"picture {number}" for number in range(300)]
    proto = sentencepiece_tokenizer.train_sentencepiece(captions, 300)
    tokenizer = sentencepiece_tokenizer.SentencePieceTokenizer(proto)
    with running_servers(latency_secs):
        for scheme in ("gs", "s3"):
            url = f"{scheme}://{servers.BUCKET}/tars"
            store = object_store.ObjectStore(url, "url")
            for path in folder.glob("*.tar"):
                store.upload(path, path.name)
            at = {"store": scheme, "latency_ms": round(1000 * latency_secs)}
            for window in WINDOWS_KIB:
                yield {**at, "window_kib": window, "secs": time_index(url, window)}
            for requests in REQUESTS:
                yield {**at, "requests": requests, **rate(url, tokenizer, requests)}
    yield {"store": "disk", **rate(str(folder), tokenizer, 0)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, required=True)
    output = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    with tempfile.TemporaryDirectory() as name, output.open("w") as rows:
        folder = pathlib.Path(name) / "tars"
        folder.mkdir()
        write_tars(folder)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{TARS} tars, {size / 1e6:.1f} MB, {TARS * RECORDS} records; {machine}")
        for latency_secs in (0.0, 0.03):
            for row in measure(folder, latency_secs):
                print(row)
                rows.write(json.dumps({**row, "machine": machine}) + "\n")
                rows.flush()


if __name__ == "__main__":
    main()
