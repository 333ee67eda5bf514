"""A folder of pictures, with captions beside them or in tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glide_jax.data import schema, source_kinds

FORMS = ("folder:DIR",)


def open_source(place: source_kinds.Place) -> schema.Source:
    """Opens a folder; one with tars and no pictures is read as `webdataset:DIR`."""
    from glide_jax.data import folder, source_options
    from glide_jax.data.kinds import webdataset

    name, options = source_options.split_options(place.where)
    try:
        return folder.Folder(
            name, options=options, captions_required=place.captions_required
        )
    except folder.OnlyTarsError:
        source = webdataset.open_source(place)
        source.report.notes.insert(0, f"folder:{name} contains tars and no pictures")
        return source
