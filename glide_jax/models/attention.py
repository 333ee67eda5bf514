"""Attention among the pixels of an image and to its caption.

Fused projections order their channels as the released weights do: by head, then
query/key/value, then channel. Weight conversion is therefore a plain transpose.
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
from glide_jax.models import initializers, layers, norms

# queries (B, N, heads, ch), keys and values (B, M, heads, ch) -> (B, N, heads, ch)
AttentionFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# Tensor parallelism as in Megatron-LM (arXiv 1909.08053): the first layer of a pair is
# sharded by its outputs, so that each device has whole heads, the second by its inputs.
# Patterns of parameter paths, and the mesh axis of each dimension.
TENSOR_RULES = (
    (r"attention/(qkv|encoder_kv)/kernel$", (None, "tensor")),
    (r"attention/(qkv|encoder_kv)/bias$", ("tensor",)),
    (r"attention/proj_out/kernel$", ("tensor", None)),
)


def xla_attention(
    queries: Float[jax.Array, "b n heads ch"],
    keys: Float[jax.Array, "b m heads ch"],
    values: Float[jax.Array, "b m heads ch"],
    mask: Bool[array_types.Array, "n m"] | None = None,
) -> Float[jax.Array, "b n heads ch"]:
    """Returns softmax(Q K^T / sqrt(ch)) V; the softmax is computed in float32.

    The scale is split over queries and keys, so that float16 products do not overflow
    before it is applied.

    Args:
      queries: (B, N, heads, ch).
      keys: (B, M, heads, ch).
      values: (B, M, heads, ch).
      mask: (N, M), False where a query does not attend to a key; None: no mask.
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


def split_heads(
    fused: Float[jax.Array, "b n fused"], parts: int, head_channels: int
) -> tuple[Float[jax.Array, "b n heads ch"], ...]:
    """Splits a fused projection (B, N, heads * parts * ch) into `parts` arrays.

    Each is a slice: a transposition of the whole would be another copy.
    """
    by_head = einops.rearrange(
        fused, "b n (h p c) -> b n h p c", p=parts, c=head_channels
    )
    return tuple(by_head[:, :, :, part] for part in range(parts))


class ImageAttention(nn.Module):
    """Residual self-attention of an image; the caption adds keys and values in front.

    Attributes:
      channels: width of the image.
      head_channels: width of a head.
      norm_groups: groups of the GroupNorm before the projections.
      dtype: of the projections.
      attention: the program that computes attention.
    """

    channels: int
    head_channels: int
    norm_groups: int
    dtype: Any = jnp.float32
    attention: AttentionFn = xla_attention

    def setup(self) -> None:
        self.norm = norms.GroupNorm(self.norm_groups, dtype=self.dtype)
        self.qkv = layers.Linear(3 * self.channels, dtype=self.dtype)
        self.encoder_kv = layers.Linear(2 * self.channels, dtype=self.dtype)
        self.proj_out = layers.Linear(
            self.channels, layer_init=initializers.zero_init, dtype=self.dtype
        )

    def text_keys_values(
        self, sequence: array_types.Sequence
    ) -> Float[jax.Array, "b l kv"]:
        """Projects caption features to keys and values, (B, L, 2 * channels)."""
        return self.encoder_kv(sequence)

    def __call__(
        self, x: array_types.FeatureMap, text_keys_values: Float[jax.Array, "b l kv"]
    ) -> array_types.FeatureMap:
        batch, height, width, _ = x.shape
        qkv = self.qkv(self.norm(x).reshape(batch, height * width, self.channels))
        q, k, v = split_heads(qkv, 3, self.head_channels)
        text_keys_values = text_keys_values.astype(self.dtype)
        text_k, text_v = split_heads(text_keys_values, 2, self.head_channels)
        # Every caption position is attended to, padding too: its embedding is learned.
        k = jnp.concatenate([text_k, k], axis=1)
        v = jnp.concatenate([text_v, v], axis=1)
        attended = einops.rearrange(self.attention(q, k, v), "b n h c -> b n (h c)")
        return x + self.proj_out(attended).reshape(x.shape)
