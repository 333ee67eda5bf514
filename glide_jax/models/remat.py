"""Rematerialisation policies: what the backward pass recomputes to save memory.

| policy  | stored of a block                | recomputed                         |
|---------|----------------------------------|------------------------------------|
| none    | everything its gradient reads    | nothing                            |
| dots    | products with a kernel           | norms, activations, attention      |
| blocks  | its input                        | the block: a third more work       |
| full    | the input of its level's ascent  | that ascent, and in it each block  |
| offload | its input, in host memory        | the block                          |

For layers in a loop, `none` is `dots`: a loop copies each value that it stores, which
takes longer than computing pointwise functions and fused attention again.

A block is a block of `layout` in a U-Net, and a layer in a transformer. A transformer
has no levels, so `full` equals `blocks` there. `full` applies `blocks` to the
descending half, whose outputs are skip connections and stored anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core.primitives import name_p

from glide_jax.models import convolutions

POLICIES = ("none", "dots", "blocks", "full", "offload")
BLOCK_INPUT = "block_input"  # name in the program of what `offload` moves


def remat_block(
    block_class: type[nn.Module], policy: str, *, in_loop: bool = False
) -> type[nn.Module]:
    """Returns the module class under a policy.

    Args:
      block_class: a Flax module.
      policy: one of POLICIES.
      in_loop: whether the block is the body of a scan. Outside a loop, common
        subexpression elimination is prevented: it would undo the recomputation.
    """
    if policy == "none" and not in_loop:
        return block_class
    saved = {
        "none": _is_product,
        "dots": _is_product,
        "offload": _offload_inputs(),
    }.get(policy)
    return nn.remat(block_class, policy=saved, prevent_cse=not in_loop)


def remat_level(function: Callable) -> Callable:
    """Returns a function (module, *arrays) that stores only its arguments."""
    return nn.remat(function)


def name_input(x: jax.Array) -> jax.Array:
    """Names the input of a block, so that `offload` can move it."""
    return checkpoint_name(x, BLOCK_INPUT)


def _is_product(primitive: Any, *_: Any, **parameters: Any) -> bool:
    """Whether a primitive is a convolution or a product with a kernel.

    Attention's products have batch dimensions and do not count.
    """
    if primitive is jax.lax.conv_general_dilated_p:
        return True
    # A convolution whose program depends on the platform is known by its name only.
    if primitive is name_p:
        return parameters["name"] == convolutions.CONVOLUTION
    if primitive is not jax.lax.dot_general_p:
        return False
    _, batch_dimensions = parameters["dimension_numbers"]
    return not any(batch_dimensions)


def _offload_inputs() -> Callable:
    return jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[BLOCK_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    )
