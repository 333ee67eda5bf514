"""Opens data sources: from a spec "KIND:PLACE" to random access to records."""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable

from glide_jax.data import (
    caption_text,
    csv_table,
    folder,
    mixture,
    order,
    schema,
    shapes_world,
    source_kinds,
    source_options,
    source_report,
    tar_shards,
)
from glide_jax.errors import UserError
from glide_jax.runtime import wording

_log = logging.getLogger(__name__)
# The order of the records of folders and tars; natural order is version 2.
ORDER_VERSION = 2
# Unusable records that a message names.
NAMED = 3


@dataclasses.dataclass(frozen=True)
class Place:
    """What an opener opens.

    Attributes:
      where: the spec without its kind, with "{split}" replaced.
      split: "train", "validation" or another split that the source has.
      captions_required: False: records without a caption are included, caption "".
    """

    where: str
    split: str
    captions_required: bool


def _open_shapes(place: Place) -> schema.Source:
    # Held-out scenes of a generated world are its validation split.
    split = "held_out" if place.split == "validation" else place.split
    return shapes_world.ShapesWorld(place.where, split)


def _open_tars(place: Place) -> schema.Source:
    name, options = source_options.split_options(place.where)
    source = tar_shards.TarShards(
        name, options=options, captions_required=place.captions_required
    )
    return _logged(source, source.report)


def _open_folder(place: Place) -> schema.Source:
    name, options = source_options.split_options(place.where)
    try:
        source = folder.Folder(
            name, options=options, captions_required=place.captions_required
        )
    except folder.OnlyTarsError:
        _log_once(
            f"folder:{name} contains tars and no pictures; it is read as"
            f" webdataset:{name}"
        )
        return _open_tars(place)
    return _logged(source, source.report)


def _open_csv(place: Place) -> schema.Source:
    source = csv_table.open_csv(place.where, captions_required=place.captions_required)
    return _logged(source, source.report)


def _open_tfds(place: Place) -> schema.Source:
    # Imported on use, since tensorflow_datasets takes a second to import.
    from glide_jax.data import tfds_records

    name, _, query = place.where.partition("?")
    known = ("image", "caption", "split", "captions")
    options = source_options.parse_query(query, known, f"tfds:{place.where}")
    source_options.check_policy(options.get("captions", ""), f"tfds:{place.where}")
    source = tfds_records.TfdsRecords(
        name,
        **{"split": place.split, **options},
        captions_required=place.captions_required,
    )
    _log_once(f"{source!r}: {wording.counted(len(source), 'record')}")
    return source


OPENERS: dict[str, Callable[[Place], schema.Source]] = {
    "shapes": _open_shapes,
    "webdataset": _open_tars,
    "folder": _open_folder,
    "csv": _open_csv,
    "tfds": _open_tfds,
}


def open_source(
    spec: str, *, split: str = "train", captions_required: bool = True
) -> schema.Source:
    """Opens the source of a spec; logs once what it uses and what it skips.

    Args:
      spec: "KIND:PLACE", see `source_kinds.forms` and docs/inputs.md. "{split}" in it
        is replaced by the split, e.g. "webdataset:emoji-{split}-*.tar".
      split: "train", "validation" or another split that the source has.
      captions_required: False: records without a caption are included, caption "".

    Raises:
      UserError: an unknown kind, or a place that does not contain what it should.
    """
    kind, where = _parse(spec, split)
    return OPENERS[kind](Place(where, split, captions_required))


def list_files(spec: str, *, split: str = "train") -> list[pathlib.Path] | None:
    """Returns the files that a source reads; None for kinds without files.

    Raises:
      UserError: as `open_source`.
    """
    kind, where = _parse(spec, split)
    if not source_kinds.SOURCES[kind].has_files:
        return None
    source = OPENERS[kind](Place(where, split, captions_required=False))
    assert isinstance(source, schema.FileSource)
    return source.files()


def _parse(spec: str, split: str) -> tuple[str, str]:
    """Returns kind and place of a spec."""
    kind, _, where = spec.replace("{split}", split).partition(":")
    if not where or kind not in source_kinds.SOURCES:
        raise UserError(
            f"data source {spec!r} is not valid; use one of {source_kinds.forms()}"
        )
    return kind, where


def _logged(source: schema.Source, report: source_report.SourceReport) -> schema.Source:
    _log_once(f"{source!r}: {report.describe()}")
    return source


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

    Raises:
      UserError: see `open_source`; weights that do not fit the sources.
    """
    parts = tuple(open_source(spec, split=split) for spec in specs)
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
