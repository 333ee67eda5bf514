"""GLIDE's text transformer: caption tokens to a pooled vector and a sequence.

The transformer is pre-norm and bidirectional, without an attention mask. A padding
position holds a learned embedding of its own and is attended to like the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from glide_jax import array_types
from glide_jax.config.defaults import Text2ImConfig
from glide_jax.models import attention, initializers, layers, norms, remat

# The initialisation is not published. OpenAI's point-e trains the same blocks from
# N(0, (0.25 / sqrt(width))^2); the embeddings follow CLIP and GPT-2.
LINEAR_INIT_GAIN = 0.25
TOKEN_INIT_STD = 0.02
POSITION_INIT_STD = 0.01
# A hook on activations, batch axis first; it may constrain their sharding.
ConstrainFn = Callable[[jax.Array], jax.Array]
# Stacks up to this depth are unrolled: CPUs and GPUs run them faster without a loop.
MAX_UNROLL = 4
# Tensor parallelism of every stack, here and in noised_clip: patterns of parameter
# paths, and the mesh axis of each dimension (see attention.TENSOR_RULES). The leading
# dimension counts the layers.
TENSOR_RULES = (
    (r"layers/(attn_qkv|query|key|value|mlp_in)/kernel$", (None, None, "tensor")),
    (r"layers/(attn_qkv|query|key|value|mlp_in)/bias$", (None, "tensor")),
    (r"layers/(attn_proj|mlp_out)/kernel$", (None, "tensor", None)),
)


class TextFeatures(NamedTuple):
    """Caption features that the U-Net reads.

    Attributes:
      pooled: (B, 4 * num_channels), added to the time embedding.
      sequence: (B, L, text_width), projected to attention keys and values.
    """

    pooled: array_types.Features
    sequence: array_types.TextSequence


def stack(
    block_class: type[nn.Module], num_layers: int, policy: str
) -> Callable[..., Any]:
    """Returns the block class repeated, parameters stacked on a leading layer axis.

    Args:
      block_class: a module (x, None) -> (x, None).
      num_layers: of the stack.
      policy: rematerialisation policy, see `remat`.
    """
    is_unrolled = num_layers <= MAX_UNROLL
    return nn.scan(
        remat.remat_block(block_class, policy, in_loop=not is_unrolled),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=num_layers,
        unroll=num_layers if is_unrolled else 1,
    )


class TransformerBlock(nn.Module):
    """Attention and a 4x-wide perceptron, each on a residual branch."""

    width: int
    heads: int
    attention_fn: attention.AttentionFn
    constrain: ConstrainFn
    dtype: Any

    @nn.compact
    def __call__(
        self, x: array_types.Sequence, _: None
    ) -> tuple[array_types.Sequence, None]:
        x = remat.name_input(x)
        init = initializers.normal_init(LINEAR_INIT_GAIN * self.width**-0.5)

        def linear(features: int, name: str) -> layers.Linear:
            return layers.Linear(features, layer_init=init, dtype=self.dtype, name=name)

        qkv = linear(3 * self.width, "attn_qkv")(
            norms.LayerNorm(self.dtype, name="ln_1")(x)
        )
        q, k, v = attention.split_heads(qkv, 3, self.width // self.heads)
        attended = self.attention_fn(q, k, v)
        attended = einops.rearrange(attended, "b l h c -> b l (h c)")
        x = x + linear(self.width, "attn_proj")(attended)
        hidden = linear(4 * self.width, "mlp_in")(
            norms.LayerNorm(self.dtype, name="ln_2")(x)
        )
        # The exact error function; Flax's default is the tanh approximation.
        hidden = nn.gelu(hidden, approximate=False)
        return self.constrain(x + linear(self.width, "mlp_out")(hidden)), None


class TextEncoder(nn.Module):
    """Maps tokens and text_mask, (B, L) each, to float32 TextFeatures."""

    config: Text2ImConfig
    attention_fn: attention.AttentionFn
    constrain: ConstrainFn
    remat: str  # policy of the layers
    dtype: Any

    @nn.compact
    def __call__(
        self, tokens: array_types.Tokens, text_mask: array_types.TextMask
    ) -> TextFeatures:
        width, heads = self.config.text_width, self.config.text_heads
        x = self.constrain(self._embed(tokens, text_mask).astype(self.dtype))
        blocks = stack(TransformerBlock, self.config.text_layers, self.remat)(
            width,
            heads,
            self.attention_fn,
            self.constrain,
            self.dtype,
            name="layers",
        )
        x, _ = blocks(x, None)
        x = norms.LayerNorm(name="final_ln")(x)
        # The last position, even when it is padding: its embedding reads the caption.
        pooled = layers.Linear(
            4 * self.config.num_channels, dtype=self.dtype, name="pooled"
        )(x[:, -1])
        return TextFeatures(pooled.astype(jnp.float32), x)

    def _embed(
        self, tokens: array_types.Tokens, text_mask: array_types.TextMask
    ) -> Float[jax.Array, "b l d"]:
        config = self.config
        shape = (config.text_context, config.text_width)
        token_init = initializers.Distribution("normal", TOKEN_INIT_STD)
        position_init = initializers.Distribution("normal", POSITION_INIT_STD)
        table = self.param(
            "token_embedding", token_init, (config.vocab_size, config.text_width)
        )
        positional = self.param("positional_embedding", position_init, shape)
        padding = self.param("padding_embedding", position_init, shape)
        embedded = jnp.take(table, tokens, axis=0) + positional
        # A padding slot carries neither its token nor its positional embedding.
        return jnp.where(text_mask[..., None], embedded, padding)
