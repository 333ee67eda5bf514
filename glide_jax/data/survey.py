"""Reads each record of a source once, and reports statistics and bad records."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import NamedTuple

import numpy as np

from glide_jax.data import bad_records, caption_text, schema, transforms
from glide_jax.runtime import wording

# Longest caption whose tokens are counted.
MAX_TOKENS = 4096
# Pending records per thread.
_AHEAD = 4
# Number of duplicates that `describe` lists.
NAMED = 5


class Spread(NamedTuple):
    """Minimum, median and maximum."""

    least: int
    median: float
    most: int


class Survey(NamedTuple):
    """Statistics of records.

    Attributes:
      records: number of records.
      bad: the bad records, in order.
      short_sides: short sides of the usable pictures, pixels; None if there are none.
      caption_chars: lengths of all captions, characters.
      caption_tokens: lengths in tokens with the end token; None without tokenizer.
      num_cut: number of captions longer than the context.
      num_enlarged: number of pictures with a short side below px.
      duplicates: (key, key of the first record with the same picture and caption).
      same_pictures: number of records with an earlier picture and another caption.
    """

    records: int
    bad: list[bad_records.Bad]
    short_sides: Spread | None
    caption_chars: Spread | None
    caption_tokens: Spread | None
    num_cut: int
    num_enlarged: int
    duplicates: list[tuple[str, str]]
    same_pictures: int


class _Read(NamedTuple):
    key: str
    short_side: int
    captions: tuple[str, ...]
    picture: bytes  # SHA-256


def survey(
    source: schema.Source,
    indices: Iterable[int] | None = None,
    *,
    px: int = 0,
    tokenizer: schema.Tokenizer | None = None,
    context: int = 128,
    num_threads: int = 4,
    on_bad: Callable[[bad_records.Bad], None] = lambda bad: None,
    on_progress: Callable[[], None] = lambda: None,
) -> Survey:
    """Decodes the pictures and reads the captions of records, in parallel.

    Args:
      source: the records.
      indices: the records that are read, in order; None: all.
      px: training size of the pictures, pixels; smaller ones are counted.
      tokenizer: counts the tokens of the captions; None: they are not counted.
      context: tokens of a caption that a model reads.
      num_threads: number of decoding threads.
      on_bad: called with each bad record.
      on_progress: called after each record; may raise to stop.
    """
    sides, chars, tokens, bad, duplicates = [], [], [], [], []
    by_picture: dict[bytes, tuple[str, tuple[str, ...]]] = {}
    records = num_cut = num_enlarged = same_pictures = 0
    indices = range(len(source)) if indices is None else indices
    for found in _read_all(source, indices, num_threads):
        records += 1
        on_progress()
        if isinstance(found, bad_records.Bad):
            bad.append(found)
            on_bad(found)
            continue
        sides.append(found.short_side)
        num_enlarged += found.short_side < px
        chars += map(len, found.captions)
        if tokenizer is not None:
            _, mask = tokenizer.encode_batch(list(found.captions), MAX_TOKENS)
            lengths = np.sum(mask, axis=1)
            tokens += lengths.tolist()
            num_cut += int(np.sum(lengths > context))
        first, before = by_picture.setdefault(
            found.picture, (found.key, found.captions)
        )
        if first != found.key and before == found.captions:
            duplicates.append((found.key, first))
        elif first != found.key:
            same_pictures += 1
    return Survey(
        records,
        bad,
        _spread(sides),
        _spread(chars),
        _spread(tokens),
        num_cut,
        num_enlarged,
        duplicates,
        same_pictures,
    )


def describe(found: Survey, *, px: int, context: int) -> list[str]:
    """Formats one line per statistic, without the bad records; px 0: no size."""
    usable = found.records - len(found.bad)
    lines = [f"{usable:,} of {wording.counted(found.records, 'record')} can be used"]
    if found.short_sides:
        lines.append(f"short side of the pictures: {_shown(found.short_sides)} px")
    if px:
        small = wording.counted(found.num_enlarged, "picture")
        lines.append(f"{small} below {px} px, enlarged by training")
    if found.caption_chars:
        lines.append(f"captions: {_shown(found.caption_chars)} characters")
    if found.caption_tokens:
        lines.append(
            f"captions: {_shown(found.caption_tokens)} tokens; {found.num_cut} are cut "
            f"at {context}"
        )
    for key, first in found.duplicates[:NAMED]:
        lines.append(f"{key}: the same picture and caption as {first}")
    lines.append(
        f"{wording.counted(len(found.duplicates), 'duplicate')}; "
        f"{wording.counted(found.same_pictures, 'picture')} again with another caption"
    )
    return lines


def _shown(spread: Spread) -> str:
    return f"{spread.least} to {spread.most}, median {spread.median:g}"


def _read_all(
    source: schema.Source, indices: Iterable[int], num_threads: int
) -> Iterator[_Read | bad_records.Bad]:
    """Yields the records in order, read by several threads."""
    with futures.ThreadPoolExecutor(num_threads) as pool:
        pending: list[futures.Future] = []
        for index in indices:
            pending.append(pool.submit(_read, source, index))
            if len(pending) >= _AHEAD * num_threads:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()


def _read(source: schema.Source, index: int) -> _Read | bad_records.Bad:
    try:
        example = source[index]
        choices = example.choices or (example.caption,)
        for caption in choices:
            caption_text.check(caption, example.key)
        image = transforms.decode(example)
    except schema.BadRecordError as error:
        return bad_records.bad_at(index, index, error)
    content = (
        example.image if isinstance(example.image, bytes) else example.image.tobytes()
    )
    digest = hashlib.sha256(content).digest()
    return _Read(example.key, min(image.size), choices, digest)


def _spread(values: list[int]) -> Spread | None:
    if not values:
        return None
    return Spread(min(values), statistics.median(values), max(values))
