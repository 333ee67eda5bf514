"""Batches as a function of (seed, step): read, transform, tokenize, stack.

The global batch of a step is rows 0..global_batch_size-1; a process makes a contiguous
slice of them. All randomness of a row is keyed by (seed, stream, position), so a batch
is the same however many processes and threads make it, and after any restart.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
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

# After so many bad draws in a row for one position, the source is beyond use.
MAX_ATTEMPTS = 100
# An end for grain's index range; no run gets there.
_LAST_STEP = 1 << 40


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one record becomes one row.

    Attributes:
      image_px: side of `image`.
      text_context: length of `tokens`.
      seed: of masks, corruption, flips and replacements; not negative.
      low_res_px: side of `low_res`, a divisor of image_px; 0 leaves it out.
      low_res_corruption, low_res_corruption_strength: see
        `transforms.corrupt_low_res`.
      inpaint: adds `inpaint_mask`.
      flip_prob: chance of a mirrored picture.
      cache: keeps pictures of image_px.
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


def _make_mask(recipe: Recipe, position: int) -> np.ndarray:
    """The row's inpaint_mask (H, W, 1).

    Both stages of the cascade share one mask, made at the base's size and enlarged by
    nearest neighbours, so the upsampler is trained on masks of that grain.
    """
    rng = random_streams.generator(recipe.seed, random_streams.MASK, position)
    px = recipe.low_res_px or recipe.image_px
    factor = recipe.image_px // px
    mask = masks.random_mask(rng, px, px)
    return mask.repeat(factor, axis=0).repeat(factor, axis=1)


def _make_row(
    recipe: Recipe, example: schema.Example, position: int
) -> dict[str, np.ndarray]:
    """The image fields of one row; raises BadRecordError."""
    caption_text.check(example.caption, example.key)
    image = transforms.load_image(example, recipe.image_px, recipe.cache)
    if recipe.flip_prob > 0:
        rng = random_streams.generator(recipe.seed, random_streams.FLIP, position)
        image = image[:, ::-1] if rng.random() < recipe.flip_prob else image
    row = {"image": image}
    if recipe.low_res_px:
        rng = random_streams.generator(recipe.seed, random_streams.CORRUPTION, position)
        row["low_res"] = transforms.corrupt_low_res(
            transforms.area_downsample(image, recipe.low_res_px),
            recipe.low_res_corruption,
            recipe.low_res_corruption_strength,
            rng,
        )
    if recipe.inpaint:
        row["inpaint_mask"] = _make_mask(recipe, position)
    return row


class _Made(NamedTuple):
    """A batch and what was left out of it."""

    batch: schema.Batch
    bad: list[bad_records.Bad]


@dataclasses.dataclass(frozen=True)
class _BatchMaker:
    """Rows and batches of one source under one recipe."""

    source: schema.Source
    tokenizer: schema.Tokenizer
    recipe: Recipe

    def _row(
        self, index: int, position: int, bad: list[bad_records.Bad]
    ) -> tuple[str, dict[str, np.ndarray]]:
        """Caption and image fields of record `index`, or of what replaces it."""
        for attempt in range(MAX_ATTEMPTS):
            try:
                record = self.source[index]
                example = caption_text.draw(record, self.recipe.seed, position)
                return example.caption, _make_row(self.recipe, example, position)
            except schema.BadRecordError as error:
                bad.append(bad_records.bad_at(position, index, error))
                index = order.replacement_at(
                    self.source, self.recipe.seed, position, attempt
                )
        raise UserError(
            f"{MAX_ATTEMPTS} draws in a row from {self.source!r} gave no usable"
            f" record (the last: {bad[-1].key}: {bad[-1].reason}); check the data, or"
            " lower data.max_bad_frac to stop sooner"
        )

    def batch(self, indices: Sequence[int], positions: Sequence[int]) -> _Made:
        """The rows of these records, stacked; positions key their randomness."""
        bad: list[bad_records.Bad] = []
        made = [
            self._row(index, position, bad)
            for index, position in zip(indices, positions, strict=True)
        ]
        texts, rows = zip(*made, strict=True)
        tokens, text_mask = self.tokenizer.encode_batch(
            list(texts), self.recipe.text_context
        )
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        batch["tokens"], batch["text_mask"] = tokens, text_mask
        # 2.5M steps of 2048 pass 2^31; the index only has to be distinct nearby.
        batch["example_index"] = (np.asarray(positions, np.int64) % (1 << 31)).astype(
            np.int32
        )
        return _Made(batch, bad)

    def step_batch(self, global_batch_size: int, rows: range, step: int) -> _Made:
        """These rows of the global batch of a step."""
        positions = [step * global_batch_size + row for row in rows]
        seed = self.recipe.seed
        indices = [order.record_at(self.source, seed, p) for p in positions]
        logger.debug("step %d, rows from %d: records %s", step, rows.start, indices)
        return self.batch(indices, positions)


class Batches(Iterator[schema.Batch]):
    """Batches of one step after another.

    Bad records are counted with the batch they were met in, when it is taken: at a
    given step the counts are the same however many threads read ahead.

    Attributes:
      faults: the bad records of the batches taken so far.
    """

    def __init__(
        self, made: grain.DatasetIterator[_Made], faults: bad_records.FaultCounter
    ) -> None:
        self._made = made
        self._taker = futures.ThreadPoolExecutor(1, thread_name_prefix="next-batch")
        self._coming: futures.Future[_Made] | None = None
        self.faults = faults

    def is_ready(self, timeout_secs: float) -> bool:
        """Whether the next batch, or what went wrong with it, came within this time.

        It is taken and counted by `next` alone, which has not to wait then.
        """
        if self._coming is None:
            self._coming = self._taker.submit(next, self._made)
        return bool(futures.wait([self._coming], timeout_secs).done)

    def __next__(self) -> schema.Batch:
        coming, self._coming = self._coming, None
        batch, bad = coming.result() if coming else next(self._made)
        self.faults.count(len(batch["example_index"]), bad)
        return batch

    def close(self) -> None:
        """Makes no more batches; of one being read only `is_ready` tells still."""
        self._taker.shutdown(wait=False)
        self._made.close()


def _drawn_at(source: schema.Source, px: int) -> schema.Source:
    """The source itself, or drawn at the size in use if it draws its pictures."""
    return source.at_px(px) if isinstance(source, schema.Drawable) else source


def make_batches(
    source: schema.Source,
    tokenizer: schema.Tokenizer,
    *,
    image_px: int,
    text_context: int,
    global_batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    low_res_px: int = 0,
    low_res_corruption: str = "none",
    low_res_corruption_strength: float = 0.6,
    inpaint: bool = False,
    flip_prob: float = 0.0,
    cache: picture_cache.PictureCache | None = None,
    num_threads: int = 2,
    prefetch_batches: int = 4,
    max_bad_frac: float = 0.01,
    on_bad: Callable[[bad_records.Bad], None] | None = None,
    faults_before: Mapping[str, Any] | None = None,
) -> Batches:
    """This process's slice of the batches of steps start_step, start_step + 1, ...

    Args (all others are those of `Recipe`):
      source: records; one that draws its pictures draws them at image_px.
      tokenizer: text -> tokens and mask of `text_context` positions.
      global_batch_size: rows of a step over all processes.
      start_step: the first step wanted.
      process_index, process_count: which slice of the rows.
      num_threads: threads that make batches ahead; 0 makes them on demand.
      prefetch_batches: batches held ready, at least one per thread.
      max_bad_frac: bad records beyond this share stop the stream; see `FaultCounter`.
      on_bad: called once with each bad record, as its batch is taken; logs by default.
      faults_before: what `Batches.faults.state()` said when start_step was reached.

    Raises:
      UserError: sizes that do not divide; from the iterator, too many bad records.
    """
    _check_sizes(source, global_batch_size, process_index, process_count)
    recipe = Recipe(
        image_px,
        text_context,
        seed,
        low_res_px,
        low_res_corruption,
        low_res_corruption_strength,
        inpaint,
        flip_prob,
        cache,
    )
    faults = bad_records.FaultCounter(max_bad_frac, len(source), on_bad, faults_before)
    maker = _BatchMaker(_drawn_at(source, image_px), tokenizer, recipe)
    rows = rows_of(global_batch_size, process_index, process_count)
    make = functools.partial(maker.step_batch, global_batch_size, rows)
    options = grain.ReadOptions(
        num_threads=num_threads,
        prefetch_buffer_size=max(prefetch_batches, num_threads),
    )
    steps = grain.MapDataset.range(start_step, _LAST_STEP)
    return Batches(iter(steps.map(make).to_iter_dataset(options)), faults)


def rows_of(global_batch_size: int, process_index: int, process_count: int) -> range:
    """The rows of a global batch that a process makes."""
    local = global_batch_size // process_count
    return range(process_index * local, (process_index + 1) * local)


def _check_sizes(
    source: schema.Source,
    global_batch_size: int,
    process_index: int,
    process_count: int,
) -> None:
    if len(source) == 0:
        raise UserError(f"{source!r} holds no records; check its path")
    if global_batch_size < 1 or global_batch_size % process_count:
        raise UserError(
            f"global_batch_size={global_batch_size} is not a positive multiple of"
            f" {process_count} processes; use a multiple"
        )
    if not 0 <= process_index < process_count:
        raise UserError(
            f"process_index={process_index} is not below process_count={process_count};"
            " number the processes from 0"
        )


def fixed_batch(
    source: schema.Source,
    tokenizer: schema.Tokenizer,
    indices: Sequence[int],
    *,
    image_px: int,
    text_context: int,
    rows: range | None = None,
    seed: int = 0,
    low_res_px: int = 0,
    low_res_corruption: str = "none",
    low_res_corruption_strength: float = 0.6,
    inpaint: bool = False,
) -> schema.Batch:
    """The batch of the given records, the same in every run; never mirrored.

    Row i holds record indices[i] (or, if that is bad, a keyed replacement), its
    `example_index` and its mask are those of position i. Only `rows` are made, or all.
    """
    recipe = Recipe(
        image_px,
        text_context,
        seed,
        low_res_px,
        low_res_corruption,
        low_res_corruption_strength,
        inpaint,
    )
    maker = _BatchMaker(_drawn_at(source, image_px), tokenizer, recipe)
    rows = range(len(indices)) if rows is None else rows
    batch, bad = maker.batch([indices[row] for row in rows], rows)
    # Every record may be bad but for the limit on attempts: validation goes on.
    bad_records.FaultCounter(1.0, len(source)).count(len(rows), bad)
    return batch
