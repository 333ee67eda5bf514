"""The blocks of a U-Net: their order, widths and resolutions.

The network, its FLOPs and the weight converter all read this one list.
"""

from __future__ import annotations

from typing import NamedTuple

from glide_jax.config.defaults import Text2ImConfig


class BlockSpec(NamedTuple):
    """A residual block, optional attention, and an optional second residual block.

    Attributes:
      in_channels: channels of the input; in the ascending half with the skip's.
      channels: channels of every layer's output.
      px: side of the input, positions.
      resample: "" or "down", of the first residual block.
      attention: whether attention follows the first residual block.
      last: the second residual block: "" (none), "plain" or "up".
    """

    in_channels: int
    channels: int
    px: int
    resample: str
    attention: bool
    last: str


class Layout(NamedTuple):
    """The blocks in order of use; the stem convolution precedes `inputs`."""

    inputs: tuple[BlockSpec, ...]
    middle: BlockSpec
    outputs: tuple[BlockSpec, ...]

    def blocks(self) -> tuple[BlockSpec, ...]:
        """Returns all blocks in order of use."""
        return (*self.inputs, self.middle, *self.outputs)


def make_layout(config: Text2ImConfig) -> Layout:
    """Returns the blocks of guided-diffusion's U-Net for a configuration."""
    inputs, skips, px = _descend(config)
    channels = skips[-1]
    middle = BlockSpec(channels, channels, px, "", True, "plain")
    return Layout(inputs, middle, _ascend(config, skips, px))


def attention_heads(config: Text2ImConfig) -> dict[str, int]:
    """Returns the number of attention heads at each resolution that has attention."""
    last = len(config.channel_mult) - 1
    heads = {}
    for level, mult in enumerate(config.channel_mult):
        px = config.grid_px >> level
        if px in config.attention_px or level == last:  # the middle block attends too
            width = config.num_channels * mult
            heads[f"the attention at {px} px"] = width // config.head_channels
    return heads


def _descend(
    config: Text2ImConfig,
) -> tuple[tuple[BlockSpec, ...], tuple[int, ...], int]:
    """Returns the input blocks, the width of each skip, and the side at the bottom."""
    channels, px = config.num_channels, config.grid_px
    blocks, skips = [], [channels]
    for level, multiplier in enumerate(config.channel_mult):
        for _ in range(config.num_res_blocks):
            width = multiplier * config.num_channels
            attends = px in config.attention_px
            blocks.append(BlockSpec(channels, width, px, "", attends, ""))
            channels = width
            skips.append(channels)
        if level < len(config.channel_mult) - 1:
            blocks.append(BlockSpec(channels, channels, px, "down", False, ""))
            skips.append(channels)
            px //= 2
    return tuple(blocks), tuple(skips), px


def _ascend(
    config: Text2ImConfig, skips: tuple[int, ...], px: int
) -> tuple[BlockSpec, ...]:
    channels, remaining, blocks = skips[-1], list(skips), []
    for level, multiplier in reversed(list(enumerate(config.channel_mult))):
        for index in range(config.num_res_blocks + 1):
            width = multiplier * config.num_channels
            is_upsampling = level > 0 and index == config.num_res_blocks
            attends = px in config.attention_px
            in_channels = channels + remaining.pop()
            last = "up" if is_upsampling else ""
            blocks.append(BlockSpec(in_channels, width, px, "", attends, last))
            channels = width
        if level > 0:
            px *= 2
    return tuple(blocks)
