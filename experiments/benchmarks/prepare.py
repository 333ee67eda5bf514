"""Measures `glide data prepare`: cost by stage, duplicates found, memory of workers.

    python experiments/benchmarks/prepare.py --source='webdataset:runs/icons/train' \\
        --output=experiments/results/prepare/rows.jsonl

Costs are seconds of CPU, so that other work on the machine does not change them.
It needs the extra [prepare]; the icons are those of `glide data icons`.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import apache_beam as beam
import numpy as np
from PIL import Image

from glide_jax.config import preparation
from glide_jax.data import schema, sources, transforms
from glide_jax.prepare import (
    choose,
    duplicates,
    engine,
    facts,
    fingerprints,
    job,
    languages,
    reading,
    shards,
)
from glide_jax.runtime import files

CONFIG = "experiments/data/prepare.py"
RULE = preparation.DuplicateConfig()
MAX_PIXELS = preparation.PictureConfig().max_pixels


def cropped(image: Image.Image, at_corner: bool) -> Image.Image:
    """Without 2% of the width and of the height."""
    width, height = image.size
    x, y = (0.0, 0.0) if at_corner else (0.01 * width, 0.01 * height)
    box = (x, y, x + 0.98 * width, y + 0.98 * height)
    return image.crop(tuple(map(round, box)))


def as_jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


COPIES = {
    "JPEG at 60": lambda i: Image.open(io.BytesIO(as_jpeg(i, 60))).convert("RGB"),
    "resized to 0.7": lambda i: i.resize(
        [round(0.7 * side) for side in i.size], Image.Resampling.BICUBIC
    ),
    "cropped by 2%, 1% at each side": lambda i: cropped(i, at_corner=False),
    "cropped by 2% at one corner": lambda i: cropped(i, at_corner=True),
}


@dataclasses.dataclass
class Listed:
    """A source over a list."""

    examples: list[schema.Example]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> schema.Example:
        return self.examples[index]


def cpu_of(function) -> float:
    """Seconds of CPU that a call takes, the best of three."""
    found = []
    for _ in range(3):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def stage_costs(source, count: int) -> list[dict]:
    """Microseconds of CPU of a pair, by part of the stages."""
    indices = np.random.default_rng(0).permutation(len(source))[:count]
    icons = Listed([source[int(i)] for i in indices])
    photos = []
    for i, example in enumerate(icons.examples[:100]):
        # As large as the pictures of img2dataset, with detail like a photo's.
        image = transforms.decode(example).resize((512, 384))
        noise = np.random.default_rng(i).normal(0, 12, (384, 512, 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        content = as_jpeg(Image.fromarray(pixels), 90)
        photos.append(schema.Example(content, example.caption, example.key))
    return [
        *costs_of("icons, 128 px", icons),
        *costs_of("JPEG, 512 x 384", Listed(photos)),
    ]


def costs_of(name: str, pairs: Listed) -> list[dict]:
    indices = range(len(pairs))
    kept = [facts.read(pairs, i, max_pixels=MAX_PIXELS)[0] for i in indices]
    images = [transforms.decode(example) for example in pairs.examples]
    detect = languages.make_detector()
    parts = {
        "decode": lambda: [transforms.decode(e) for e in pairs.examples],
        "fingerprint": lambda: [fingerprints.fingerprint(i) for i in images],
        "language": lambda: [detect(e.caption) for e in pairs.examples],
        "all facts": lambda: [
            facts.read(pairs, i, max_pixels=MAX_PIXELS) for i in indices
        ],
        "write facts": lambda: write_facts(kept),
        "write tar": lambda: write_tar(pairs, kept),
    }
    return [
        {
            "figure": f"cost of {part}",
            "pictures": name,
            "value": 1e6 * cpu_of(function) / len(pairs),
            "unit": "CPU us a pair",
        }
        for part, function in parts.items()
    ]


def write_facts(rows: list[facts.Facts]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        facts.write(pathlib.Path(folder, "a.parquet"), rows)


def write_tar(pairs: Listed, rows: list[facts.Facts]) -> None:
    columns = {"index": 0, "key": "", "width": 1, "height": 1, "num_words": 1}
    row = {**columns, "language": "", "scores": []}
    with tempfile.TemporaryDirectory() as folder:
        made = (
            shards.Pair(i, shards.as_file(example), (example.caption,), row)
            for i, example in enumerate(pairs.examples)
            if facts.content_digest(example) == rows[i].content
        )
        for path in shards.write_tar(pathlib.Path(folder), 0, made, ())[0]:
            shards.file_digest(path)


def duplicates_found(source, count: int) -> list[dict]:
    """Shares of planted near duplicates that are found, and false merges."""
    indices = np.random.default_rng(1).permutation(len(source))[:count]
    images = [transforms.decode(source[int(i)]) for i in indices]
    originals = [fingerprints.fingerprint(image) for image in images]
    rows = []
    for kind, copy in COPIES.items():
        copies = [fingerprints.fingerprint(copy(image)) for image in images]
        hashes, signatures = duplicates.arrays([*originals, *copies])
        pairs = set()
        for found in fingerprints.near_pairs(
            hashes, signatures, RULE.max_distance, RULE.max_difference
        ):
            pairs |= set(zip(found.first.tolist(), found.second.tolist(), strict=True))
        share = np.mean([(i, i + count) in pairs for i in range(count)])
        figure = {"figure": "planted near duplicates found", "copies": kind}
        rows.append({**figure, "value": float(share), "unit": f"share of {count}"})
    return rows


def merges(source, rows: list[facts.Facts]) -> list[dict]:
    """Near duplicates among all pictures of the source, by whether the names agree."""
    names = [name_of(source[index]) for index in range(len(source))]
    hashes, signatures = duplicates.arrays(rows)
    merged: dict[int, set[int]] = collections.defaultdict(set)
    for pairs in fingerprints.near_pairs(
        hashes, signatures, RULE.max_distance, RULE.max_difference
    ):
        for i, j in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
            merged[j].add(i)
    others = sum(
        all(names[i] != names[j] for i in found) for j, found in merged.items()
    )
    unit = f"of {len(source)} pictures"
    return [
        {
            "figure": "near duplicates among the icons",
            "value": len(merged),
            "unit": unit,
        },
        {
            "figure": "of them, without a near duplicate of the same name",
            "value": others,
            "unit": unit,
        },
    ]


def choose_cost(spec: str, rows: list[facts.Facts]) -> dict:
    """The cost of stage 2, embedded in one process."""
    config = preparation.PrepareConfig(data=preparation.DataConfig((spec,)))
    with tempfile.TemporaryDirectory() as folder:
        work = job.Job(config, pathlib.Path(folder))
        paths = []
        for start, stop in reading.spans(0, len(rows), job.CHUNK):
            paths.append(
                reading.part_path(work.facts(is_validation=False), (start, stop))
            )
            facts.write(paths[-1], rows[start:stop])
        stage = choose.Choose(work, (), len(rows))

        def build(pipeline) -> None:
            pipeline | beam.Create(list(map(str, paths))) | stage

        start = time.process_time()
        engine.Engine().run(build)
        micros = 1e6 * (time.process_time() - start) / len(rows)
    return {"figure": "cost of stage 2", "value": micros, "unit": "CPU us a pair"}


def name_of(example: schema.Example) -> str:
    """The name of an icon, without its style."""
    plain = (example.choices or (example.caption,))[0]
    return plain.rpartition(", in ")[0].lower()


def memory(source: str, count: int) -> list[dict]:
    """Peaks of the resident memory of each kind of process, for 1 and 10 parts."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for factor in (1, 10):
            raw = pathlib.Path(folder, f"raw{factor}")
            small = sources.open_source(source)
            raw.mkdir()
            for i in range(count * factor):
                example = small[i % len(small)]
                files.write_bytes(raw / f"{i}.png", example.image, is_durable=False)
                text = f"{example.caption} {i}".encode()
                files.write_bytes(raw / f"{i}.txt", text, is_durable=False)
            peaks, seconds = watch(f"folder:{raw}", pathlib.Path(folder, f"o{factor}"))
            for kind, peak in sorted(peaks.items()):
                figure = {"figure": f"peak memory of the {kind}"}
                pairs = count * factor
                rows.append(
                    {**figure, "pairs": pairs, "value": peak / 1e6, "unit": "MB"}
                )
            for stage, secs in seconds.items():
                figure = {"figure": f"wall seconds of {stage}", "pairs": pairs}
                rows.append({**figure, "value": secs, "unit": "s, two processes"})
    return rows


def watch(source: str, output: pathlib.Path) -> tuple[dict[str, int], dict]:
    """Runs a preparation; returns the peak of each kind of process, bytes."""
    words = ["data", "prepare", f"--config={CONFIG}", f"--output={output}"]
    words += [f"--config.data.sources={source}", "--processes=2"]
    words.append("--config.output.pairs_per_shard=250")  # the same for both
    command = [sys.executable, "-m", "glide_jax.cli.main", *words]
    process = subprocess.Popen(command, start_new_session=True)
    peaks: dict[str, int] = collections.defaultdict(int)
    while process.poll() is None:
        for kind, peak in members(process.pid):
            peaks[kind] = max(peaks[kind], peak)
        time.sleep(0.2)
    assert process.returncode == 0
    ledger = files.read_json(output / "work" / "ledger.json")
    return dict(peaks), {name: task["seconds"] for name, task in ledger.items()}


def members(session: int):
    """(kind, peak) of the processes of a session."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            status = (path / "status").read_text()
            command = (path / "cmdline").read_bytes().decode(errors="replace")
            if os.getsid(int(path.name)) != session:
                continue
        except (OSError, ProcessLookupError):
            continue
        line = next((x for x in status.splitlines() if x.startswith("VmHWM")), "")
        kind = "driver"
        if "sdk_worker_main" in command:
            kind = "worker of Beam"
        elif "multiprocessing" in command:
            kind = "reader"
            if "resource_tracker" in command:
                continue
        if line:
            yield kind, int(line.split()[1]) * 1024


def extrapolated(rows: list[dict]) -> list[dict]:
    """Hours for 250M pairs on 1600 cores, by kind of picture."""
    found = []
    for pictures in sorted({row["pictures"] for row in rows if "pictures" in row}):
        costs = {
            row["figure"]: row["value"]
            for row in rows
            if row.get("pictures") == pictures
        }
        names = ("all facts", "language", "write facts", "write tar")
        micros = sum(costs[f"cost of {name}"] for name in names)
        found.append(
            {
                "figure": "pairs a second and core, stages 1 and 3",
                "pictures": pictures,
                "value": 1e6 / micros,
                "unit": "1/s",
            }
        )
        found.append(
            {
                "figure": "stages 1 and 3 for 250M pairs on 100 x 16 cores",
                "pictures": pictures,
                "value": 250e6 * micros / 1e6 / 1600 / 60,
                "unit": "min = 250e6 * us / 1e6 / 1600 / 60",
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", required=True)
    parser.add_argument("--output", required=True, type=pathlib.Path)
    parser.add_argument("--count", type=int, default=1000)
    given = parser.parse_args()
    source = sources.open_source(given.source)
    rows = stage_costs(source, min(given.count, 500))
    rows += extrapolated(rows)
    rows += duplicates_found(source, given.count)
    all_facts = [
        facts.read(source, i, max_pixels=MAX_PIXELS)[0] for i in range(len(source))
    ]
    rows += merges(source, all_facts)
    rows.append(choose_cost(given.source, all_facts))
    write(given.output, rows)
    write(given.output, rows + memory(given.source, 600))


def write(path: pathlib.Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
