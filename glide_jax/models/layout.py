"""Which blocks is a U-Net of this configuration made of, and how wide is each?

The network, its FLOPs and the weight converter all read this one list, so they cannot
disagree on it.
"""

from __future__ import annotations

from typing import NamedTuple

from glide_jax.config.defaults import Text2ImConfig


class BlockSpec(NamedTuple):
    """A residual block, attention or none, and a second residual block or none.

    Attributes:
      in_channels: of its input; in the ascending half the skip is counted in.
      channels: of every layer's output.
      px: side of its input.
      resample: "" or "down", of the first residual block.
      attention: whether attention follows the first residual block.
      last: "" (none), "plain" or "up": the residual block at the end.
    """

    in_channels: int
    channels: int
    px: int
    resample: str
    attention: bool
    last: str


class Layout(NamedTuple):
    """Blocks in order of use; the stem convolution comes before `inputs`."""

    inputs: tuple[BlockSpec, ...]
    middle: BlockSpec
    outputs: tuple[BlockSpec, ...]

    def blocks(self) -> tuple[BlockSpec, ...]:
        """All blocks in order of use."""
        return (*self.inputs, self.middle, *self.outputs)


def make_layout(config: Text2ImConfig) -> Layout:
    """The blocks of guided-diffusion's U-Net for a configuration."""
    inputs, skips, px = _descend(config)
    channels = skips[-1]
    middle = BlockSpec(channels, channels, px, "", True, "plain")
    return Layout(inputs, middle, _ascend(config, skips, px))


def _descend(config):
    """The inputs, the width of every skip connection, and the side at the bottom."""
    channels, px = config.num_channels, config.image_px
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


def _ascend(config, skips, px):
    channels, skips, blocks = skips[-1], list(skips), []
    for level, multiplier in reversed(list(enumerate(config.channel_mult))):
        for index in range(config.num_res_blocks + 1):
            width = multiplier * config.num_channels
            rises = level > 0 and index == config.num_res_blocks
            attends = px in config.attention_px
            in_channels = channels + skips.pop()
            last = "up" if rises else ""
            blocks.append(BlockSpec(in_channels, width, px, "", attends, last))
            channels = width
        if level > 0:
            px *= 2
    return tuple(blocks)
