"""Stage 3: writes the shards, each by one worker, from the records of the sources.

A shard NNNNN.tar has KEY.EXT and KEY.txt of each pair as img2dataset writes them, or
KEY.json with a list of several captions; KEY is the place in the output, nine digits.
NNNNN.parquet beside it has a row for each pair: its origin, size and scores. Files keep
their bytes. The same pairs give the same bytes of a shard, whichever worker writes it.
"""

from __future__ import annotations

import collections
import hashlib
import io
import json
import pathlib
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from glide_jax.config import preparation
from glide_jax.data import record_shards, schema
from glide_jax.prepare import facts, job, rules, scores
from glide_jax.runtime import files

# By the first bytes of a file.
_EXTENSIONS = (
    (b"\xff\xd8", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"RIFF", "webp"),
)


class Pair(NamedTuple):
    """A pair as it is stored.

    Attributes:
      rank: its place in the output.
      image: the bytes of a picture file.
      captions: at least one.
      row: its columns of `choose.KEPT_SCHEMA`.
    """

    rank: int
    image: bytes
    captions: tuple[str, ...]
    row: dict[str, Any]

    @property
    def key(self) -> str:
        """The key in its shard."""
        return f"{self.rank:09d}"


def extension(image: bytes) -> str:
    """The extension of a picture file, e.g. "jpg"."""
    for start, name in _EXTENSIONS:
        if image.startswith(start):
            return name
    return "ppm"


def as_file(example: schema.Example) -> bytes:
    """The picture's file; pixels become a PNG."""
    if isinstance(example.image, bytes):
        return example.image
    stream = io.BytesIO()
    Image.fromarray(example.image).save(stream, "PNG")
    return stream.getvalue()


# A pair without content, for the types of its columns.
EMPTY = Pair(
    0,
    b"",
    ("",),
    {
        **{"index": 0, "key": "", "width": 0, "height": 0, "num_words": 0},
        **{"language": "", "scores": collections.defaultdict(float)},
    },
)


class WriteShard(beam.DoFn):
    """Writes a shard and then its record, unless it has one."""

    def __init__(self, work: job.Job, columns: scores.Columns) -> None:
        self._job, self._columns = work, columns

    def setup(self) -> None:
        """Opens the sources."""
        self._source = job.open_pairs(self._job.config)

    def process(self, place: tuple[int, int]) -> None:
        """Takes (number, number of shards)."""
        number, count = place
        record_path = self._job.shards / f"{number:06d}.json"
        if record_path.exists():
            return
        table = parquet.read_table(self._job.order / f"{number:06d}.parquet")
        lost: list[tuple] = []
        pairs = self._read(table.to_pylist(), lost)
        output = self._job.config.output
        if output.format == "tar":
            names, rows = write_tar(
                self._job.output / output.split, number, pairs, self._columns
            )
        else:
            names, rows = self._write_records(number, count, pairs)
        written = [
            {
                "name": str(path.relative_to(self._job.output)),
                "bytes": path.stat().st_size,
                "sha256": file_digest(path),
            }
            for path in names
        ]
        record = {"pairs": len(rows), "files": written, "lost": lost}
        record_path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, ensure_ascii=False)
        files.write_text(record_path, text, is_shared=True)

    def _read(self, rows: Sequence[dict], lost: list[tuple]) -> Iterator[Pair]:
        """Reads the pairs again; appends (index, key, *Drop) of changed ones."""
        indices = schema.announced(self._source, [row["index"] for row in rows])
        for row, index in zip(rows, indices, strict=True):
            try:
                example = self._source[index]
            except schema.BadRecordError as bad:
                reason = bad.reason
            else:
                if facts.content_digest(example) == row["content"]:
                    captions = example.choices or (example.caption,)
                    yield Pair(row["rank"], as_file(example), captions, row)
                    continue
                reason = "another picture than before"
            lost.append((row["index"], row["key"], *rules.Drop(rules.LOST, reason)))

    def _write_records(
        self, number: int, count: int, pairs: Iterator[Pair]
    ) -> tuple[list[pathlib.Path], list[dict]]:
        output = self._job.config.output
        rows: list[dict] = []

        def examples() -> Iterator[dict[str, Any]]:
            for pair in pairs:
                row = columns_of(pair, self._columns)
                rows.append(row)
                yield {
                    "image": pair.image,
                    "caption": pair.captions[0],
                    **{name: row[name] for name in record_shards.features(row)},
                }

        path = record_shards.write_shard(
            records_folder(self._job), output, number, count, examples()
        )
        return [path], rows


def records_folder(work: job.Job) -> pathlib.Path:
    """The folder of the data set in ArrayRecord files."""
    return work.output / work.config.output.name / record_shards.VERSION


def write_tar(
    folder: pathlib.Path, number: int, pairs: Iterable[Pair], columns: scores.Columns
) -> tuple[list[pathlib.Path], list[dict]]:
    """Writes NNNNN.tar and NNNNN.parquet; returns them and the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    path, rows = folder / f"{number:05d}.tar", []
    with (
        files.scratch(path, is_shared=True) as draft,
        tarfile.open(draft, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for pair in pairs:
            _add(tar, f"{pair.key}.{extension(pair.image)}", pair.image)
            if len(pair.captions) == 1:
                _add(tar, f"{pair.key}.txt", pair.captions[0].encode())
            else:
                record = {"key": pair.key, "caption": pair.captions}
                text = json.dumps(record, ensure_ascii=False)
                _add(tar, f"{pair.key}.json", text.encode())
            rows.append(columns_of(pair, columns))
    table_path = path.with_suffix(".parquet")
    facts.write_table(table_path, pa.Table.from_pylist(rows))
    return [path, table_path], rows


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # TarInfo has no owner and no time by default.
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def columns_of(pair: Pair, columns: scores.Columns) -> dict[str, Any]:
    """The columns of a pair beside its shard."""
    row = pair.row
    found = {name: row["scores"][i] for i, (name, _) in enumerate(columns)}
    return {
        "key": pair.key,
        "caption": pair.captions[0],
        "width": row["width"],
        "height": row["height"],
        "caption_words": row["num_words"],
        "caption_chars": len(pair.captions[0]),
        "language": row["language"],
        **found,
        "source_index": row["index"],
        "source_key": row["key"],
    }


def file_digest(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def total_digest(records: Iterable[dict]) -> str:
    """SHA-256 of the digests of all files, in their order."""
    total = hashlib.sha256()
    for record in records:
        for file in record["files"]:
            total.update(f"{file['sha256']}\n".encode())
    return total.hexdigest()


def spec(config: preparation.PrepareConfig, output: pathlib.Path) -> str:
    """The data source that reads the output."""
    chosen = config.output
    if chosen.format == "tar":
        return f"webdataset:{output / chosen.split}"
    return f"tfds:{output / chosen.name}?split={chosen.split}"
