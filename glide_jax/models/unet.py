"""How does the U-Net map a noised image, a time and caption keys to an output?

The ADM U-Net (arXiv 2105.05233) as GLIDE released it: residual blocks that resample,
scale and shift from the embedding after the second norm, attention with caption keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from glide_jax.config.defaults import Text2ImConfig
from glide_jax.models import attention as attention_lib
from glide_jax.models import initial, layers, layout

# A hook on activations, batch axis first; it may pin how they lie over devices.
ConstrainFn = Callable[[jax.Array], jax.Array]

_RESAMPLE = {"": lambda x: x, "up": layers.upsample, "down": layers.downsample}


class ResBlock(nn.Module):
    """Two convolutions around a scale and shift by the embedding, and a skip."""

    channels: int
    resample: str  # "", "up" or "down"
    norm_groups: int
    dropout_prob: float
    dropout_index: int  # which of the network's dropout layers this is
    dtype: Any

    @nn.compact
    def __call__(self, x, embedding, dropout_keys):
        resample = _RESAMPLE[self.resample]
        h = nn.silu(layers.GroupNorm(self.norm_groups, name="norm_in")(x)).astype(
            self.dtype
        )
        h = layers.Conv3x3(self.channels, dtype=self.dtype, name="conv_in")(resample(h))
        scale_shift = layers.Linear(2 * self.channels, name="embedding")(embedding)
        scale, shift = jnp.split(scale_shift[:, None, None], 2, axis=-1)
        h = layers.GroupNorm(self.norm_groups, name="norm_out")(h) * (1 + scale) + shift
        h = nn.silu(h).astype(self.dtype)
        if self.dropout_prob > 0 and dropout_keys is not None:
            keys = jax.vmap(jax.random.fold_in, (0, None))(
                dropout_keys, self.dropout_index
            )
            h = layers.dropout(h, keys, self.dropout_prob)
        h = layers.Conv3x3(
            self.channels, init=initial.zero_init, dtype=self.dtype, name="conv_out"
        )(h)
        skip = resample(x)
        if x.shape[-1] != self.channels:
            skip = layers.Linear(self.channels, dtype=self.dtype, name="skip")(skip)
        return skip + h


class Block(nn.Module):
    """One entry of the layout: residual block, attention, residual block."""

    spec: layout.BlockSpec
    config: Text2ImConfig
    dropout_index: int
    attention_fn: attention_lib.AttentionFn
    dtype: Any

    def setup(self):
        spec = self.spec
        self.res = self._res_block(spec.resample, self.dropout_index)
        if spec.attention:
            self.attention = attention_lib.ImageAttention(
                spec.channels,
                self.config.head_channels,
                self.config.norm_groups,
                dtype=self.dtype,
                attention=self.attention_fn,
            )
        if spec.last:
            resample = "" if spec.last == "plain" else spec.last
            self.last = self._res_block(resample, self.dropout_index + 1)

    def _res_block(self, resample, dropout_index):
        return ResBlock(
            self.spec.channels,
            resample,
            self.config.norm_groups,
            self.config.dropout_prob,
            dropout_index,
            self.dtype,
        )

    def text_keys_values(self, sequence):
        """The caption's keys and values for this block's attention."""
        return self.attention.text_keys_values(sequence)

    def __call__(self, x, embedding, text_keys_values, dropout_keys):
        x = self.res(x, embedding, dropout_keys)
        if self.spec.attention:
            x = self.attention(x, text_keys_values)
        if self.spec.last:
            x = self.last(x, embedding, dropout_keys)
        return x


class UNet(nn.Module):
    """x (B, H, W, inputs), timesteps, pooled caption, caption keys -> (B, H, W, 6)."""

    config: Text2ImConfig
    attention_fn: attention_lib.AttentionFn
    constrain: ConstrainFn
    remat: bool  # recompute each block in the backward pass
    dtype: Any

    def setup(self):
        width = self.config.num_channels
        # The embedding's path is per image, not per pixel: float32 costs nothing there.
        highest = jax.lax.Precision.HIGHEST
        self.time_in = layers.Linear(4 * width, precision=highest)
        self.time_out = layers.Linear(4 * width, precision=highest)
        self.stem = layers.Conv3x3(width, dtype=self.dtype)
        plan = layout.make_layout(self.config)
        block_class = nn.remat(Block) if self.remat else Block
        count = 0  # residual blocks so far, each with its own dropout layer
        blocks = []
        for spec in plan.blocks():
            block = block_class(spec, self.config, count, self.attention_fn, self.dtype)
            blocks.append(block)
            count += 1 + bool(spec.last)
        self.inputs = blocks[: len(plan.inputs)]
        self.middle = blocks[len(plan.inputs)]
        self.outputs = blocks[len(plan.inputs) + 1 :]
        self.norm_out = layers.GroupNorm(self.config.norm_groups)
        # float32 at full precision: at t = 999 the sampler multiplies an error of this
        # layer by 2e4.
        self.conv_out = layers.Conv3x3(6, init=initial.zero_init, precision=highest)

    def text_keys_values(self, sequence):
        """One (B, L, 2 * channels) array per attention, in order of use."""
        blocks = (*self.inputs, self.middle, *self.outputs)
        return tuple(b.text_keys_values(sequence) for b in blocks if b.spec.attention)

    def __call__(self, x, timesteps, pooled, text_keys_values, dropout_keys):
        embedding = nn.silu(self._embed(timesteps) + pooled)
        remaining = iter(text_keys_values)

        def run(block, h):
            keys_values = next(remaining) if block.spec.attention else None
            return self.constrain(block(h, embedding, keys_values, dropout_keys))

        h = self.constrain(self.stem(x))
        skips = [h]
        for block in self.inputs:
            h = run(block, h)
            skips.append(h)
        h = run(self.middle, h)
        for block in self.outputs:
            h = run(block, jnp.concatenate([h, skips.pop()], axis=-1))
        return self.conv_out(nn.silu(self.norm_out(h)))

    def _embed(self, timesteps):
        sinusoids = layers.timestep_embedding(timesteps, self.config.num_channels)
        return self.time_out(nn.silu(self.time_in(sinusoids)))
