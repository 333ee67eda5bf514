"""Which program computes attention fastest on this machine?

Every function here answers as `attention.xla_attention` does, up to rounding. The
choice is the machine's, made while a program is traced, and no part of a model's
configuration: a bundle trained on one machine is sampled on any other.

| platform | program                 | where                                          |
|----------|-------------------------|------------------------------------------------|
| cpu      | one head after another  | from 256 queries: logits that fit no cache     |
| gpu      | cuDNN flash attention   | float16, bfloat16; heads of 8, 16, .. 128      |
| tpu      | splash attention        | queries and keys in 128s                       |
| any      | plain XLA               | everywhere else                                |
"""

from __future__ import annotations

import functools
import math
from typing import Any

import einops
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float

from glide_jax import array_types
from glide_jax.models import attention

Heads = Float[array_types.Array, "b n heads ch"]
KeyHeads = Float[array_types.Array, "b m heads ch"]

# Below it, all logits of a picture fit into a core's cache and a loop only costs.
PER_HEAD_MIN_QUERIES = 256
CUDNN_DTYPES = (jnp.float16, jnp.bfloat16)
# jax._src.cudnn.fused_attention_stablehlo.check_is_flash_attention; Hopper takes 256.
CUDNN_CHANNELS, CUDNN_MAX_CHANNELS = 8, 128
SPLASH_DTYPES = (jnp.float32, jnp.bfloat16)
SPLASH_LANES = 128  # of a TPU's vector unit: blocks are multiples of it
# Tried in this order; the caption's 128 keys in front make 384 divide most lengths.
SPLASH_BLOCKS = (512, 384, 256, 128)


def attend(
    queries: Heads, keys: KeyHeads, values: KeyHeads
) -> Float[array_types.Array, "b n heads ch"]:
    """Attention by the program that suits the machine this is traced on."""
    platform = jax.default_backend()
    # A Pallas kernel is not partitioned by the compiler; over a mesh, see attend_on.
    if platform == "tpu" and jax.device_count() > 1:
        return attention.xla_attention(queries, keys, values)
    chosen = choose_attention(platform, queries.shape, keys.shape, queries.dtype)
    return chosen(queries, keys, values)


def attend_on(
    mesh: Mesh, batch_axes: tuple[str, ...], head_axis: str
) -> attention.AttentionFn:
    """Attention over a mesh by the program that suits its devices, with gradients.

    They need not be those of this process: a program may be compiled for a machine
    that is not there. The compiler partitions XLA's and cuDNN's programs by itself;
    each device runs a Pallas kernel on its own pictures and heads.
    """
    platform = mesh.devices.flat[0].platform
    num_batch_shards = math.prod(mesh.shape[axis] for axis in batch_axes)
    spec = PartitionSpec(batch_axes, None, head_axis)
    splash = jax.shard_map(
        splash_attention,
        mesh=mesh,
        in_specs=(spec, spec, spec),
        out_specs=spec,
        check_vma=False,
    )

    def attend_over_mesh(
        queries: Heads, keys: KeyHeads, values: KeyHeads
    ) -> Float[array_types.Array, "b n heads ch"]:
        batch, _, heads, _ = queries.shape
        divides = batch % num_batch_shards == 0 and heads % mesh.shape[head_axis] == 0
        chosen = attention.xla_attention
        if platform != "cpu":
            chosen = choose_attention(
                platform, queries.shape, keys.shape, queries.dtype
            )
        if chosen is splash_attention:
            chosen = splash if divides else attention.xla_attention
        return chosen(queries, keys, values)

    return attend_over_mesh


def choose_attention(
    platform: str,
    queries_shape: tuple[int, ...],
    keys_shape: tuple[int, ...],
    dtype: Any,
) -> attention.AttentionFn:
    """The program for one device of a platform ("cpu", "gpu" or "tpu").

    Args:
      platform: as `jax.default_backend()` names it.
      queries_shape: (B, N, heads, ch).
      keys_shape: (B, M, heads, ch).
      dtype: of queries, keys and values.
    """
    _, num_queries, _, channels = queries_shape
    num_keys = keys_shape[1]
    if platform == "cpu" and num_queries >= PER_HEAD_MIN_QUERIES:
        return per_head_attention
    if (
        platform == "gpu"
        and dtype in CUDNN_DTYPES
        and channels % CUDNN_CHANNELS == 0
        and channels <= CUDNN_MAX_CHANNELS
    ):
        return cudnn_attention
    if (
        platform == "tpu"
        and dtype in SPLASH_DTYPES
        and num_queries % SPLASH_LANES == 0
        and num_keys % SPLASH_LANES == 0
    ):
        return splash_attention
    return attention.xla_attention


def per_head_attention(
    queries: Heads, keys: KeyHeads, values: KeyHeads
) -> Float[array_types.Array, "b n heads ch"]:
    """Heads in a loop, so that the logits of one stay in a CPU's cache.

    Weights are divided by their sum after the second product, which is smaller.
    """
    scale = queries.shape[-1] ** -0.25  # split over both, as in xla_attention

    def attend_head(head):
        q, k, v = head
        logits = jnp.dot(q * scale, (k * scale).T, preferred_element_type=jnp.float32)
        weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
        summed = jnp.dot(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (summed / jnp.sum(weights, axis=-1, keepdims=True)).astype(v.dtype)

    heads_first = tuple(
        einops.rearrange(x, "b n h c -> (b h) n c") for x in (queries, keys, values)
    )
    attended = jax.lax.map(attend_head, heads_first)
    return einops.rearrange(attended, "(b h) n c -> b n h c", h=queries.shape[2])


def cudnn_attention(
    queries: Heads, keys: KeyHeads, values: KeyHeads
) -> Float[array_types.Array, "b n heads ch"]:
    """cuDNN's flash attention: logits never reach memory. NVIDIA GPUs only."""
    return jax.nn.dot_product_attention(queries, keys, values, implementation="cudnn")


def splash_attention(
    queries: Heads, keys: KeyHeads, values: KeyHeads, *, interpret: bool = False
) -> Float[array_types.Array, "b n heads ch"]:
    """JAX's Pallas kernel for TPUs; interpret: run it on any platform."""
    # A fifth of a second that only a TPU has to pay.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    (_, num_queries, num_heads, channels), num_keys = queries.shape, keys.shape[1]
    whole = splash.FullMask((num_queries, num_keys))
    block_q, block_kv = _block(num_queries), _block(num_keys)
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([whole] * num_heads),
        block_sizes=splash.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        interpret=interpret,
    )
    # The kernel leaves scaling to its caller.
    attended = jax.vmap(kernel)(
        _heads_first(queries * channels**-0.5), _heads_first(keys), _heads_first(values)
    )
    return einops.rearrange(attended, "b h n c -> b n h c").astype(values.dtype)


_heads_first = functools.partial(einops.rearrange, pattern="b n h c -> b h n c")


def _block(length: int) -> int:
    """The largest block that divides a length; both are multiples of 128."""
    return next(block for block in SPLASH_BLOCKS if length % block == 0)
