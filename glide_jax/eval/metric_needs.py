"""Chooses the metrics that can be computed from what is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from glide_jax.errors import UserError
from glide_jax.eval.metrics import METRICS

if TYPE_CHECKING:
    from glide_jax.eval import extractors, picture_sets, reference_files

# What a metric may need, and the remedy where it is missing.
NEEDS = {
    "features": "give --features",
    "reference": "give --reference",
    "rows": "its reference has statistics only; build one by glide evaluate reference",
    "spatial": "the features or the reference have no spatial part; give both of "
    "inception's",
    "logits": "these features have no classes; use inception's, or give prompts",
    "clip": "give --judge, the bundle of a noised CLIP",
    "captions": "give the pictures' prompts",
    "repeats": "no two pictures have the same prompt; draw several of each",
}


def choose(names: Sequence[str], have: set[str]) -> list[str]:
    """Returns `names`, or without any all metrics whose needs are met.

    Args:
      names: Keys of `metrics.METRICS`.
      have: Keys of NEEDS, as `available` returns them.

    Raises:
      UserError: A name is unknown, or one of its needs is not met.
    """
    for name in names:
        if name not in METRICS:
            raise UserError(f"--metrics={name} is unknown; known: {', '.join(METRICS)}")
        for need in METRICS[name].needs:
            if need not in have:
                raise UserError(f"--metrics={name}: {NEEDS[need]}")
    return list(names) or [n for n, m in METRICS.items() if have.issuperset(m.needs)]


def available(
    extractor: extractors.Extractor | None,
    reference: reference_files.Reference | None,
    pictures: picture_sets.PictureSet | None,
    *,
    has_clip: bool,
    batch_size: int,
) -> set[str]:
    """Returns the keys of NEEDS that are met.

    What the extractor returns is seen on one batch of grey pictures, of the size that
    is used later, so that it compiles one program.

    Args:
      extractor: Extractor of features, if any.
      reference: Real pictures, if any.
      pictures: The pictures to evaluate; None: their captions are not known.
      has_clip: Whether there is a noised CLIP that encodes captions.
      batch_size: Pictures at once.
    """
    have = {
        "reference": reference is not None,
        "rows": reference is not None and reference.rows is not None,
        "clip": has_clip,
        "captions": pictures is not None and pictures.has_captions,
    }
    captions = [] if pictures is None else pictures.captions or []
    have["repeats"] = len(set(captions)) < len(captions)
    if extractor is not None:
        px = extractor.px if pictures is None else pictures.px
        shape = (batch_size, px, px, 3)
        features = extractor(np.full(shape, 127, np.uint8))
        has_reference_spatial = reference is None or reference.spatial is not None
        have["features"] = True
        have["spatial"] = features.spatial is not None and has_reference_spatial
        have["logits"] = features.logits is not None
    return {name for name, is_met in have.items() if is_met}
