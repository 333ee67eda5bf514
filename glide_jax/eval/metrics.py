"""From what was seen of the pictures to figures, and what has to be said of them.

Figures carry the extractor's name: noised_clip_fid is no fid, and inception_tf1_fid, of
pictures resized as OpenAI's evaluator does it, is not that of pytorch-fid. Those of
`inception`, which resizes as pytorch-fid does, go without. Precision and recall of
float16 distances are precision_float16 and recall_float16: they do not compare with
exact ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from glide_jax.errors import UserError
from glide_jax.eval import (
    clip_score,
    distances,
    extractors,
    feature_cache,
    feature_passes,
    float16_distances,
    reference_files,
    running_stats,
)
from glide_jax.runtime import wording

# What each needs: features, a reference, its own rows, captions and a CLIP for them.
NEEDS = {
    "fid": ("features", "reference"),
    "sfid": ("spatial", "reference"),
    "kid": ("features", "reference", "rows"),
    "precision_recall": ("features", "reference", "rows"),
    "inception_score": ("logits",),
    "clip_score": ("clip", "captions"),
}
_REMEDIES = {
    "features": "give --features",
    "reference": "give --reference",
    "rows": "its reference has statistics only; build one by glide evaluate reference",
    "spatial": "the features or the reference have no spatial part; give both of "
    "inception's",
    "logits": "these features name no classes; use inception's, or give prompts",
    "clip": "give --judge, the bundle of a noised CLIP",
    "captions": "give the pictures' prompts",
}
# How precision and recall compute distances: in float64, or as OpenAI's evaluator does.
EXACT, FLOAT16 = "exact", "float16"
PR_DISTANCES = (EXACT, FLOAT16)
# The extractor whose figures need no name of their own, those that most papers mean.
PLAIN = "inception"
# 1706.08500's authors: with fewer pictures FID comes out too high.
STABLE_FID = 10_000
# With fewer than the evaluator's parts have, classes look less even than they are.
STABLE_INCEPTION = distances.INCEPTION_SPLIT


class Found(NamedTuple):
    """Figures by name, and a line for each that is to be read with care."""

    metrics: dict[str, float]
    warnings: list[str]


def choose(asked: Sequence[str], have: set[str]) -> list[str]:
    """The figures to make: those asked for, or all that can be made.

    Args:
      asked: Keys of NEEDS; none: all that `have` allows.
      have: What there is, of the words in NEEDS.

    Raises:
      UserError: One that is unknown, or lacks something.
    """
    for name in asked:
        if name not in NEEDS:
            raise UserError(f"--metrics={name} is unknown; known: {', '.join(NEEDS)}")
        for need in NEEDS[name]:
            if need not in have:
                raise UserError(f"--metrics={name}: {_REMEDIES[need]}")
    return list(asked) or [n for n, needs in NEEDS.items() if have.issuperset(needs)]


def compute(
    kept: feature_cache.FeatureCache,
    names: Sequence[str],
    *,
    extractor: str,
    reference: reference_files.Reference | None = None,
    pr_distances: str = EXACT,
) -> Found:
    """The figures of these names.

    Args:
      kept: All that was seen.
      names: As `choose` gives them.
      extractor: Name of the extractor; PLAIN goes without saying.
      reference: What to compare with.
      pr_distances: One of PR_DISTANCES.
    """
    metrics: dict[str, float] = {}
    warnings: list[str] = []
    if "fid" in names:
        pool = feature_passes.gaussian_of(kept, "pool")
        metrics["fid"] = distances.frechet(pool, reference.pool)
        warnings += _doubts(f"{_prefix(extractor)}fid", pool, reference.pool)
    if "sfid" in names and reference.spatial is not None:
        spatial = feature_passes.gaussian_of(kept, "spatial")
        metrics["sfid"] = distances.frechet(spatial, reference.spatial)
        warnings += _doubts(f"{_prefix(extractor)}sfid", spatial, reference.spatial)
    if {"kid", "precision_recall"} & set(names):
        metrics |= _by_rows(kept.rows("pool"), reference.rows, names, pr_distances)
    if "inception_score" in names:
        logits = kept.rows("logits")
        metrics["inception_score"] = distances.inception_score(logits)
        if len(logits) < STABLE_INCEPTION:
            warnings.append(
                f"{_prefix(extractor)}inception_score:"
                f" {wording.counted(len(logits), 'picture')}; below "
                f"{STABLE_INCEPTION:,} it comes out too low, compare only equal numbers"
            )
    metrics = {f"{_prefix(extractor)}{name}": v for name, v in metrics.items()}
    if "clip_score" in names:
        found = [kept.rows(n) for n in ("clip_images", "clip_captions", "captions")]
        metrics |= clip_score.figures(*found[:2], found[2].tolist())
        if len(found[2]) < clip_score.GROUP:
            warnings.append(
                f"noised_clip_retrieval: among"
                f" {wording.counted(len(found[2]), 'caption')}, where groups "
                f"have {clip_score.GROUP}"
            )
    return Found(metrics, warnings)


def available(
    extractor: extractors.Extractor | None,
    reference: reference_files.Reference | None,
    *,
    has_clip: bool,
    has_captions: bool,
    batch_size: int,
) -> set[str]:
    """What there is, in the words of NEEDS.

    The extractor is asked by grey pictures, as many as it will be shown at once, so
    that it compiles one program.
    """
    have = {
        "reference": reference is not None,
        "rows": reference is not None and reference.rows is not None,
        "clip": has_clip,
        "captions": has_captions,
    }
    if extractor is not None:
        shape = (batch_size, extractor.px, extractor.px, 3)
        seen = extractor(np.full(shape, 127, np.uint8))
        has_reference_spatial = reference is None or reference.spatial is not None
        have["features"] = True
        have["spatial"] = seen.spatial is not None and has_reference_spatial
        have["logits"] = seen.logits is not None
    return {name for name, is_there in have.items() if is_there}


def _by_rows(
    rows: np.ndarray, real: np.ndarray, names: Sequence[str], pr_distances: str
) -> dict[str, float]:
    found: dict[str, float] = {}
    if "kid" in names:
        estimate = distances.kernel(rows, real)
        found["kid"] = estimate.value
        if estimate.standard_error is not None:
            found["kid_standard_error"] = estimate.standard_error
    if "precision_recall" in names:
        if pr_distances == FLOAT16:
            shares = float16_distances.precision_recall(rows, real)._asdict()
            found |= {f"{name}_{FLOAT16}": share for name, share in shares.items()}
        else:
            found |= distances.precision_recall(rows, real)._asdict()
    return found


def _prefix(extractor: str) -> str:
    return "" if extractor == PLAIN else f"{extractor}_"


def _doubts(
    name: str, drawn: running_stats.Gaussian, real: running_stats.Gaussian
) -> list[str]:
    """One line, where there are too few pictures on either side."""
    fewest = min(drawn.count, real.count or drawn.count)
    if fewest >= STABLE_FID:
        return []
    line = (
        f"{name}: {wording.counted(drawn.count, 'picture')} against"
        f" {real.count or 'an unknown number'}; "
        f"below {STABLE_FID:,} it comes out too high, compare only equal numbers"
    )
    singular = [g.count for g in (drawn, real) if g.is_singular]
    if singular:
        line += (
            f"; the covariance of {wording.counted(min(singular), 'picture')} has the"
            f" rank {min(singular) - 1} of {len(drawn.mu)}"
        )
    return [line]
