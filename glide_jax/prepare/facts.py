"""Facts of a pair: all that the rules read, computed once for each pair.

A fact does not depend on the thresholds of the rules. `read` never raises for a bad
pair: its fault is a fact.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from glide_jax.data import caption_text, picture_files, schema
from glide_jax.prepare import fingerprints
from glide_jax.runtime import files

# Kinds of `schema.BadRecordError` that are about the caption.
CAPTION_KINDS = (
    "broken caption",
    "empty caption",
    "huge caption",
    "missing caption",
)
CRASH = "crash"


@dataclasses.dataclass
class Facts:
    """The facts of one pair.

    Attributes:
      index: of the pair in all sources, in the order of data.sources.
      key: names the record in messages.
      fault: kind of a `schema.BadRecordError`, CRASH, or "".
      detail: of the fault.
      width, height: pixels; 0 of a picture that cannot be decoded.
      animated: whether the file has several frames.
      num_bytes: of the stored picture.
      content: digest of the stored picture.
      pixels, hash, signature: see `fingerprints.Fingerprint`.
      caption: the first one.
      language: ISO 639-1, or "" if languages are not asked for.
      confidence: probability of the language.
      scores: named columns, in the order of the run.
    """

    index: int
    key: str = ""
    fault: str = ""
    detail: str = ""
    width: int = 0
    height: int = 0
    animated: bool = False
    num_bytes: int = 0
    content: bytes = b""
    pixels: bytes = b""
    hash: int = 0
    signature: bytes = b""
    caption: str = ""
    language: str = ""
    confidence: float = 0.0
    scores: tuple[float, ...] = ()


_COLUMNS = [
    ("index", pa.int64()),
    ("key", pa.string()),
    ("fault", pa.string()),
    ("detail", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("animated", pa.bool_()),
    ("num_bytes", pa.int64()),
    ("content", pa.binary()),
    ("pixels", pa.binary()),
    ("hash", pa.uint64()),
    ("signature", pa.binary()),
    ("caption", pa.string()),
    ("language", pa.string()),
    ("confidence", pa.float32()),
    ("scores", pa.list_(pa.float32())),
]
SCHEMA = pa.schema(_COLUMNS)


def read(
    source: schema.Source, index: int, *, max_pixels: int
) -> tuple[Facts, Image.Image | None]:
    """Reads a pair; returns its facts without language and scores, and the picture.

    Args:
      source: all sources.
      index: of the pair.
      max_pixels: a larger picture is a decompression bomb.

    Returns:
      The facts, and the picture as upright 8-bit sRGB on white, mode "RGB"; None if it
      cannot be decoded.
    """
    try:
        example = source[index]
    except schema.BadRecordError as bad:
        return Facts(index, bad.key, bad.kind, bad.reason), None
    facts = Facts(index, example.key, caption=example.caption)
    try:
        caption_text.check(example.caption, example.key)
    except schema.BadRecordError as bad:
        facts.fault, facts.detail = bad.kind, bad.reason
        # Half a surrogate pair cannot be stored.
        facts.caption = example.caption.encode(errors="replace").decode()[:200]
        return facts, None
    try:
        image = _decode(facts, example, max_pixels)
    except schema.BadRecordError as bad:
        facts.fault, facts.detail = bad.kind, bad.reason
        return facts, None
    found = fingerprints.fingerprint(image)
    facts.width, facts.height = image.size
    facts.pixels, facts.hash, facts.signature = found
    return facts, image


def _decode(facts: Facts, example: schema.Example, max_pixels: int) -> Image.Image:
    if not isinstance(example.image, bytes):
        facts.num_bytes = example.image.nbytes
        facts.content = content_digest(example)
        return Image.fromarray(example.image)
    facts.num_bytes = len(example.image)
    facts.content = content_digest(example)
    loaded = picture_files.load(example.image, example.key, max_pixels=max_pixels)
    facts.animated = _is_animated(example.image)
    return picture_files.on_white(picture_files.as_srgb(loaded, example.key))


def content_digest(example: schema.Example) -> bytes:
    """Returns the digest of the stored picture, a file or pixels."""
    if isinstance(example.image, bytes):
        return fingerprints.digest(example.image)
    shape = b"%d %d " % example.image.shape[:2]
    return fingerprints.digest(shape, example.image.tobytes())


def _is_animated(content: bytes) -> bool:
    """Whether a file that can be decoded has several frames."""
    with Image.open(io.BytesIO(content), formats=picture_files.FORMATS) as image:
        return bool(getattr(image, "is_animated", False))


def write(path: pathlib.Path, rows: Sequence[Facts]) -> None:
    """Writes rows to a Parquet file, which appears complete."""
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    write_table(path, pa.table(columns, schema=SCHEMA))


def write_table(path: pathlib.Path, table: pa.Table) -> None:
    """Writes a table to a Parquet file, which appears complete.

    Several workers may write the same file: an engine may start a task twice.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.scratch(path, is_shared=True) as draft:
        parquet.write_table(table, draft)


def read_rows(path: pathlib.Path) -> Iterable[Facts]:
    """Yields the rows of a file that `write` wrote."""
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(use_threads=False):
            for row in batch.to_pylist():
                yield _from_row(row)


def _from_row(row: dict[str, Any]) -> Facts:
    return Facts(**{**row, "scores": tuple(row["scores"])})
