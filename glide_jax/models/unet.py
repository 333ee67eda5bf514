"""The ADM U-Net (arXiv 2105.05233) as GLIDE released it.

Residual blocks resample, the embedding scales and shifts after the second norm, and
attention reads the keys and values of the caption.
"""

from __future__ import annotations

from typing import Any

import jax
from einops import rearrange
from flax import linen as nn
from jaxtyping import Float

from glide_jax import array_types
from glide_jax.config.defaults import Text2ImConfig
from glide_jax.models import attention as attention_lib
from glide_jax.models import initializers, layers, layout, norms, text_encoder
from glide_jax.models import remat as remat_lib
from glide_jax.runtime import random_streams

_RESAMPLE = {"": lambda x: x, "up": layers.upsample, "down": layers.downsample}
# The caption's keys and values for one attention layer.
TextKeysValues = Float[jax.Array, "b l kv"]


class ResBlock(nn.Module):
    """Two convolutions around a scale and shift by the embedding, and a skip.

    Attributes:
      channels: of the output.
      resample: "", "up" or "down".
      norm_groups: groups of both GroupNorms.
      dropout_prob: probability of zeroing an entry before the second convolution.
      dropout_index: index of this dropout layer within the network.
      constrain: hook on activations, e.g. a sharding constraint.
      dtype: of the convolutions.
    """

    channels: int
    resample: str
    norm_groups: int
    dropout_prob: float
    dropout_index: int
    constrain: text_encoder.ConstrainFn
    dtype: Any

    @nn.compact
    def __call__(
        self,
        parts: norms.Parts,
        embedding: array_types.Embedding,
        dropout_keys: array_types.PRNGKeys | None,
    ) -> Float[jax.Array, "b h2 w2 c2"]:
        """Maps (B, H, W, C), given in parts along the channel axis.

        The parts are an image and a skip connection. They are not concatenated: the
        first norm reads both, and the skip's projection is a sum of two products.
        """
        resample = _RESAMPLE[self.resample]
        norm = norms.GroupNorm(self.norm_groups, True, self.dtype, name="norm_in")
        h = self.constrain(resample(norm(*parts)))
        h = layers.Conv3x3(self.channels, dtype=self.dtype, name="conv_in")(h)
        h = self.constrain(h)
        scale_shift = layers.Linear(2 * self.channels, name="embedding")(embedding)
        scale_shift = self.constrain(scale_shift)
        norm = norms.GroupNorm(self.norm_groups, True, self.dtype, name="norm_out")
        h = norm(h, scale_shift=scale_shift)
        if self.dropout_prob > 0 and dropout_keys is not None:
            keys = random_streams.fold_each(dropout_keys, self.dropout_index)
            h = layers.dropout(h, keys, self.dropout_prob)
        h = layers.Conv3x3(
            self.channels,
            layer_init=initializers.zero_init,
            dtype=self.dtype,
            name="conv_out",
        )(self.constrain(h))
        skips = [resample(x) for x in parts]
        if sum(x.shape[-1] for x in parts) != self.channels:
            project = layers.Linear(self.channels, dtype=self.dtype, name="skip")
            return self.constrain(project(*skips) + h)
        (skip,) = skips
        return self.constrain(skip + h)


class Block(nn.Module):
    """One block of the layout: residual block, attention, residual block."""

    spec: layout.BlockSpec
    config: Text2ImConfig
    dropout_index: int
    attention_fn: attention_lib.AttentionFn
    constrain: text_encoder.ConstrainFn
    dtype: Any

    def setup(self) -> None:
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

    def _res_block(self, resample: str, dropout_index: int) -> ResBlock:
        return ResBlock(
            self.spec.channels,
            resample,
            self.config.norm_groups,
            self.config.dropout_prob,
            dropout_index,
            self.constrain,
            self.dtype,
        )

    def text_keys_values(self, sequence: array_types.Sequence) -> TextKeysValues:
        """Returns the caption's keys and values for this block's attention."""
        return self.attention.text_keys_values(sequence)

    def __call__(
        self,
        x: array_types.FeatureMap,
        skip: Float[jax.Array, "b h w c_skip"] | None,
        embedding: array_types.Embedding,
        text_keys_values: TextKeysValues | None,
        dropout_keys: array_types.PRNGKeys | None,
    ) -> Float[jax.Array, "b h2 w2 c2"]:
        parts = (x,) if skip is None else (x, skip)
        x = self.res(tuple(map(remat_lib.name_input, parts)), embedding, dropout_keys)
        if text_keys_values is not None:
            x = self.constrain(self.attention(x, text_keys_values))
        if self.spec.last:
            x = self.last((x,), embedding, dropout_keys)
        return x


class UNet(nn.Module):
    """Maps x (B, H, W, input_channels), times and caption to (B, H, W, 6), float32.

    Attributes:
      config: sizes.
      attention_fn: the program that computes attention over images.
      constrain: hook on activations, e.g. a sharding constraint.
      remat: rematerialisation policy of all levels, or of each from the finest.
      dtype: of convolutions and projections.
    """

    config: Text2ImConfig
    attention_fn: attention_lib.AttentionFn
    constrain: text_encoder.ConstrainFn
    remat: tuple[str, ...]
    dtype: Any

    def setup(self) -> None:
        width = self.config.num_channels
        # The embedding is per image, not per pixel, so full precision is cheap.
        highest = jax.lax.Precision.HIGHEST
        self.time_in = layers.Linear(4 * width, precision=highest)
        self.time_out = layers.Linear(4 * width, precision=highest)
        if self.config.guidance_range:
            # Zero at first: a student starts as its teacher without guidance.
            self.guidance_in = layers.Linear(
                4 * width, layer_init=initializers.zero_init, precision=highest
            )
        self.stem = layers.Conv3x3(width, dtype=self.dtype)
        plan = layout.make_layout(self.config)
        count = 0  # residual blocks so far; each has its own dropout layer
        blocks = []
        for spec in plan.blocks():
            block_class = remat_lib.remat_block(Block, self._policy(spec))
            block = block_class(
                spec, self.config, count, self.attention_fn, self.constrain, self.dtype
            )
            blocks.append(block)
            count += 1 + bool(spec.last)
        self.inputs = blocks[: len(plan.inputs)]
        self.middle = blocks[len(plan.inputs)]
        self.outputs = blocks[len(plan.inputs) + 1 :]
        self.norm_out = norms.GroupNorm(self.config.norm_groups, silu=True)
        # float32 at full precision: at t = 999 the sampler multiplies an error of this
        # layer by 2e4.
        self.conv_out = layers.Conv3x3(
            6 * self.config.patch_px**2,
            layer_init=initializers.zero_init,
            precision=highest,
        )

    def text_keys_values(self, sequence: array_types.Sequence) -> tuple[jax.Array, ...]:
        """Returns one (B, L, 2 * channels) array per attention, in order of use."""
        blocks = self._blocks()
        return tuple(b.text_keys_values(sequence) for b in blocks if b.spec.attention)

    def __call__(
        self,
        x: array_types.FeatureMap,
        timesteps: array_types.Timesteps,
        pooled: array_types.Embedding,
        text_keys_values: tuple[jax.Array, ...],
        guidance_scale: array_types.PerExample | None,
        dropout_keys: array_types.PRNGKeys | None,
    ) -> Float[jax.Array, "b h w 6"]:
        embedding = self._embed(timesteps) + pooled
        if self.config.guidance_range:
            embedding = embedding + self._embed_guidance(guidance_scale)
        embedding = nn.silu(embedding)
        remaining = iter(text_keys_values)
        # Inputs of each block besides the image; blocks without attention get no text.
        conditions = [
            (embedding, next(remaining) if b.spec.attention else None, dropout_keys)
            for b in self._blocks()
        ]
        # Channels before pixels: a condition's weights stay adjacent, see extend.py.
        patch = {"p": self.config.patch_px, "q": self.config.patch_px}
        x = rearrange(x, "b (h p) (w q) c -> b h w (c p q)", **patch)
        h = self.constrain(self.stem(x))
        skips = [h]
        for index in range(len(self.inputs)):
            h = self._run(index, h, None, conditions[index])
            skips.append(h)
        h = self._run(len(self.inputs), h, None, conditions[len(self.inputs)])
        for level in self._ascent():
            entering = [(skips.pop(), conditions[index]) for index in level]
            h = self._ascend(level, h, entering)
        output = self.conv_out(self.norm_out(h))
        return rearrange(output, "b h w (c p q) -> b (h p) (w q) c", **patch)

    def _blocks(self) -> tuple[Block, ...]:
        return (*self.inputs, self.middle, *self.outputs)

    def _run(
        self,
        index: int,
        h: jax.Array,
        skip: jax.Array | None,
        conditions: tuple[Any, ...],
    ) -> jax.Array:
        return self.constrain(self._blocks()[index](h, skip, *conditions))

    def _ascent(self) -> list[range]:
        """Returns the indices of the ascending half's blocks, one range per level."""
        first = len(self.inputs) + 1
        per_level = self.config.num_res_blocks + 1
        count = len(self.outputs) // per_level
        return [
            range(first + i * per_level, first + (i + 1) * per_level)
            for i in range(count)
        ]

    def _ascend(
        self, level: range, h: jax.Array, entering: list[tuple[Any, ...]]
    ) -> jax.Array:
        """Runs a level's ascending half, rematerialised whole under `full`."""

        def ascend(
            unet: UNet, h: jax.Array, entering: list[tuple[Any, ...]]
        ) -> jax.Array:
            for index, (skip, conditions) in zip(level, entering, strict=True):
                h = unet._run(index, h, skip, conditions)
            return h

        if self._policy(self._blocks()[level[0]].spec) == "full":
            ascend = remat_lib.remat_level(ascend)
        return ascend(self, h, entering)

    def _policy(self, spec: layout.BlockSpec) -> str:
        if len(self.remat) == 1:
            return self.remat[0]
        return self.remat[(self.config.grid_px // spec.px).bit_length() - 1]

    def _embed(self, timesteps: array_types.Timesteps) -> array_types.Embedding:
        sinusoids = layers.timestep_embedding(timesteps, self.config.num_channels)
        return self.time_out(nn.silu(self.time_in(sinusoids)))

    def _embed_guidance(
        self, scale: array_types.PerExample | None
    ) -> array_types.Embedding:
        assert scale is not None, "a model with guidance_range reads the guidance scale"
        sinusoids = layers.timestep_embedding(scale, self.config.num_channels)
        return self.guidance_in(sinusoids)
