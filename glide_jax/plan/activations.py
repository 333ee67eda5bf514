"""What does a forward pass keep for the backward pass, and what does one block need?

Counted in numbers of one example by the network's own list of blocks
(models/layout.py), for each policy of models/remat.py. Of a residual block from c_in to
c channels at p x p pixels, of attention, and of a transformer layer:

| kept            | none                       | dots                    | blocks, full |
|-----------------|----------------------------|-------------------------|--------------|
| residual block  | joined input c_in, both    | both convolutions' and  |              |
|                 | normed inputs c_in + c,    | the skip map's outputs  | nothing      |
|                 | first output c             | 2 c (+ c)               |              |
| attention       | norm c, q k v 3 c, joined  | q k v 3 c               | nothing      |
|                 | k v 2 c, attended c        |                         |              |
| layer, width w  | two norms 2 w, q k v 3 w,  | q k v 3 w, attended's   | nothing      |
|                 | attended w, 2 hidden 8 w   | map w, hidden 4 w       |              |

Everywhere the output of each block is kept too, since it is what enters the next (and
the skip to the ascending half); under `full` only of descending blocks and of the last
one of an ascending level; under `offload` in the host's memory. Each attention's
projected caption is kept under every policy, because it is made before the blocks.

Beside what is kept, the block at work holds all of its `none` column (computed again)
and the gradients of its largest tensors.
"""

from __future__ import annotations

import dataclasses

from glide_jax.config.defaults import Config, NoisedClipConfig, Text2ImConfig
from glide_jax.models import layout


@dataclasses.dataclass(frozen=True)
class Activations:
    """Bytes of one device's microbatch.

    Attributes:
      kept: from the forward to the backward pass.
      work: of the block at work when that is at its fullest.
      on_host: kept in the host's memory.
    """

    kept: int
    work: int
    on_host: int


@dataclasses.dataclass(frozen=True)
class _Part:
    """Numbers of one example in a block, or in a stack of layers."""

    kept: int
    work: int
    on_host: int = 0


def estimate(config: Config, examples: int) -> Activations:
    """Of `examples` on one device that has all heads and channels.

    Tensor parallelism cuts what lies between the two halves of a pair of maps; that is
    left out, so with mesh.tensor > 1 this is an upper bound.
    """
    model, train = config.model, config.train
    if isinstance(model, NoisedClipConfig):
        patches = (model.image_px // model.patch_px) ** 2 + 1
        image = patches, model.image_width, model.image_heads, model.image_layers
        parts = [_stack(train.remat[0], *image), _text(config)]
    else:
        parts = [_text(config), *_unet(config)]
    size = examples * compute_bytes(config)
    return Activations(
        kept=size * sum(part.kept for part in parts),
        work=size * max(part.work for part in parts),
        on_host=size * sum(part.on_host for part in parts),
    )


def compute_bytes(config: Config) -> int:
    """Bytes of a number that the network computes with."""
    return 4 if config.model.compute_dtype == "float32" else 2


def policy_of(config: Config, px: int) -> str:
    """The remat policy of the U-Net's blocks whose input has px pixels a side."""
    remat = config.train.remat
    if len(remat) == 1:
        return remat[0]
    return remat[(config.model.image_px // px).bit_length() - 1]


def _text(config: Config) -> _Part:
    model = config.model
    sizes = model.text_context, model.text_width, model.text_heads, model.text_layers
    return _stack(config.train.remat_text, *sizes)


def _stack(policy: str, length: int, width: int, heads: int, num_layers: int) -> _Part:
    """A stack of transformer layers."""
    row = length * width
    everything = (2 + 3 + 1 + 8) * row + heads * length**2
    inside = {"none": everything, "dots": (3 + 1 + 4) * row}.get(policy, 0)
    entering = num_layers * row
    work = 2 * everything
    if policy == "offload":
        return _Part(0, work, entering)
    return _Part(entering + num_layers * inside, work)


def _unet(config: Config) -> list[_Part]:
    """Its blocks, the stem and the caption's keys and values."""
    model = config.model
    plan = layout.make_layout(model)
    blocks, ascending = plan.blocks(), len(plan.inputs) + 1
    per_level = model.num_res_blocks + 1
    parts = [_Part(model.image_px**2 * model.num_channels, 0)]
    for index, spec in enumerate(blocks):
        policy = policy_of(config, spec.px)
        is_last = (index - ascending) % per_level == per_level - 1
        is_inside = policy == "full" and index >= ascending and not is_last
        parts.append(_block(spec, policy, model, output_is_kept=not is_inside))
        if spec.attention:
            parts.append(_Part(2 * model.text_context * spec.channels, 0))
    return parts


def _block(
    spec: layout.BlockSpec, policy: str, model: Text2ImConfig, *, output_is_kept: bool
) -> _Part:
    px = spec.px // 2 if spec.resample == "down" else spec.px
    area, c_in, c = px**2, spec.in_channels, spec.channels
    has_skip = c_in != c
    everything = area * (c_in + c + c) + spec.px**2 * c_in * has_skip
    products = area * (2 * c + c * has_skip)
    if spec.attention:
        everything += area * 5 * c + 2 * c * (area + model.text_context)
        products += area * 3 * c
    output = area * c
    if spec.last:
        last_area = area * (4 if spec.last == "up" else 1)
        everything += last_area * 3 * c
        products += last_area * 2 * c
        output = last_area * c
    inside = {"none": everything, "dots": products}.get(policy, 0)
    work = 2 * everything + output
    if policy == "offload":
        return _Part(0, work, output)
    return _Part(output * output_is_kept + inside, work)
