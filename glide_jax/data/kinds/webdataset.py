"""Tars of pictures and captions, as webdataset reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glide_jax.data import source_kinds, tar_shards

FORMS = ("webdataset:GLOB_OR_DIR",)


def open_source(place: source_kinds.Place) -> tar_shards.TarShards:
    """Opens all tars of a folder or of a pattern."""
    from glide_jax.data import source_options, tar_shards

    name, options = source_options.split_options(place.where)
    return tar_shards.TarShards(
        name, options=options, captions_required=place.captions_required
    )
