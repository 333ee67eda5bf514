"""Attention programs for each platform.

Every function here returns what `attention.xla_attention` does, up to rounding. The
program is chosen by platform and shape while a program is traced. It is not part of a
model's configuration, so a bundle trained on one machine can be sampled on any other.

| platform | program                 | used for                                       |
|----------|-------------------------|------------------------------------------------|
| cpu      | one head after another  | 2^22 logits or more: they exceed the caches    |
| gpu      | cuDNN flash attention   | float16, bfloat16; heads of 8, 16, .. 128      |
| tpu      | splash attention        | multiples of 128 queries and keys              |
| any      | plain XLA               | everything else                                |
"""

from __future__ import annotations

import math
from typing import Any

import einops
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float

from glide_jax.models import attention

Heads = Float[jax.Array, "b n heads ch"]
KeyHeads = Float[jax.Array, "b m heads ch"]

# With fewer logits of all images and heads, the caches of a CPU hold them; a loop over
# heads is slower.
PER_HEAD_MIN_LOGITS = 2**22
CUDNN_DTYPES = (jnp.float16, jnp.bfloat16)
# Limits of jax._src.cudnn.fused_attention_stablehlo; Hopper supports 256 channels.
CUDNN_CHANNELS, CUDNN_MAX_CHANNELS = 8, 128
SPLASH_DTYPES = (jnp.float32, jnp.bfloat16)
SPLASH_LANES = 128  # width of a TPU's vector unit; blocks are multiples of it
# Tried in this order; with the caption's 128 keys, 384 divides most lengths.
SPLASH_BLOCKS = (512, 384, 256, 128)


def attend(
    queries: Heads, keys: KeyHeads, values: KeyHeads
) -> Float[jax.Array, "b n heads ch"]:
    """Computes attention with the program of the default platform."""
    platform = jax.default_backend()
    # The compiler does not partition a Pallas kernel; for a mesh see `attend_on`.
    if platform == "tpu" and jax.device_count() > 1:
        return attention.xla_attention(queries, keys, values)
    chosen = choose_attention(platform, queries.shape, keys.shape, queries.dtype)
    return chosen(queries, keys, values)


def attend_on(
    mesh: Mesh, batch_axes: tuple[str, ...], head_axis: str
) -> attention.AttentionFn:
    """Returns attention for the devices of a mesh, with gradients.

    The devices may be abstract, for compilation ahead of time. The compiler partitions
    XLA's program. A kernel runs on each device's own images and heads: the compiler
    cannot partition Pallas, and cuDNN's partitioner refuses the shardings that it is
    given where parameters are sharded over fsdp.

    Args:
      mesh: of the devices.
      batch_axes: axes of the mesh that shard the batch.
      head_axis: axis of the mesh that shards the heads.
    """
    platform = mesh.devices.flat[0].platform
    num_batch_shards = math.prod(mesh.shape[axis] for axis in batch_axes)
    spec = PartitionSpec(batch_axes, None, head_axis)

    def attend_over_mesh(
        queries: Heads, keys: KeyHeads, values: KeyHeads
    ) -> Float[jax.Array, "b n heads ch"]:
        batch, _, heads, _ = queries.shape
        chosen = choose_attention(platform, queries.shape, keys.shape, queries.dtype)
        if chosen is attention.xla_attention:
            return chosen(queries, keys, values)
        if batch % num_batch_shards or heads % mesh.shape[head_axis]:
            return attention.xla_attention(queries, keys, values)
        on_each_device = jax.shard_map(
            chosen,
            mesh=mesh,
            in_specs=(spec, spec, spec),
            out_specs=spec,
            check_vma=False,
        )
        return on_each_device(queries, keys, values)

    return attend_over_mesh


def choose_attention(
    platform: str,
    queries_shape: tuple[int, ...],
    keys_shape: tuple[int, ...],
    dtype: Any,
) -> attention.AttentionFn:
    """Returns the program for one device.

    Args:
      platform: "cpu", "gpu" or "tpu".
      queries_shape: (B, N, heads, ch); of the global batch where a mesh shards it.
      keys_shape: (B, M, heads, ch).
      dtype: of queries, keys and values.
    """
    batch, num_queries, heads, channels = queries_shape
    num_keys = keys_shape[1]
    num_logits = batch * heads * num_queries * num_keys
    if platform == "cpu" and num_logits >= PER_HEAD_MIN_LOGITS:
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


@jax.custom_vjp
def per_head_attention(
    queries: Heads, keys: KeyHeads, values: KeyHeads
) -> Float[jax.Array, "b n heads ch"]:
    """Loops over heads, so that the logits of one stay in a CPU's cache.

    The softmax is normalised after the second product, whose result is smaller. The
    gradient computes the logits again, as flash attention does (arXiv 2205.14135).
    """
    return _per_head_forward(queries, keys, values)[0]


def _per_head_forward(
    queries: Heads, keys: KeyHeads, values: KeyHeads
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    def attend_head(head: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, v = head
        logits = _logits(q, k)
        maximum = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - maximum)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        summed = _product("bnm,bmc->bnc", weights.astype(v.dtype), v)
        return (summed / total).astype(v.dtype), maximum + jnp.log(total)

    heads = tuple(map(_heads_as_batch, (queries, keys, values)))
    attended, log_totals = jax.lax.map(attend_head, heads)
    residuals = (queries, keys, values, attended, log_totals)
    return _heads_from_batch(attended, queries.shape[2]), residuals


def _per_head_backward(
    residuals: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def backward_head(head: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        q, k, v, attended, log_total, g = head
        scale = q.shape[-1] ** -0.5
        weights = jnp.exp(_logits(q, k) - log_total)
        by_weights = _product("bnc,bmc->bnm", g, v)
        mean = jnp.sum(g.astype(jnp.float32) * attended, axis=-1, keepdims=True)
        by_logits = (weights * (by_weights - mean)).astype(q.dtype)
        weights = weights.astype(q.dtype)
        by_q = scale * _product("bnm,bmc->bnc", by_logits, k)
        by_k = scale * _product("bnm,bnc->bmc", by_logits, q)
        by_v = _product("bnm,bnc->bmc", weights, g)
        return by_q.astype(q.dtype), by_k.astype(k.dtype), by_v.astype(v.dtype)

    queries, keys, values, attended, log_totals = residuals
    q, k, v, g = map(_heads_as_batch, (queries, keys, values, gradient))
    gradients = jax.lax.map(backward_head, (q, k, v, attended, log_totals, g))
    by_q, by_k, by_v = (_heads_from_batch(x, queries.shape[2]) for x in gradients)
    return by_q, by_k, by_v


per_head_attention.defvjp(_per_head_forward, _per_head_backward)


def _logits(q: jax.Array, k: jax.Array) -> jax.Array:
    scale = q.shape[-1] ** -0.25  # split over both, as in xla_attention
    return _product("bnc,bmc->bnm", q * scale, k * scale)


def _product(axes: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)


# A head has a batch axis of length 1, by which the policies of `remat` recognise that
# these products are attention's and not a kernel's.
def _heads_as_batch(x: Heads) -> Float[jax.Array, "bh _ n ch"]:
    return einops.rearrange(x, "b n h c -> (b h) 1 n c")


def _heads_from_batch(x: Float[jax.Array, "bh _ n ch"], heads: int) -> Heads:
    return einops.rearrange(x, "(b h) 1 n c -> b n h c", h=heads)


def cudnn_attention(
    queries: Heads, keys: KeyHeads, values: KeyHeads
) -> Float[jax.Array, "b n heads ch"]:
    """Runs cuDNN's flash attention, on NVIDIA GPUs; logits are not stored."""
    return jax.nn.dot_product_attention(queries, keys, values, implementation="cudnn")


def splash_attention(
    queries: Heads, keys: KeyHeads, values: KeyHeads, *, interpret: bool = False
) -> Float[jax.Array, "b n heads ch"]:
    """Runs JAX's Pallas kernel for TPUs; `interpret` runs it on any platform."""
    # Imported here: the import takes 0.2 s, which only TPUs need.
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
    # The kernel does not scale the logits.
    attended: Any = jax.vmap(kernel)(
        _heads_first(queries * channels**-0.5), _heads_first(keys), _heads_first(values)
    )
    return einops.rearrange(attended, "b h n c -> b n h c").astype(values.dtype)


def _heads_first(x: Heads) -> Float[jax.Array, "b heads n ch"]:
    return einops.rearrange(x, "b n h c -> b h n c")


def _block(length: int) -> int:
    """Returns the largest block that divides a length, a multiple of 128."""
    return next(block for block in SPLASH_BLOCKS if length % block == 0)
