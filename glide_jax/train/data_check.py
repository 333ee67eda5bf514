"""Reads records before a run starts, and refuses data that would end it.

The limits are those of `bad_records.FaultCounter`, as in the run itself.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from glide_jax.config.defaults import Config
from glide_jax.data import bad_records, mixture, order, schema, survey
from glide_jax.errors import UserError
from glide_jax.runtime import wording

# Records read at a start. Decoding 256 images of 512 px takes about a second.
MOST_RECORDS = 256
MOST_SECS = 5.0
# Records read by a resumed run, and by every process except the first.
FEW_RECORDS = 8


def check_start(
    config: Config,
    source: schema.Source,
    *,
    is_thorough: bool,
    known: Collection[int] = (),
    check_stop: Callable[[], None] = lambda: None,
) -> None:
    """Reads the first records of the stream, which are spread over the whole source.

    Logs how many were read, and warns of bad records, of images that are enlarged, and
    of a source with fewer records than a batch. Synthetic images are not read.

    Args:
      config: configuration of the run.
      source: the training data.
      is_thorough: reads MOST_RECORDS, or fewer in MOST_SECS, and applies
        data.max_bad_frac; otherwise reads FEW_RECORDS, some of which must be usable.
      known: bad records that an earlier start has logged; no warning names them.
      check_stop: called after each record; may raise to end the check.

    Raises:
      UserError: the source is empty, no record read is usable, or more records are bad
        than data.max_bad_frac allows.
    """
    total = len(source)
    if total == 0:
        raise UserError(f"{source!r} has no records; check its path")
    px = config.model.image_px
    indices = spread(config, source, MOST_RECORDS if is_thorough else FEW_RECORDS)
    found = survey.survey(
        source,
        _within(MOST_SECS, indices),
        px=px,
        num_threads=num_threads(),
        on_progress=check_stop,
    )
    bad, read = len(found.bad), found.records
    if bad and bad == read:
        raise UserError(
            f"{source!r}: none of the first {read} records can be used (the first: "
            f"{found.bad[0].key}: {found.bad[0].reason}); check the data"
        )
    if is_thorough:
        refuse_too_bad(config, source, found)
        _log_summary(config, source, found)
    new = [one for one in found.bad if one.record not in known]
    if new:
        logging.warning(
            "%r: %d of the first %d records cannot be used, e.g. %s: %s",
            *(source, bad, read, new[0].key, new[0].reason),
        )


def _log_summary(config: Config, source: schema.Source, found: survey.Survey) -> None:
    """Logs what was read, and warns of possible mistakes."""
    total, batch = len(source), config.train.global_batch_size
    if found.records:
        logging.info(
            "%r: %d of %s read before the start (at most %d, for at most %g s)",
            source,
            found.records,
            wording.counted(total, "record"),
            MOST_RECORDS,
            MOST_SECS,
        )
    if total < batch:
        logging.warning(
            "%r has %s, fewer than train.global_batch_size=%d: a batch holds records "
            "more than once",
            source,
            wording.counted(total, "record"),
            batch,
        )
    if found.num_enlarged:
        logging.warning(
            "%r: %d of the first %d pictures have a short side below "
            "model.image_px=%d and are enlarged; leave them out, or train at a smaller "
            "size",
            source,
            found.num_enlarged,
            found.records - len(found.bad),
            config.model.image_px,
        )


def refuse_too_bad(config: Config, source: schema.Source, found: survey.Survey) -> None:
    """Raises UserError if a run with these bad records would end.

    A run counts after each batch, so its first fraction is of at least one batch.
    """
    counter = bad_records.FaultCounter(
        config.data.max_bad_frac,
        len(source),
        on_bad=lambda bad: None,
        min_seen=max(bad_records.MIN_SEEN, config.train.global_batch_size),
    )
    counter.count(found.records - len(found.bad), found.bad)


def spread(config: Config, source: schema.Source, most: int) -> list[int]:
    """Indices of up to `most` records in files; all of a small source, in order.

    Those of a larger source are shuffled as in the first epoch of the run.
    """
    total = len(source)
    if most >= total:
        indices: Iterable[int] = range(total)
    else:
        drawn = (order.record_at(source, config.seed, p) for p in range(most))
        indices = dict.fromkeys(drawn)
    return [index for index in indices if not _is_drawn(source, index)]


def num_threads() -> int:
    """Number of decoding threads before a run starts, when the CPU is idle."""
    return min(os.cpu_count() or 1, 32)


def _is_drawn(source: schema.Source, index: int) -> bool:
    if isinstance(source, mixture.Mixture):
        source = source.parts[source.part_of(index)]
    return isinstance(source, schema.Drawable)


def _within(seconds: float, indices: Iterable[int]) -> Iterator[int]:
    """Yields indices until the time is over."""
    end = time.monotonic() + seconds
    return itertools.takewhile(lambda _: time.monotonic() < end, indices)
