"""How do pixels attend to each other and to the caption?

The order of channels inside a fused projection is the released weights': by head, then
query/key/value, then channel. So converting weights is a plain transpose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float

from glide_jax import array_types
from glide_jax.models import initializers, layers

# queries (B, N, heads, ch), keys and values (B, M, heads, ch) -> (B, N, heads, ch)
AttentionFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def xla_attention(
    queries: Float[array_types.Array, "b n heads ch"],
    keys: Float[array_types.Array, "b m heads ch"],
    values: Float[array_types.Array, "b m heads ch"],
    mask: Bool[array_types.Array, "n m"] | None = None,
) -> Float[array_types.Array, "b n heads ch"]:
    """Scaled dot-product attention, softmax in float32; mask False: not attended.

    The scale 1/sqrt(ch) is split over queries and keys, so that float16 products do
    not overflow before it is applied.
    """
    scale = queries.shape[-1] ** -0.25
    logits = jnp.einsum(
        "bnhc,bmhc->bhnm",
        queries * scale,
        keys * scale,
        preferred_element_type=jnp.float32,
    )
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
    return jnp.einsum("bhnm,bmhc->bnhc", weights, values)


class ImageAttention(nn.Module):
    """Residual self-attention of an image, the caption's keys and values in front."""

    channels: int
    head_channels: int
    norm_groups: int
    dtype: Any = jnp.float32
    attention: AttentionFn = xla_attention

    def setup(self):
        self.norm = layers.GroupNorm(self.norm_groups)
        self.qkv = layers.Linear(3 * self.channels, dtype=self.dtype)
        self.encoder_kv = layers.Linear(2 * self.channels, dtype=self.dtype)
        self.proj_out = layers.Linear(
            self.channels, init=initializers.zero_init, dtype=self.dtype
        )

    def text_keys_values(self, sequence):
        """Caption features (B, L, width) -> this layer's (B, L, 2 * channels)."""
        return self.encoder_kv(sequence)

    def __call__(self, x, text_keys_values):
        batch, height, width, _ = x.shape
        qkv = self.qkv(self.norm(x).reshape(batch, height * width, self.channels))
        q, k, v = self._heads(qkv, 3)
        text_k, text_v = self._heads(text_keys_values.astype(self.dtype), 2)
        # Every caption position is attended to, padding too: its embedding is learned.
        k = jnp.concatenate([text_k, k], axis=1)
        v = jnp.concatenate([text_v, v], axis=1)
        attended = einops.rearrange(self.attention(q, k, v), "b n h c -> b n (h c)")
        return x + self.proj_out(attended).reshape(x.shape)

    def _heads(self, fused, parts):
        """(B, N, heads * parts * ch) -> parts times (B, N, heads, ch)."""
        split = einops.rearrange(
            fused, "b n (h p c) -> p b n h c", p=parts, c=self.head_channels
        )
        return tuple(split)
