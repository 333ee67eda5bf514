"""Opens data sources: from a spec "KIND:PLACE" to random access to records."""

from __future__ import annotations

import functools
import logging
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from glide_jax.data import (
    caption_text,
    mixture,
    order,
    schema,
    source_kinds,
    source_report,
)
from glide_jax.errors import UserError

_log = logging.getLogger(__name__)
# The order of the records of folders and tars; natural order is version 2.
ORDER_VERSION = 2
# Unusable records that a message names.
NAMED = 3


def open_source(
    spec: str, *, split: str = "train", captions_required: bool = True
) -> schema.Source:
    """Opens the source of a spec; logs once what it uses and what it skips.

    Args:
      spec: "KIND:PLACE", see `source_kinds.forms` and docs/inputs.md. "{split}" in it
        is replaced by the split, e.g. "webdataset:photos-{split}-*.tar".
      split: "train", "validation" or another split that the source has.
      captions_required: False: records without a caption are included, caption "".

    Raises:
      UserError: an unknown kind, or a place that does not contain what it should.
    """
    source = _open(spec, split, captions_required)
    if isinstance(source, source_report.Reporting):
        _log_once(f"{source!r}: {source.report.describe()}")
    return source


class Inputs(NamedTuple):
    """What a source reads.

    Attributes:
      files: the files on disks.
      objects: a line with name, size and version of each object of a store.
    """

    files: list[pathlib.Path]
    objects: list[str]


def list_inputs(spec: str, *, split: str = "train") -> Inputs | None:
    """Returns what a source reads; None for kinds without files.

    Raises:
      UserError: as `open_source`.
    """
    source = _open(spec, split, captions_required=False)
    if not isinstance(source, schema.FileSource):
        return None
    is_stored = isinstance(source, schema.ObjectSource)
    return Inputs(source.files(), source.objects() if is_stored else [])


def _open(spec: str, split: str, captions_required: bool) -> schema.Source:
    kind, _, where = spec.replace("{split}", split).partition(":")
    if not where or kind not in source_kinds.names():
        raise UserError(
            f"data source {spec!r} is not valid; use one of {source_kinds.forms()}"
        )
    place = source_kinds.Place(where, split, captions_required)
    return source_kinds.load(kind).open_source(place)


@functools.cache
def _log_once(line: str) -> None:
    """Logs a line once per process, however often a source is opened."""
    _log.info("%s", line)


def open_mixture(
    specs: tuple[str, ...], weights: tuple[float, ...], *, split: str = "train"
) -> schema.Source:
    """Opens the weighted mixture of some sources, or the only source.

    The share of each source in the stream is its weight, exactly in every thousand
    positions. Each source is visited in whole epochs, as a function of
    (seed, position).

    Args:
      specs: KIND:PLACE of each source.
      weights: one for each source, or one for equal shares.
      split: "train" or "validation".

    Raises:
      UserError: see `open_source`; weights that do not fit the sources.
    """
    parts = tuple(open_source(spec, split=split) for spec in specs)
    if len(weights) == 1:
        weights *= len(specs)
    mixed = mixture.Mixture(parts, weights)
    return mixed if len(specs) > 1 else parts[0]


def sample_captions(
    source: schema.Source,
    count: int,
    *,
    seed: int = 0,
    on_progress: Callable[[], None] = lambda: None,
) -> list[str]:
    """Returns up to `count` captions in stream order, e.g. to train a tokenizer.

    Records without a usable caption are skipped and logged. `on_progress` is called
    before each record and may raise to stop.

    Raises:
      UserError: no record has a usable caption.
    """
    if isinstance(source, schema.Drawable):
        source = source.at_px(1)  # the pictures are not used
    captions: list[str] = []
    skipped: list[schema.BadRecordError] = []
    for position in range(min(count, len(source))):
        on_progress()
        try:
            record = source[order.record_at(source, seed, position)]
            example = caption_text.draw(record, seed, position)
            caption_text.check(example.caption, example.key)
        except schema.BadRecordError as bad:
            skipped.append(bad)
        else:
            captions.append(example.caption)
    if skipped:
        first = ", ".join(f"{bad.key}: {bad.reason}" for bad in skipped[:NAMED])
        share = f"{len(captions)} of {len(captions) + len(skipped)} records"
        message = f"{source!r}: {share} have a usable caption; skipped: {first}"
        if not captions:
            raise UserError(f"{message}; give captions of UTF-8 text, not empty")
        _log.warning("%s%s", message, ", ..." if len(skipped) > NAMED else "")
    return captions
