"""Sharding rules: one ordered table of tensors and mesh axes for each model family.

A rule matches tensors whose path contains its regular expression and that have as many
dimensions as it names; the first match applies. Paths are those of parameters,
"text/layers/mlp_in/kernel". Paths of optimizer moments and averages end with that of
their parameter, so they have the same sharding.

If the rule does not name fsdp, or none matches, fsdp shards the largest remaining
dimension that it divides, if the tensor is large enough (`sharding.shard_tree`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from jax.sharding import AbstractMesh, Mesh

from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.parallel import device_mesh

WHOLE = "whole"  # instead of axes: not sharded
_NO_AXIS = "-"


class Rule(NamedTuple):
    """A pattern of tensors, and the mesh axis of each of their dimensions.

    Attributes:
      pattern: regular expression, searched in the path.
      axes: "data", "fsdp", "tensor" or None for each dimension; None for a tensor that
        must not be sharded.
    """

    pattern: str
    axes: tuple[str | None, ...] | None

    def speaks_of(self, path: str, num_dimensions: int) -> bool:
        """Whether the rule matches a tensor."""
        fits = self.axes is None or len(self.axes) == num_dimensions
        return fits and re.search(self.pattern, path) is not None


# As in Megatron-LM (arXiv 1909.08053): the first layer of a pair is sharded by outputs,
# so that each device has whole attention heads or some of the hidden units, the second
# by inputs, followed by one all-reduce over the axis. Fused projections order their
# channels by head first (models/attention.py), so even shards contain whole heads.
# The leading dimension of a transformer's tensors counts its layers.
_TRANSFORMER = (
    Rule(r"layers/(attn_qkv|query|key|value|mlp_in)/kernel$", (None, None, "tensor")),
    Rule(r"layers/(attn_qkv|query|key|value|mlp_in)/bias$", (None, "tensor")),
    Rule(r"layers/(attn_proj|mlp_out)/kernel$", (None, "tensor", None)),
)
_IMAGE_ATTENTION = (
    Rule(r"attention/(qkv|encoder_kv)/kernel$", (None, "tensor")),
    Rule(r"attention/(qkv|encoder_kv)/bias$", ("tensor",)),
    Rule(r"attention/proj_out/kernel$", ("tensor", None)),
)
RULES: dict[str, tuple[Rule, ...]] = {
    "text2im": (*_TRANSFORMER, *_IMAGE_ATTENTION),
    "noised_clip": _TRANSFORMER,
}


def make_rules(family: str, given: Sequence[str] = ()) -> tuple[Rule, ...]:
    """The rules of a run: the user's (mesh.rules) before those of the model's family.

    Args:
      family: "text2im" or "noised_clip".
      given: each "REGEX=AXES", where AXES has a mesh axis or - for each dimension, or
        is `whole`; e.g. "mlp_in/kernel=-,fsdp,tensor".

    Raises:
      UserError: a rule that cannot be parsed.
    """
    return (*(_parse(text) for text in given), *RULES[family])


def check_heads(model: defaults.ModelConfig, mesh: Mesh | AbstractMesh) -> None:
    """Raises UserError unless the tensor axis splits between attention heads."""
    parts = mesh.shape["tensor"]
    heads = _heads_by_place(model)
    for place, count in heads.items():
        if count % parts:
            raise UserError(
                f"mesh.tensor={parts} does not divide the {count} heads of {place}; "
                f"use a divisor of {math.gcd(*heads.values())}"
            )


def _heads_by_place(model: defaults.ModelConfig) -> dict[str, int]:
    """Number of attention heads in each part of a model that the tensor axis shards."""
    if isinstance(model, defaults.NoisedClipConfig):
        return {
            "model.image_heads": model.image_heads,
            "model.text_heads": model.text_heads,
        }
    heads = {"model.text_heads": model.text_heads}
    last = len(model.channel_mult) - 1
    for level, mult in enumerate(model.channel_mult):
        px = model.image_px >> level
        if px in model.attention_px or level == last:  # the middle block attends too
            width = model.num_channels * mult
            heads[f"the attention at {px} px"] = width // model.head_channels
    return heads


def _parse(text: str) -> Rule:
    pattern, separator, axes = text.rpartition("=")
    names = [name.strip() for name in axes.split(",")]
    path = f"mesh.rules: {text!r}"
    if not separator or not pattern:
        raise UserError(f"{path} is not REGEX=AXES; e.g. 'mlp_in/kernel=-,fsdp,tensor'")
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{path} begins with no regular expression ({error}); escape its special "
            "characters with a backslash"
        ) from error
    if names == [WHOLE]:
        return Rule(pattern, None)
    for name in names:
        if name not in (*device_mesh.AXES, _NO_AXIS):
            raise UserError(
                f"{path} names the axis {name!r}; use {', '.join(device_mesh.AXES)} "
                f"or - for each dimension, or {WHOLE}"
            )
    used = [name for name in names if name != _NO_AXIS]
    if len(set(used)) < len(used):
        raise UserError(f"{path} names an axis twice; an axis cuts one dimension")
    return Rule(pattern, tuple(None if n == _NO_AXIS else n for n in names))
