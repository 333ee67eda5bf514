"""Attention programs equal XLA's, and are chosen by platform and shape."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.models import attention, attention_kernels, build
from tests.models import golden_models

CPU_TOLERANCE = 1e-5  # sums of 64 and 384 float32 products in another order


def make_heads(queries, keys, *, heads=2, channels=64, dtype=jnp.float32):
    """Queries, keys and values, sharp enough that some weights are near 1."""
    rng = np.random.default_rng(0)
    return tuple(
        jnp.asarray(2 * rng.standard_normal((2, length, heads, channels)), dtype)
        for length in (queries, keys, keys)
    )


def choose(platform, queries, keys, *, channels=64, dtype=jnp.bfloat16):
    return attention_kernels.choose_attention(
        platform, (2, queries, 6, channels), (2, keys, 6, channels), dtype
    )


def test_per_head_attention_equals_xla_attention():
    heads = make_heads(256, 384, heads=3)
    expected = attention.xla_attention(*heads)
    actual = jax.jit(attention_kernels.per_head_attention)(*heads)
    np.testing.assert_allclose(actual, expected, atol=CPU_TOLERANCE)


@pytest.mark.parametrize(
    ("attend", "queries", "keys"),
    [
        (attention_kernels.per_head_attention, 16, 24),
        (
            functools.partial(attention_kernels.splash_attention, interpret=True),
            128,
            256,
        ),
    ],
)
def test_gradients_equal_those_of_xla_attention(attend, queries, keys):
    heads = make_heads(queries, keys)

    def gradients(attend):
        def loss(heads):
            return jnp.sum(jnp.square(attend(*heads)))

        return jax.jit(jax.grad(loss))(heads)

    expected = gradients(attention.xla_attention)
    for mine, reference in zip(gradients(attend), expected, strict=True):
        # Rounding of logits up to 15, in the exponent: 1e-6 a weight, and its sums.
        bound = 1e-5 * np.abs(reference).max()
        np.testing.assert_allclose(mine, reference, atol=bound)


def test_half_precision_stays_half_and_large_logits_do_not_overflow():
    heads = make_heads(8, 16, dtype=jnp.float16)
    # Products of 64 * 40 * 40 = 102400 before scaling: float16 ends at 65504.
    queries, keys = (jnp.full_like(x, 40) for x in heads[:2])
    out = attention_kernels.per_head_attention(queries, keys, heads[2])
    assert out.dtype == jnp.float16
    # All keys are alike: the mean of the values, to float16's three digits.
    expected = np.mean(np.asarray(heads[2], np.float32), axis=1, keepdims=True)
    np.testing.assert_allclose(out, np.broadcast_to(expected, out.shape), atol=4e-3)


# Blocks of 256 and 384: of several sizes, and of more than one.
@pytest.mark.parametrize(("queries", "keys"), [(256, 384), (512, 640)])
def test_splash_attention_equals_xla_attention(queries, keys):
    heads = make_heads(queries, keys)
    expected = attention.xla_attention(*heads)
    actual = attention_kernels.splash_attention(*heads, interpret=True)
    np.testing.assert_allclose(actual, expected, atol=CPU_TOLERANCE)


@pytest.mark.parametrize("px", [16, 32, 64])
def test_splash_attention_lowers_for_tpus_at_every_chosen_size(px):
    queries, keys = px**2, px**2 + 128
    attend = choose("tpu", queries, keys)
    assert attend is attention_kernels.splash_attention
    described = [
        jax.ShapeDtypeStruct((2, length, 6, 64), jnp.bfloat16)
        for length in (queries, keys, keys)
    ]
    exported = jax.export.export(jax.jit(attend), platforms=["tpu"])(*described)
    assert "tpu_custom_call" in exported.mlir_module()


@pytest.mark.parametrize(
    ("platform", "queries", "keys", "settings"),
    [
        ("cpu", 64, 192, {}),
        ("gpu", 1024, 1152, {"dtype": jnp.float32}),
        ("gpu", 64, 192, {"channels": 12}),
        ("gpu", 64, 192, {"channels": 256}),
        ("tpu", 64, 192, {}),
        ("tpu", 256, 276, {}),
        ("tpu", 1024, 1152, {"dtype": jnp.float16}),
        ("rocm", 1024, 1152, {}),
    ],
)
def test_unsupported_shapes_use_xla(platform, queries, keys, settings):
    chosen = choose(platform, queries, keys, **settings)
    assert chosen is attention.xla_attention


def test_each_platform_has_its_own_kernel():
    assert choose("cpu", 1024, 1152) is attention_kernels.per_head_attention
    assert choose("gpu", 1024, 1152) is attention_kernels.cudnn_attention
    assert choose("gpu", 64, 192) is attention_kernels.cudnn_attention
    assert choose("tpu", 1024, 1152) is attention_kernels.splash_attention


def test_attend_uses_the_kernel_of_the_platform():
    heads = make_heads(1024, 1152)
    chosen = attention_kernels.choose_attention(
        jax.default_backend(), heads[0].shape, heads[1].shape, heads[0].dtype
    )
    traced = str(jax.make_jaxpr(attention_kernels.attend)(*heads))
    assert traced == str(jax.make_jaxpr(chosen)(*heads))
    assert traced != str(jax.make_jaxpr(attention.xla_attention)(*heads))


def test_the_unet_with_a_cpus_attention_equals_the_released_one():
    kind, config = "upsample", golden_models.CONFIGS["upsample"]
    per_head = attention_kernels.per_head_attention
    fns = build.make_denoiser(config, attention=per_head)
    params = golden_models.params(kind)
    text = jax.jit(fns.encode)(params, *golden_models.caption())
    out = jax.jit(fns.denoise)(
        params,
        golden_models.inputs(f"x{config.image_px}"),
        golden_models.inputs("timesteps", np.int32),
        text,
        **golden_models.pictures(kind),
    )
    # The golden files' own bound for float32 forward passes on a CPU.
    assert golden_models.error(out, golden_models.arrays()[f"{kind}/out"]) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("queries", [64, 256, 1024])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_cudnn_attention_equals_xla_attention(queries, dtype):
    if jax.default_backend() != "gpu":
        pytest.skip("no GPU here")
    heads = make_heads(queries, queries + 128, heads=6, dtype=dtype)
    attend = jax.jit(attention_kernels.attend)
    expected = attention.xla_attention(*(x.astype(jnp.float32) for x in heads))
    # Values reach 8; bfloat16 keeps 8 bits of them, float16 11.
    tolerance = 0.06 if dtype == jnp.bfloat16 else 0.01
    np.testing.assert_allclose(
        attend(*heads).astype(jnp.float32), expected, atol=tolerance
    )
