"""Opens what data.sources names: "KIND:WHERE" to a random-access source."""

from __future__ import annotations

import logging
import urllib.parse
from collections.abc import Callable

from glide_jax import errors
from glide_jax.data import (
    captions,
    folder,
    mixture,
    order,
    schema,
    shapes_world,
    tar_shards,
)

_log = logging.getLogger(__name__)
# Records left out that a message names.
NAMED = 3
KINDS = (
    "shapes:quickstart",
    "shapes:full",
    "webdataset:GLOB",
    "tfds:NAME_OR_DIR",
    "folder:DIR",
)


def open_source(
    spec: str, *, split: str = "train", captions_required: bool = True
) -> schema.Source:
    """The source a spec names.

    Args:
      spec: one of
        "shapes:quickstart", "shapes:full": drawn on the fly; splits train and held_out,
        which is also its "validation".
        "webdataset:GLOB": img2dataset tars; several globs by commas, {000..012} ranges.
        "folder:DIR": pictures with a .txt caption beside each.
        "tfds:NAME_OR_DIR?image=FEATURE&caption=FEATURE&split=NAME": ArrayRecord; the
        features default to image and caption, the split, e.g. "train[:5%]", to `split`.
        "{split}" in a spec becomes the split, e.g. "webdataset:emoji-{split}-*.tar".
      split: "train", or what else the source has.
      captions_required: False: pictures without a caption are records as well, whose
        caption is "".

    Raises:
      UserError: an unknown kind, or a place that does not hold what it should.
    """
    kind, separator, where = spec.replace("{split}", split).partition(":")
    if not separator or not where or kind not in {k.partition(":")[0] for k in KINDS}:
        raise errors.UserError(
            f"data source {spec!r} is not understood; use one of {', '.join(KINDS)}"
        )
    if kind == "shapes":
        # What a drawn world validates on is what it never shows in training.
        held_out = "held_out" if split == "validation" else split
        return shapes_world.ShapesWorld(where, held_out)
    if kind == "webdataset":
        return tar_shards.TarShards(where, captions_required=captions_required)
    if kind == "folder":
        return folder.Folder(where, captions_required=captions_required)
    return _open_tfds(where, split, captions_required)


def _open_tfds(where: str, split: str, captions_required: bool) -> schema.Source:
    # tensorflow_datasets takes a second to import, so only its users pay for it.
    from glide_jax.data import tfds_records

    name, _, query = where.partition("?")
    # In a split like train+test the plus is no space.
    query = query.replace("+", "%2B")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    unknown = set(options) - {"image", "caption", "split"}
    if unknown:
        raise errors.UserError(
            f"tfds:{where} sets {', '.join(sorted(unknown))};"
            " only image, caption and split can be set"
        )
    return tfds_records.TfdsRecords(
        name, **{"split": split, **options}, captions_required=captions_required
    )


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
            example = source[order.record_at(source, seed, position)]
            captions.check(example.caption, example.key)
        except schema.BadRecordError as bad:
            skipped.append(bad)
        else:
            found.append(example.caption)
    if skipped:
        first = ", ".join(f"{bad.key}: {bad.reason}" for bad in skipped[:NAMED])
        share = f"{len(found)} of {len(found) + len(skipped)} records"
        told = f"{source!r}: {share} have a usable caption; left out: {first}"
        if not found:
            raise errors.UserError(f"{told}; captions are UTF-8 text and not empty")
        _log.warning("%s%s", told, ", ..." if len(skipped) > NAMED else "")
    return found
