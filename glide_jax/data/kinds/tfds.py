"""A prepared data set of tensorflow_datasets, in ArrayRecord files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glide_jax.data import schema, source_kinds

FORMS = ("tfds:NAME_OR_DIR",)


def open_source(place: source_kinds.Place) -> schema.Source:
    """Opens one split of a data set; `?split=` names another than the given one."""
    from glide_jax.data import source_options, tfds_records

    name, _, query = place.where.partition("?")
    known = ("image", "caption", "split", "captions")
    options = source_options.parse_query(query, known, f"tfds:{place.where}")
    source_options.check_policy(options.get("captions", ""), f"tfds:{place.where}")
    return tfds_records.TfdsRecords(
        name,
        **{"split": place.split, **options},
        captions_required=place.captions_required,
    )
