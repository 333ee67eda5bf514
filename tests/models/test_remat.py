"""Rematerialisation changes memory, not results."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.config import choices, defaults
from glide_jax.models import build, remat
from tests.models import golden_models

# Two runs of one network that XLA may fuse differently.
ROUNDING = 1e-5
MODEL = dataclasses.replace(
    golden_models.BASE,
    image_px=8,
    channel_mult=(1, 2),
    attention_px=(8,),
    text_layers=1,
)
CLIP = golden_models.CLIP
LEVELS = [(policy,) for policy in remat.POLICIES] + [("full", "dots")]


@functools.cache
def params_of(config):
    draws = np.random.RandomState(0)
    return jax.tree.map(
        lambda leaf: 0.1 * draws.standard_normal(leaf.shape).astype(np.float32),
        build.abstract_params(config),
    )


@functools.cache
def plain_gradient():
    """Loss and gradient of the denoiser without rematerialisation."""
    loss = denoising_loss(("none",), "none")
    return jax.jit(jax.value_and_grad(loss))(params_of(MODEL))


def denoising_loss(policies, text_policy):
    """params -> a number that every parameter has a part in, dropout included."""
    config = dataclasses.replace(MODEL, dropout_prob=0.3)
    fns = build.make_denoiser(config, remat=policies, remat_text=text_policy)
    x_t = golden_models.inputs("x16")[:, :8, :8]
    timesteps = golden_models.inputs("timesteps", np.int32)
    keys = jax.random.split(jax.random.key(1), 2)

    def loss(params):
        text = fns.encode(params, *golden_models.caption())
        out = fns.denoise(params, x_t, timesteps, text, dropout_keys=keys)
        return jnp.mean(jnp.square(out))

    return loss


def kept_bytes(loss, params):
    """Of all that the forward pass hands to the backward pass."""
    back = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(back))


def test_the_settings_accept_exactly_the_policies():
    assert choices.REMAT_POLICIES == remat.POLICIES
    assert defaults.TrainConfig().remat[0] in remat.POLICIES


# Each compiles for many seconds; the default suite has the gradient of CLIP's towers.
@pytest.mark.slow
@pytest.mark.parametrize("policies", LEVELS[1:], ids="-".join)
def test_every_policy_has_the_gradient_of_none(policies):
    params = params_of(MODEL)
    value, expected = plain_gradient()
    found, gradient = jax.jit(
        jax.value_and_grad(denoising_loss(policies, policies[0]))
    )(params)
    assert golden_models.error(found, value) < ROUNDING
    for ours, theirs in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True
    ):
        assert golden_models.error(ours, theirs) < ROUNDING


def test_each_policy_stores_less_than_the_previous_one():
    params = params_of(MODEL)
    kept = [
        kept_bytes(denoising_loss((policy,), "none"), params)
        for policy in ("none", "dots", "blocks", "full")
    ]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == len(kept)


def test_levels_may_have_different_policies():
    params = params_of(MODEL)
    kept = {
        policies: kept_bytes(denoising_loss(policies, "none"), params)
        for policies in [("none",), ("blocks", "none"), ("none", "blocks"), ("blocks",)]
    }
    finest, coarsest = kept["blocks", "none"], kept["none", "blocks"]
    assert kept["blocks",] < finest < coarsest < kept["none",]


def test_the_text_transformer_has_a_separate_policy():
    params = params_of(MODEL)
    plain = kept_bytes(denoising_loss(("none",), "none"), params)
    assert kept_bytes(denoising_loss(("none",), "blocks"), params) < plain


def test_clips_towers_have_the_gradient_of_none():
    x_t = golden_models.inputs("x16")
    tokens, text_mask = golden_models.caption()
    tokens = tokens[:, : CLIP.text_context]

    def loss_of(fns):
        def loss(params):
            timesteps = golden_models.inputs("timesteps", np.int32)
            images = fns.encode_image(params, x_t, timesteps)
            texts = fns.encode_text(params, tokens, text_mask)
            return jnp.mean(images * texts)

        return loss

    params = params_of(CLIP)
    plain = loss_of(build.make_clip(CLIP))
    other = loss_of(build.make_clip(CLIP, remat="blocks", remat_text="blocks"))
    expected, found = jax.jit(jax.grad(plain))(params), jax.jit(jax.grad(other))(params)
    for ours, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert golden_models.error(ours, theirs) < ROUNDING
    assert kept_bytes(other, params) < kept_bytes(plain, params)
