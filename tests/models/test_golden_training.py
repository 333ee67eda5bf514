"""One training example of the released code: losses, gradients and three Adam steps."""

import functools

import jax
import numpy as np
import optax
import pytest

from glide_jax.convert import torch_glide
from glide_jax.diffusion import losses, process, schedules
from glide_jax.models import build
from tests.models import golden_models

# The golden files' own bound for gradients and for the losses of three steps.
TOLERANCE = 1e-4


@functools.cache
def _loss_and_gradient():
    """Jitted params -> ((loss, per-example terms), gradient)."""
    fns = build.make_denoiser(golden_models.BASE)
    tables = process.make_tables(schedules.make_betas("squaredcos_cap_v2", 1000))
    stored = golden_models.arrays()
    x_start, noise = stored["train/x_start"], stored["train/noise"]
    t = stored["train/t"].astype(np.int32)

    def loss(params):
        text = fns.encode(params, *golden_models.caption())
        x_t = process.q_sample(tables, x_start, t, noise)
        model_output = fns.denoise(params, x_t, t, text)
        terms = losses.training_losses(tables, model_output, x_start, x_t, noise, t)
        return terms["loss"].mean(), terms

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module")
def first_step():
    return _loss_and_gradient()(golden_models.params("base"))


@pytest.fixture(scope="module")
def torch_gradient(first_step):
    return torch_glide.to_torch("base", golden_models.BASE, first_step[1])


def test_losses_are_the_released_ones(first_step):
    terms = first_step[0][1]
    for name in ("mse", "vb"):
        expected = golden_models.arrays()[f"train/{name}"]
        assert golden_models.error(terms[name], expected) < TOLERANCE


def test_gradients_are_the_released_ones(torch_gradient):
    prefix = "train/grad/"
    stored = golden_models.arrays()
    names = [name for name in stored if name.startswith(prefix)]
    assert len(names) == 13
    for name in names:
        actual = torch_gradient[name.removeprefix(prefix)]
        assert golden_models.error(actual, stored[name]) < TOLERANCE, name


def test_every_gradient_norm_equals_the_released_one(torch_gradient):
    norms = golden_models.keys()["train_grad_norms"]
    # Below 1e-6 they are zero but for rounding: biases in front of a norm.
    checked = {name: norm for name, norm in norms.items() if norm > 1e-6}
    assert len(checked) > 180
    for name, expected in checked.items():
        actual = np.linalg.norm(torch_gradient[name])
        assert actual == pytest.approx(expected, rel=TOLERANCE, abs=1e-7), name


def test_three_adam_steps_lower_the_loss_as_released():
    # AdamW acts on every number alone, so one long vector spares compiling 207 updates.
    leaves, tree = jax.tree.flatten(golden_models.params("base"))
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    optimizer = optax.adamw(1e-4, weight_decay=0.0)
    params = _ravel(leaves)
    state = optimizer.init(params)
    actual = []
    for _ in range(3):
        parts = np.split(np.asarray(params), ends)
        parts = [
            part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)
        ]
        (loss, _), gradient = _loss_and_gradient()(jax.tree.unflatten(tree, parts))
        actual.append(float(loss))
        gradient = _ravel(jax.tree.leaves(gradient))
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    expected = golden_models.arrays()["train/losses_3_adam_steps_lr1e-4"]
    assert golden_models.error(actual, expected) < TOLERANCE


def _ravel(leaves):
    return np.concatenate([np.ravel(leaf) for leaf in leaves])
