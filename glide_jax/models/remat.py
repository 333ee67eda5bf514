"""What does the backward pass compute again, instead of keeping it in memory?

| policy  | kept of a block                  | computed again                     |
|---------|----------------------------------|------------------------------------|
| none    | all that its gradient reads      | nothing                            |
| dots    | products with a kernel           | norms, activations, attention      |
| blocks  | what enters it                   | the block: a third more work       |
| full    | what enters its level's ascent   | that ascent, and in it each block  |
| offload | what enters it, in host memory   | the block                          |

A block is an entry of `layout` in a U-Net, a layer in a transformer (where `full` is
`blocks`: a stack has no levels). `full` leaves the descending half at `blocks`: every
output there is a skip connection, kept anyway.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

POLICIES = ("none", "dots", "blocks", "full", "offload")
BLOCK_INPUT = "block_input"  # what `offload` moves, by the name it has in the program


def remat_block(
    block_class: type[nn.Module], policy: str, *, in_loop: bool = False
) -> type[nn.Module]:
    """The module class under a policy; `in_loop`: it is the body of a scan.

    Outside a loop the compiler has to be kept from sharing the recomputed values with
    the first ones, which would undo it all.
    """
    if policy == "none":
        return block_class
    saved = {"dots": _is_product, "offload": _offload_inputs()}.get(policy)
    return nn.remat(block_class, policy=saved, prevent_cse=not in_loop)


def remat_level(function: Callable) -> Callable:
    """A function (module, *arrays) -> arrays that keeps nothing but its arguments."""
    return nn.remat(function)


def name_input(x: jax.Array) -> jax.Array:
    """Marks what enters a block, for `offload` to find it."""
    return checkpoint_name(x, BLOCK_INPUT)


def _is_product(primitive, *_, **parameters) -> bool:
    """Convolutions and products with a kernel, but not attention's (a batch each)."""
    if primitive is jax.lax.conv_general_dilated_p:
        return True
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
