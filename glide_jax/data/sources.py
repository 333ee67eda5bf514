"""Opens what data.sources names: "KIND:WHERE" to a random-access source."""

from __future__ import annotations

import functools
import logging
import pathlib
from collections.abc import Callable

from glide_jax.data import (
    caption_text,
    folder,
    mixture,
    order,
    schema,
    shapes_world,
    source_options,
    tar_shards,
)
from glide_jax.errors import UserError
from glide_jax.runtime import wording

_log = logging.getLogger(__name__)
# The order of the records of folders and tars; natural order is version 2.
ORDER_VERSION = 2
# Records left out that a message names.
NAMED = 3
KINDS = (
    "shapes:quickstart",
    "shapes:full",
    "webdataset:GLOB_OR_DIR",
    "tfds:NAME_OR_DIR",
    "folder:DIR",
)


def open_source(
    spec: str, *, split: str = "train", captions_required: bool = True
) -> schema.Source:
    """The source a spec names; what it uses and passes over is logged once a process.

    Args:
      spec: one of
        "shapes:quickstart", "shapes:full": drawn on the fly; splits train and held_out,
        which is also its "validation".
        "webdataset:GLOB": img2dataset tars, see `tar_paths.expand`.
        "folder:DIR": pictures with captions beside them or in a table, see `folder`;
        a folder that holds tars and no pictures is read as webdataset:DIR.
        Both take "?image=EXT&caption=EXT_OR_COLUMN&captions=first|random|join" at the
        end, see `source_options`.
        "tfds:NAME_OR_DIR?image=FEATURE&caption=FEATURE&split=NAME": ArrayRecord; the
        features default to image and caption, the split, e.g. "train[:5%]", to `split`.
        "{split}" in a spec becomes the split, e.g. "webdataset:emoji-{split}-*.tar".
      split: "train", or what else the source has.
      captions_required: False: pictures without a caption are records as well, whose
        caption is "".

    Raises:
      UserError: an unknown kind, or a place that does not hold what it should.
    """
    kind, where = _parse(spec, split)
    if kind == "shapes":
        # What a drawn world validates on is what it never shows in training.
        held_out = "held_out" if split == "validation" else split
        return shapes_world.ShapesWorld(where, held_out)
    if kind == "tfds":
        return _open_tfds(where, split, captions_required)
    source = _open_files(kind, where, captions_required)
    _log_once(f"{source!r}: {source.report.describe()}")
    return source


def list_files(spec: str, *, split: str = "train") -> list[pathlib.Path] | None:
    """The files that a source of tars or of a folder reads; None for other kinds.

    Raises:
      UserError: as `open_source`.
    """
    kind, where = _parse(spec, split)
    if kind not in ("webdataset", "folder"):
        return None
    return _open_files(kind, where, captions_required=False).files()


def _parse(spec: str, split: str) -> tuple[str, str]:
    """Kind and place of a spec."""
    kind, separator, where = spec.replace("{split}", split).partition(":")
    if not separator or not where or kind not in {k.partition(":")[0] for k in KINDS}:
        raise UserError(
            f"data source {spec!r} is not understood; use one of {', '.join(KINDS)}"
        )
    return kind, where


def _open_files(
    kind: str, where: str, captions_required: bool
) -> folder.Folder | tar_shards.TarShards:
    place, options = source_options.split_options(where)
    settings = {"options": options, "captions_required": captions_required}
    if kind == "folder":
        try:
            return folder.Folder(place, **settings)
        except folder.OnlyTarsError:
            _log_once(
                f"folder:{place} holds tars and no pictures; it is read as"
                f" webdataset:{place}"
            )
    return tar_shards.TarShards(place, **settings)


@functools.cache
def _log_once(line: str) -> None:
    """Logs a line once a process: training, validation and grids open a source each."""
    _log.info("%s", line)


def _open_tfds(where: str, split: str, captions_required: bool) -> schema.Source:
    # tensorflow_datasets takes a second to import, so only its users pay for it.
    from glide_jax.data import tfds_records

    name, _, query = where.partition("?")
    known = ("image", "caption", "split", "captions")
    options = source_options.parse_query(query, known, f"tfds:{where}")
    source_options.check_policy(options.get("captions", ""), f"tfds:{where}")
    source = tfds_records.TfdsRecords(
        name, **{"split": split, **options}, captions_required=captions_required
    )
    _log_once(f"{source!r}: {wording.counted(len(source), 'record')}")
    return source


def open_mixture(
    specs: tuple[str, ...], weights: tuple[float, ...], *, split: str = "train"
) -> schema.Source:
    """The weighted mixture of some sources; one source alone is opened as it is.

    The stream's share of each source is its weight, exactly so in every thousand
    positions, and each source is visited in whole epochs, as a function of
    (seed, position).

    Raises:
      UserError: see `open_source`; weights that do not fit the sources.
    """
    parts = tuple(open_source(spec, split=split) for spec in specs)
    mixed = mixture.Mixture(parts, weights)
    return mixed if len(parts) > 1 else parts[0]


def sample_captions(
    source: schema.Source,
    count: int,
    *,
    seed: int = 0,
    on_progress: Callable[[], None] = lambda: None,
) -> list[str]:
    """Up to `count` captions in the order of the stream, e.g. to train a tokenizer.

    Records without a usable caption are left out, and told of in the log. `on_progress`
    is called before each record; what it raises ends the work.

    Raises:
      UserError: not one of the records has a usable caption.
    """
    found: list[str] = []
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
            found.append(example.caption)
    if skipped:
        first = ", ".join(f"{bad.key}: {bad.reason}" for bad in skipped[:NAMED])
        share = f"{len(found)} of {len(found) + len(skipped)} records"
        told = f"{source!r}: {share} have a usable caption; left out: {first}"
        if not found:
            raise UserError(f"{told}; captions are UTF-8 text and not empty")
        _log.warning("%s%s", told, ", ..." if len(skipped) > NAMED else "")
    return found
