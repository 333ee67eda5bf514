"""A generated world of coloured shapes, with a caption for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glide_jax.data import schema, source_kinds

FORMS = ("shapes:quickstart", "shapes:full")


def open_source(place: source_kinds.Place) -> schema.Source:
    """Opens the world; its held-out scenes are the validation split."""
    from glide_jax.data import shapes_world

    split = "held_out" if place.split == "validation" else place.split
    return shapes_world.ShapesWorld(place.where, split)
