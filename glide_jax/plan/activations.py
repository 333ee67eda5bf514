"""Activations that the forward pass stores, and the working memory of each block.

Sizes are numbers of one example, from the network's list of blocks (models/layout.py),
for each policy of models/remat.py. For a residual block from c_in to c channels at
p x p pixels, for attention, and for a transformer layer of width w:

| stored         | none                            | dots                        |
|----------------|---------------------------------|-----------------------------|
| residual block | both normed inputs c_in + c,    | first convolution's output  |
|                | first output c                  | c; where more of the block  |
|                |                                 | follows, the second's and   |
|                |                                 | the skip map's too, c (+ c) |
| attention      | norm c, queries c, joined keys  | q k v 3 c, its map's output |
|                | and values 2 c, attended c      | c where more follows        |
| layer          | as dots                         | q k v 3 w, the two maps'    |
|                |                                 | outputs 2 w, hidden 4 w     |

Under blocks, full and offload none of these are stored. Every policy also stores the
output of each block, which is the input of the next and the skip to the ascending half;
`full` stores it for descending blocks and for the last block of an ascending level
only, `offload` in the host's memory. The caption projected for each attention is stored
under every policy, because it is computed before the blocks.

In addition, the block in its backward pass needs the gradients of its `none` column,
and that column itself if it was not stored.

Compilers delay weight gradients of the ascending half until after the middle block, and
keep their operands until then. Observed in their programs:

- The TPU's (libtpu 0.0.51 and 0.0.42, v5p) under `none`: everything these blocks store,
  and for each residual block the gradients of its input, its two convolutions
  (bfloat16) and its second norm (float32), c_in + 4 c.
- The GPU's (jax 0.10.2, H100) under `dots`: for each residual block the normed input
  and the gradient of the input, 2 c_in, and the gradients of its convolutions, 2 c; for
  each upsampling block its input and gradient, 2 c; and the operands of the last
  convolution.

With fewer than FEW_EXAMPLES images per device, the TPU compiler also splits the images
of levels of at least LARGE_PX pixels (its space-to-batch pass). Under `none` it then
delays nothing, but stores five float32 copies of the second norm's tensor, 10 c,
instead of its input and output.
"""

from __future__ import annotations

import dataclasses

from glide_jax.config.defaults import Config, NoisedClipConfig, Text2ImConfig
from glide_jax.models import layout
from glide_jax.train import teachers
from glide_jax.train.train_state import AUXILIARY

FEW_EXAMPLES = 8
LARGE_PX = 64


@dataclasses.dataclass(frozen=True)
class Part:
    """A block, or a stack of layers; sizes are numbers of one example.

    Attributes:
      name: path of its parameters.
      policy: rematerialisation policy.
      kept: stored from its forward to its backward pass.
      work: needed at once within its backward pass.
      on_host: stored in the host's memory.
      late: operands of weight gradients stored until the middle block.
      keeps_late: whether `kept` is stored as long.
    """

    name: str
    policy: str
    kept: int
    work: int
    on_host: int = 0
    late: int = 0
    keeps_late: bool = False


def parts(config: Config, examples: int, *, tensor: int, is_tpu: bool) -> list[Part]:
    """Returns the parts in the order of the forward pass.

    Tensor parallelism shards the activations between the two linear maps of a pair.
    Transformers count this. U-Nets do not: the activations of their attention are
    counted whole.

    Args:
      config: of the run.
      examples: of one microbatch on one device.
      tensor: extent of the mesh's axis of this name.
      is_tpu: whether the devices are TPUs; else GPUs.
    """
    model, train = config.model, config.train
    if isinstance(model, NoisedClipConfig):
        length = (model.image_px // model.patch_px) ** 2 + 1
        sizes = length, model.image_width, model.image_heads, model.image_layers
        image = _stack("image/layers", train.remat[0], *sizes, tensor)
        return [image, _text(config, tensor), _contrast(config)]
    is_few = examples < FEW_EXAMPLES
    own = [_text(config, tensor), *_unet(config, model, is_few=is_few, is_tpu=is_tpu)]
    if not teachers.matches_moments(config):
        return own
    # The second network runs on what the student has made.
    return own + [
        dataclasses.replace(part, name=f"{AUXILIARY}/{part.name}") for part in own
    ]


def compute_bytes(config: Config) -> int:
    """Returns the bytes of one number in the compute dtype."""
    return 4 if config.model.compute_dtype == "float32" else 2


def policy_of(config: Config, px: int) -> str:
    """Returns the policy of the U-Net's blocks with inputs of px x px pixels."""
    remat = config.train.remat
    if len(remat) == 1:
        return remat[0]
    assert isinstance(config.model, Text2ImConfig)
    return remat[(config.model.grid_px // px).bit_length() - 1]


def _text(config: Config, tensor: int) -> Part:
    model = config.model
    sizes = model.text_context, model.text_width, model.text_heads, model.text_layers
    return _stack("text/layers", config.train.remat_text, *sizes, tensor)


def _stack(
    name: str,
    policy: str,
    length: int,
    width: int,
    heads: int,
    num_layers: int,
    tensor: int,
) -> Part:
    """Returns a stack of transformer layers, a loop.

    Heads, attended values and hidden units are sharded over `tensor` devices.
    """
    row = length * width
    everything = 2 * row + ((3 + 1 + 8) * row + heads * length**2) // tensor
    # In a loop, `none` stores what `dots` does.
    inside = 2 * row + (3 + 4) * row // tensor if policy in ("none", "dots") else 0
    entering = num_layers * row
    work = 2 * everything
    if policy == "offload":
        return Part(name, policy, 0, work, entering)
    return Part(name, policy, entering + num_layers * inside, work)


def _contrast(config: Config) -> Part:
    """Returns CLIP's float32 logits in both directions, with their gradients."""
    row = config.train.global_batch_size * 4 // compute_bytes(config)
    return Part("logit_scale", "none", 0, 4 * row)


def _unet(
    config: Config, model: Text2ImConfig, *, is_few: bool, is_tpu: bool
) -> list[Part]:
    """Returns stem, blocks with the caption's keys and values, and last layers."""
    plan = layout.make_layout(model)
    ascending, per_level = len(plan.inputs) + 1, model.num_res_blocks + 1
    ends = model.grid_px**2 * model.num_channels
    unet_parts = [Part("unet/stem", "none", ends, 0)]
    for index, spec in enumerate(plan.blocks()):
        policy = policy_of(config, spec.px)
        is_last = (index - ascending) % per_level == per_level - 1
        is_inside = policy == "full" and index >= ascending and not is_last
        part = _block(_name(plan, index), spec, policy, model, splits=is_tpu and is_few)
        if is_inside:
            part = dataclasses.replace(part, kept=part.kept - _output(spec))
        if index >= ascending:
            late = _late(spec, policy, is_few=is_few, is_tpu=is_tpu)
            part = dataclasses.replace(part, late=late, keeps_late=is_tpu)
        unet_parts.append(part)
    # float32: norm, activation and the convolution's input, all of one size.
    wide = 4 // compute_bytes(config)
    late = 0 if is_tpu or policy_of(config, model.grid_px) != "dots" else wide + 1
    return [
        *unet_parts,
        Part("unet/conv_out", "none", wide * ends, 2 * wide * ends, late=late * ends),
    ]


def _late(spec: layout.BlockSpec, policy: str, *, is_few: bool, is_tpu: bool) -> int:
    """Returns the operands of an ascending block that are stored late."""
    area, c_in, c = spec.px**2, spec.in_channels, spec.channels
    if is_tpu:
        return area * (c_in + 4 * c) if policy == "none" and not is_few else 0
    if policy != "dots":
        return 0
    return 2 * area * (c_in + c) + 2 * _output(spec) * (spec.last == "up")


def _name(plan: layout.Layout, index: int) -> str:
    """Returns the path of a block's parameters."""
    if index < len(plan.inputs):
        return f"unet/inputs_{index}"
    if index == len(plan.inputs):
        return "unet/middle"
    return f"unet/outputs_{index - len(plan.inputs) - 1}"


def _output(spec: layout.BlockSpec) -> int:
    px = spec.px // 2 if spec.resample == "down" else spec.px
    return (2 * px if spec.last == "up" else px) ** 2 * spec.channels


def _block(
    name: str,
    spec: layout.BlockSpec,
    policy: str,
    model: Text2ImConfig,
    *,
    splits: bool,
) -> Part:
    everything, products = _residual(spec)
    caption, strips = 0, _strips(spec) if splits else 0
    if spec.attention:
        area, c = spec.px**2, spec.channels
        caption = 2 * model.text_context * c
        everything += area * 3 * c + 2 * c * (area + model.text_context)
        products += area * (3 + bool(spec.last)) * c
    if spec.last:
        everything += 3 * _output(spec)
        products += _output(spec)
    inside = {"none": everything + strips, "dots": products}.get(policy, 0)
    # Gradients of everything, and the values that were not stored.
    work = (1 if policy == "none" else 2) * everything + _output(spec)
    if policy == "offload":
        return Part(name, policy, caption, work, _output(spec))
    return Part(name, policy, caption + _output(spec) + inside, work)


def _residual(spec: layout.BlockSpec) -> tuple[int, int]:
    """Returns what the first residual block stores under `none`, and under `dots`."""
    px = spec.px // 2 if spec.resample == "down" else spec.px
    area, c_in, c = px**2, spec.in_channels, spec.channels
    has_skip = c_in != c
    products = area * c
    if spec.attention or spec.last:
        products += area * (c + c * has_skip)
    return area * (c_in + 2 * c), products


def _strips(spec: layout.BlockSpec) -> int:
    """Returns the extra size of the float32 copies of the second norms: 10 c - 2 c."""
    if spec.px < LARGE_PX:
        return 0
    px = spec.px // 2 if spec.resample == "down" else spec.px
    tensors = px**2 * spec.channels + (_output(spec) if spec.last else 0)
    return (10 - 2) * tensors
