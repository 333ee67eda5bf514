"""Makes batches as a function of (seed, step): read, transform, tokenize, stack.

The global batch of a step has rows 0..global_batch_size-1; a process makes a contiguous
range of them. All randomness of a row is keyed by (seed, stream, position), so a batch
does not depend on the number of processes and threads, nor on restarts.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import grain
import numpy as np

from glide_jax.data import (
    bad_records,
    caption_text,
    masks,
    order,
    picture_cache,
    schema,
    transforms,
)
from glide_jax.errors import UserError
from glide_jax.runtime import random_streams

logger = logging.getLogger(__name__)

# Consecutive bad draws for one position after which the source counts as unusable.
MAX_ATTEMPTS = 100
# End of grain's index range, which no run reaches.
_LAST_STEP = 1 << 40


@dataclasses.dataclass(frozen=True)
class RowSettings:
    """How one record becomes one row of a batch.

    Attributes:
      image_px: side of `image`, pixels.
      text_context: length of `tokens`.
      seed: seed of masks, corruption, flips and replacements; not negative.
      low_res_px: side of `low_res`, a divisor of image_px; 0: no `low_res`.
      low_res_corruption, low_res_corruption_strength: see
        `transforms.corrupt_low_res`.
      inpaint: adds `inpaint_mask`.
      flip_prob: probability of a horizontal flip.
      cache: stores decoded pictures of image_px; None: no cache.

    Raises:
      UserError: low_res_px does not divide image_px, or the corruption is invalid.
    """

    image_px: int
    text_context: int
    seed: int = 0
    low_res_px: int = 0
    low_res_corruption: str = "none"
    low_res_corruption_strength: float = 0.6
    inpaint: bool = False
    flip_prob: float = 0.0
    cache: picture_cache.PictureCache | None = None

    def __post_init__(self) -> None:
        transforms.check_corruption(
            self.low_res_corruption, self.low_res_corruption_strength
        )
        if self.low_res_px and self.image_px % self.low_res_px:
            raise UserError(
                f"low_res_px={self.low_res_px} does not divide"
                f" image_px={self.image_px}; use a divisor"
            )


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """How a process makes its rows of the global batches.

    Attributes:
      row: how one record becomes one row.
      global_batch_size: rows of a step over all processes.
      process_index, process_count: select this process's rows.
      num_threads: threads that make batches ahead; 0: batches are made on demand.
      prefetch_batches: batches held ready, at least one per thread.
      max_bad_frac: share of bad records that stops the stream, see `FaultCounter`.

    Raises:
      UserError: global_batch_size is not a positive multiple of process_count, or
        process_index is not below it.
    """

    row: RowSettings
    global_batch_size: int
    process_index: int = 0
    process_count: int = 1
    num_threads: int = 2
    prefetch_batches: int = 4
    max_bad_frac: float = 0.01

    def __post_init__(self) -> None:
        if self.global_batch_size < 1 or self.global_batch_size % self.process_count:
            raise UserError(
                f"global_batch_size={self.global_batch_size} is not a positive multiple"
                f" of {self.process_count} processes; use a multiple"
            )
        if not 0 <= self.process_index < self.process_count:
            raise UserError(
                f"process_index={self.process_index} is not below"
                f" process_count={self.process_count}; number the processes from 0"
            )

    def rows(self) -> range:
        """The rows of a global batch that this process makes."""
        return rows_of(self.global_batch_size, self.process_index, self.process_count)


def _make_mask(settings: RowSettings, position: int) -> np.ndarray:
    """Returns the inpaint_mask (H, W, 1) of a row.

    Both stages of the cascade use one mask, drawn at the size of the base model and
    enlarged by nearest neighbours.
    """
    rng = random_streams.generator(settings.seed, random_streams.MASK, position)
    px = settings.low_res_px or settings.image_px
    factor = settings.image_px // px
    mask = masks.random_mask(rng, px, px)
    return mask.repeat(factor, axis=0).repeat(factor, axis=1)


def _make_row(
    settings: RowSettings, example: schema.Example, position: int
) -> dict[str, np.ndarray]:
    """Returns the image fields of one row; raises BadRecordError."""
    caption_text.check(example.caption, example.key)
    image = transforms.load_image(example, settings.image_px, settings.cache)
    if settings.flip_prob > 0:
        rng = random_streams.generator(settings.seed, random_streams.FLIP, position)
        image = image[:, ::-1] if rng.random() < settings.flip_prob else image
    row = {"image": image}
    if settings.low_res_px:
        rng = random_streams.generator(
            settings.seed, random_streams.CORRUPTION, position
        )
        row["low_res"] = transforms.corrupt_low_res(
            transforms.area_downsample(image, settings.low_res_px),
            settings.low_res_corruption,
            settings.low_res_corruption_strength,
            rng,
        )
    if settings.inpaint:
        row["inpaint_mask"] = _make_mask(settings, position)
    return row


class _MadeBatch(NamedTuple):
    """A batch, and the bad records that were replaced in it."""

    batch: schema.Batch
    bad: list[bad_records.Bad]


class _ClosedError(Exception):
    """The stream is closed, and nobody takes its batches."""


@dataclasses.dataclass(frozen=True)
class _BatchMaker:
    """Makes rows and batches of one source, until `closed` is set."""

    source: schema.Source
    tokenizer: schema.Tokenizer
    settings: RowSettings
    closed: threading.Event = dataclasses.field(default_factory=threading.Event)

    def _row(
        self, index: int, position: int, bad: list[bad_records.Bad]
    ) -> tuple[str, dict[str, np.ndarray]]:
        """Returns caption and image fields of a record, or of its replacement."""
        for attempt in range(MAX_ATTEMPTS):
            if self.closed.is_set():
                raise _ClosedError
            try:
                record = self.source[index]
                example = caption_text.draw(record, self.settings.seed, position)
                return example.caption, _make_row(self.settings, example, position)
            except schema.BadRecordError as error:
                bad.append(bad_records.bad_at(position, index, error))
                index = order.replacement_at(
                    self.source, self.settings.seed, position, attempt
                )
        raise UserError(
            f"{MAX_ATTEMPTS} consecutive draws from {self.source!r} gave no usable"
            f" record (the last: {bad[-1].key}: {bad[-1].reason}); check the data, or"
            " lower data.max_bad_frac to stop sooner"
        )

    def batch(self, indices: Sequence[int], positions: Sequence[int]) -> _MadeBatch:
        """Returns the stacked rows of these records; positions key their randomness."""
        bad: list[bad_records.Bad] = []
        with schema.ahead(self.source, indices):
            made = [
                self._row(index, position, bad)
                for index, position in zip(indices, positions, strict=True)
            ]
        texts, rows = zip(*made, strict=True)
        tokens, text_mask = self.tokenizer.encode_batch(
            list(texts), self.settings.text_context
        )
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        batch["tokens"], batch["text_mask"] = np.asarray(tokens), np.asarray(text_mask)
        # 2^31 is passed after 1M steps of 2048; only nearby indices have to differ.
        batch["example_index"] = (np.asarray(positions, np.int64) % (1 << 31)).astype(
            np.int32
        )
        return _MadeBatch(batch, bad)

    def step_batch(self, global_batch_size: int, rows: range, step: int) -> _MadeBatch:
        """Returns these rows of the global batch of a step."""
        positions = [step * global_batch_size + row for row in rows]
        seed = self.settings.seed
        indices = [order.record_at(self.source, seed, p) for p in positions]
        logger.debug("step %d, rows from %d: records %s", step, rows.start, indices)
        return self.batch(indices, positions)


class Batches(Iterator[schema.Batch]):
    """Batches of consecutive steps.

    The bad records of a batch are counted when the batch is taken, so at a given step
    the counts do not depend on the number of threads that read ahead.

    Attributes:
      faults: the bad records of the batches taken so far.
    """

    def __init__(
        self,
        iterator: grain.DatasetIterator[_MadeBatch],
        faults: bad_records.FaultCounter,
        closed: threading.Event,
    ) -> None:
        self._iterator, self._closed = iterator, closed
        self._executor = futures.ThreadPoolExecutor(1, thread_name_prefix="next-batch")
        self._pending: futures.Future[_MadeBatch] | None = None
        self.faults = faults

    def is_ready(self, timeout_secs: float) -> bool:
        """Whether the next batch, or its error, is available within `timeout_secs`.

        Only `next` takes the batch and counts it; after True it does not wait.
        """
        if self._pending is None:
            self._pending = self._executor.submit(next, self._iterator)
        return bool(futures.wait([self._pending], timeout_secs).done)

    def __next__(self) -> schema.Batch:
        pending, self._pending = self._pending, None
        batch, bad = pending.result() if pending else next(self._iterator)
        self.faults.count(len(batch["example_index"]), bad)
        return batch

    def close(self) -> None:
        """Stops the threads, each after its record; no further batch can be taken."""
        self._closed.set()
        self._executor.shutdown(wait=False)
        self._iterator.close()


def _drawn_at(source: schema.Source, px: int) -> schema.Source:
    """Returns the source, drawn at the given size if it is `Drawable`."""
    return source.at_px(px) if isinstance(source, schema.Drawable) else source


def make_batches(
    source: schema.Source,
    tokenizer: schema.Tokenizer,
    settings: BatchSettings,
    *,
    start_step: int = 0,
    on_bad: Callable[[bad_records.Bad], None] | None = None,
    faults_before: Mapping[str, Any] | None = None,
) -> Batches:
    """Returns this process's rows of the batches from start_step on.

    Args:
      source: the records; a `Drawable` source draws them at image_px.
      tokenizer: encodes captions to `text_context` positions.
      settings: the rows, the batch size and the threads.
      start_step: the first step.
      on_bad: called once with each bad record when its batch is taken; None: logs it.
      faults_before: the value of `Batches.faults.state()` at start_step.

    Raises:
      UserError: the source is empty; from the iterator, too many records are bad.
    """
    if len(source) == 0:
        raise UserError(f"{source!r} has no records; check its path")
    faults = bad_records.FaultCounter(
        settings.max_bad_frac, len(source), on_bad, faults_before
    )
    maker = _BatchMaker(
        _drawn_at(source, settings.row.image_px), tokenizer, settings.row
    )
    make = functools.partial(
        maker.step_batch, settings.global_batch_size, settings.rows()
    )
    options = grain.ReadOptions(
        num_threads=settings.num_threads,
        prefetch_buffer_size=max(settings.prefetch_batches, settings.num_threads),
    )
    steps = grain.MapDataset.range(start_step, _LAST_STEP)
    iterator = iter(steps.map(make).to_iter_dataset(options))
    return Batches(iterator, faults, maker.closed)


def rows_of(global_batch_size: int, process_index: int, process_count: int) -> range:
    """The rows of a global batch that a process makes."""
    local = global_batch_size // process_count
    return range(process_index * local, (process_index + 1) * local)


def fixed_batch(
    source: schema.Source,
    tokenizer: schema.Tokenizer,
    settings: RowSettings,
    indices: Sequence[int],
    *,
    rows: range | None = None,
    on_bad: Callable[[bad_records.Bad], None] | None = None,
) -> schema.Batch:
    """Returns the batch of the given records, the same in every run.

    Row i contains record indices[i], or a keyed replacement if that is bad; its
    `example_index` and its mask are those of position i.

    Args:
      source: see `make_batches`.
      tokenizer: see `make_batches`.
      settings: the rows.
      indices: the record of each row.
      rows: the rows that are made; None: all.
      on_bad: called once with each bad record; None: logs it.
    """
    maker = _BatchMaker(_drawn_at(source, settings.image_px), tokenizer, settings)
    rows = range(len(indices)) if rows is None else rows
    batch, bad = maker.batch([indices[row] for row in rows], rows)
    # Validation continues with any number of bad records.
    bad_records.FaultCounter(1.0, len(source), on_bad).count(len(rows), bad)
    return batch
