"""Sharding rules: an ordered table of tensor patterns and mesh axes.

The table has the user's rules (mesh.rules) before those of the model's family
(models/build.py). A rule matches tensors whose path contains its regular expression and
that have as many dimensions as it names; the first match applies. Paths are those of
parameters, "text/layers/mlp_in/kernel". Paths of optimizer moments and averages end
with that of their parameter. A rule with axes applies to those of the parameter's
shape, and not to Adafactor's factored moments.

If the rule does not name fsdp, or none matches, fsdp shards the largest remaining
dimension that it divides, if the tensor is large enough (`sharding.shard_tree`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jax.sharding import AbstractMesh, Mesh

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

    def matches(self, path: str, num_dimensions: int) -> bool:
        """Whether the rule matches a tensor."""
        fits = self.axes is None or len(self.axes) == num_dimensions
        return fits and re.search(self.pattern, path) is not None


def make_rules(
    family_rules: Iterable[tuple[str, tuple[str | None, ...]]],
    given: Sequence[str] = (),
) -> tuple[Rule, ...]:
    """Returns the rules of a run: the user's before those of the model's family.

    Args:
      family_rules: patterns and axes, `build.Family.sharding_rules`.
      given: each "REGEX=AXES", where AXES has a mesh axis or - for each dimension, or
        is `whole`; e.g. "mlp_in/kernel=-,fsdp,tensor".

    Raises:
      UserError: a rule that cannot be parsed.
    """
    return (
        *(_parse(text) for text in given),
        *(Rule(pattern, axes) for pattern, axes in family_rules),
    )


def check_heads(heads: Mapping[str, int], mesh: Mesh | AbstractMesh) -> None:
    """Raises UserError unless the tensor axis divides the number of attention heads.

    Args:
      heads: number of heads by the name of each part, `build.Family.attention_heads`.
      mesh: of the run.
    """
    parts = mesh.shape["tensor"]
    for place, count in heads.items():
        if count % parts:
            raise UserError(
                f"mesh.tensor={parts} does not divide the {count} heads of {place}; "
                f"use {_divisors(math.gcd(*heads.values()))}"
            )


def _divisors(number: int) -> str:
    """Returns e.g. "mesh.tensor=1" for 1, "a divisor of 2" for 2."""
    return f"a divisor of {number}" if number > 1 else "mesh.tensor=1"


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
            f"{path} has an invalid regular expression ({error}); escape its special "
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
        raise UserError(
            f"{path} names an axis twice; an axis shards one dimension, so use - for "
            "the other"
        )
    return Rule(pattern, tuple(None if n == _NO_AXIS else n for n in names))
