"""Computes metrics from the features of pictures.

`METRICS` is the only list of metrics: computation, help, error messages, tables in the
documentation and the direction of "best" in reports read it.

The names of values carry the extractor: noised_clip_fid is not the FID of the
literature, and inception_tf1_fid, of pictures resized as in OpenAI's evaluator, differs
from that of pytorch-fid. Values of the extractor `inception`, which resizes as
pytorch-fid does, have no prefix. efficientnet_lite0_fd and efficientnet_lite0_kd are
FID and KID by another network, and no published number compares with them.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from glide_jax.eval import (
    clip_score,
    distances,
    feature_cache,
    float16_distances,
    running_stats,
)
from glide_jax.runtime import wording

if TYPE_CHECKING:
    from glide_jax.eval import reference_files

HIGHER, LOWER = "higher", "lower"
# Arithmetic of the distances of precision and recall: float64, or float16 as in
# OpenAI's evaluator. Values of the second have names of their own.
EXACT, FLOAT16 = "exact", "float16"
PR_DISTANCES = (EXACT, FLOAT16)
# The extractor whose values have no prefix: the one that most papers mean.
PLAIN = "inception"
# Extractors whose Frechet and kernel distances do not have the I of Inception, and the
# names of those.
NOT_INCEPTION = ("efficientnet_lite0",)
_WITHOUT_I = {"fid": "fd", "sfid": "sfd", "kid": "kd"}
# 1706.08500's authors: with fewer pictures FID is biased upwards.
STABLE_FID = 10_000
# With fewer pictures than a part of the evaluator's, the marginal of the classes looks
# less even than it is.
STABLE_INCEPTION = distances.INCEPTION_SPLIT


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a metric is computed from.

    Attributes:
      features: Features of the pictures.
      given_reference: Real pictures to compare with, if any.
      pr_distances: One of PR_DISTANCES.
    """

    features: feature_cache.FeatureCache
    given_reference: reference_files.Reference | None = None
    pr_distances: str = EXACT

    @property
    def reference(self) -> reference_files.Reference:
        """The reference; only for metrics that need one."""
        assert self.given_reference is not None
        return self.given_reference


class Values(NamedTuple):
    """Values by name without a prefix, and remarks by the name of their value."""

    values: dict[str, float]
    remarks: Mapping[str, str] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
      meaning: One line for help and tables.
      needs: Keys of `metric_needs.NEEDS`.
      better: The direction, HIGHER or LOWER, of each value that has one.
      compute: Returns the values.
      has_prefix: Whether the extractor's name precedes the names of the values.
    """

    meaning: str
    needs: tuple[str, ...]
    better: Mapping[str, str]
    compute: Callable[[Inputs], Values]
    has_prefix: bool = True


class Results(NamedTuple):
    """Values by their full names, and warnings about how to read them."""

    metrics: dict[str, float]
    warnings: list[str]


def _fid(inputs: Inputs) -> Values:
    pool, real = inputs.features.gaussian("pool"), inputs.reference.pool
    return Values({"fid": distances.frechet(pool, real)}, _few("fid", pool, real))


def _sfid(inputs: Inputs) -> Values:
    spatial, real = inputs.features.gaussian("spatial"), inputs.reference.spatial
    assert real is not None
    value = distances.frechet(spatial, real)
    return Values({"sfid": value}, _few("sfid", spatial, real))


def _kid(inputs: Inputs) -> Values:
    estimate = distances.kernel(inputs.features.rows("pool"), _rows(inputs))
    values = {"kid": estimate.value}
    if estimate.standard_error is not None:
        values["kid_standard_error"] = estimate.standard_error
    return Values(values)


def _precision_recall(inputs: Inputs) -> Values:
    rows, real = inputs.features.rows("pool"), _rows(inputs)
    if inputs.pr_distances == FLOAT16:
        shares = float16_distances.precision_recall(rows, real)
        values = {f"{n}_{FLOAT16}": v for n, v in shares._asdict().items()}
    else:
        values = distances.precision_recall(rows, real)._asdict()
    if len(rows) == len(real):
        return Values(values)
    remark = (
        f"{len(rows):,} pictures and {len(real):,} real ones; both change with the two "
        "counts, so compare only values of equal counts"
    )
    return Values(values, dict.fromkeys(values, remark))


def _inception_score(inputs: Inputs) -> Values:
    logits = inputs.features.rows("logits")
    values = {"inception_score": distances.inception_score(logits)}
    if len(logits) >= STABLE_INCEPTION:
        return Values(values)
    remark = (
        f"{wording.counted(len(logits), 'picture')}; below {STABLE_INCEPTION:,} the "
        "value is biased downwards, compare only equal numbers"
    )
    return Values(values, {"inception_score": remark})


def _diversity(inputs: Inputs) -> Values:
    prompts = inputs.features.rows("captions").tolist()
    estimate = distances.diversity(inputs.features.rows("pool"), prompts)
    values = {"diversity": estimate.value}
    if estimate.standard_error is not None:
        values["diversity_standard_error"] = estimate.standard_error
    return Values(values)


def _clip_score(inputs: Inputs) -> Values:
    images, text = (inputs.features.rows(n) for n in ("clip_images", "clip_captions"))
    captions = inputs.features.rows("captions").tolist()
    values = clip_score.scores(images, text, captions)
    if len(captions) >= clip_score.GROUP:
        return Values(values)
    remark = (
        f"among {wording.counted(len(captions), 'caption')}, where groups "
        f"have {clip_score.GROUP}"
    )
    return Values(values, {"noised_clip_retrieval": remark})


METRICS: dict[str, Metric] = {
    "fid": Metric(
        "Frechet distance of the pool features (1706.08500)",
        ("features", "reference"),
        {"fid": LOWER},
        _fid,
    ),
    "sfid": Metric(
        "Frechet distance of the spatial features (2103.03841)",
        ("spatial", "reference"),
        {"sfid": LOWER},
        _sfid,
    ),
    "kid": Metric(
        "unbiased kernel distance of the pool features, with its standard error "
        "(1801.01401)",
        ("features", "reference", "rows"),
        {"kid": LOWER},
        _kid,
    ),
    "precision_recall": Metric(
        "shares of samples within the real manifold and of real pictures within that "
        "of the samples (1904.06991)",
        ("features", "reference", "rows"),
        {
            f"{name}{suffix}": HIGHER
            for name in ("precision", "recall")
            for suffix in ("", f"_{FLOAT16}")
        },
        _precision_recall,
    ),
    "inception_score": Metric(
        "exp of the mean divergence of a picture's classes from those of all "
        "(1606.03498)",
        ("logits",),
        {"inception_score": HIGHER},
        _inception_score,
    ),
    "clip_score": Metric(
        "100 cos(picture, caption) of the noised CLIP, and the share of pictures that "
        "retrieve their captions",
        ("clip", "captions"),
        {"noised_clip_score": HIGHER, "noised_clip_retrieval": HIGHER},
        _clip_score,
        has_prefix=False,
    ),
    "diversity": Metric(
        "mean squared distance of unit features between pictures of one prompt, with "
        "its standard error over prompts; not the published LPIPS",
        ("features", "captions", "repeats"),
        {"diversity": HIGHER},
        _diversity,
    ),
}


def compute(
    features: feature_cache.FeatureCache,
    names: Collection[str],
    *,
    extractor: str,
    reference: reference_files.Reference | None = None,
    pr_distances: str = EXACT,
) -> Results:
    """Computes some metrics, in the order of METRICS.

    Args:
      features: Features of all pictures.
      names: Keys of METRICS.
      extractor: The name of the extractor; all but PLAIN become a prefix.
      reference: The real pictures.
      pr_distances: One of PR_DISTANCES.
    """
    inputs = Inputs(features, reference, pr_distances)
    results = Results({}, [])
    for name, metric in METRICS.items():
        if name not in names:
            continue
        values, remarks = metric.compute(inputs)
        owner = extractor if metric.has_prefix else PLAIN
        results.metrics.update({full_name(n, owner): v for n, v in values.items()})
        results.warnings.extend(
            f"{full_name(n, owner)}: {text}" for n, text in remarks.items()
        )
    return results


def full_name(value: str, extractor: str) -> str:
    """Returns the name of an extractor's value: "fid", "noised_clip_fid" and so on."""
    if extractor == PLAIN:
        return value
    if extractor in NOT_INCEPTION:
        first, mark, rest = value.partition("_")
        value = f"{_WITHOUT_I.get(first, first)}{mark}{rest}"
    return f"{extractor}_{value}"


def is_value(name: str, value: str) -> bool:
    """Returns whether `name` is `value`, with any prefix and arithmetic.

    "inception_tf1_precision_float16" is "precision", "efficientnet_lite0_fd" is "fid".
    """
    names = "|".join({value, _WITHOUT_I.get(value, value)})
    return bool(re.search(rf"(^|[/_])({names})(_{FLOAT16})?$", name))


def better(name: str) -> str | None:
    """Returns HIGHER or LOWER for the full name of a value, None for other names."""
    name = re.sub(r"_q\d$", "", name)
    for metric in METRICS.values():
        for value, direction in metric.better.items():
            if is_value(name, value):
                return direction
    return None


def to_markdown() -> str:
    """Returns METRICS as a table for the documentation."""
    rows = [("metric", "values (better)", "meaning"), ("---",) * 3]
    for name, metric in METRICS.items():
        values = ", ".join(f"`{v}` ({way})" for v, way in metric.better.items())
        rows.append((f"`{name}`", values, metric.meaning))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _rows(inputs: Inputs) -> np.ndarray:
    rows = inputs.reference.rows
    assert rows is not None
    return rows


def _few(
    name: str, drawn: running_stats.Gaussian, real: running_stats.Gaussian
) -> dict[str, str]:
    """Returns a remark where a Frechet distance has too few pictures on either side."""
    if min(drawn.count, real.count or drawn.count) >= STABLE_FID:
        return {}
    remark = (
        f"{wording.counted(drawn.count, 'picture')} against "
        f"{real.count or 'an unknown number'}; below {STABLE_FID:,} the value is "
        "biased upwards, compare only equal numbers"
    )
    singular = [g.count for g in (drawn, real) if g.is_singular]
    if singular:
        remark += (
            f"; the covariance of {wording.counted(min(singular), 'picture')} has the"
            f" rank {min(singular) - 1} of {len(drawn.mu)}"
        )
    return {name: remark}
