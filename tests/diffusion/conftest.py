"""Golden arrays of the released code, and the error they are compared by."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.diffusion import process, schedules

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden_tables(golden):
    return golden("tables")


@pytest.fixture(scope="session")
def tiny(golden):
    return golden("tiny")


@pytest.fixture(scope="session")
def golden_respacing():
    return json.loads((GOLDEN / "respacing.json").read_text())


@pytest.fixture(scope="session")
def golden_resampler():
    return json.loads((GOLDEN / "resampler.json").read_text())


@pytest.fixture(scope="session")
def assert_within():
    """max|a - b| / max(1, max|b|), the error in which golden tolerances are stated."""

    def check(actual, expected, tolerance):
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.shape == expected.shape
        error = np.max(np.abs(actual - expected)) / max(1, np.max(np.abs(expected)))
        assert error <= tolerance

    return check


@pytest.fixture(scope="session")
def image_keys():
    """count -> typed keys, one per image, the same prefix for every count."""
    fold = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))
    return lambda count: fold(jax.random.key(0), jnp.arange(count))


@pytest.fixture(scope="session")
def mixture_denoiser():
    """(schedule, means, std) -> the denoiser of independent Gaussian mixture pixels.

    q(x_t) of such data is a mixture again, so its eps = -sqrt(1 - A_t) score is known
    in closed form, and a sampler's error is its own.
    """

    def make(schedule, means=(-0.6, 0.5), std=0.15):
        tables = process.make_tables(schedules.make_betas(schedule, 1000))
        centres = jnp.array(means, jnp.float32)

        def denoise(x_t, timesteps):
            scale = process.gather(tables.sqrt_alphas_cumprod, timesteps)
            sigma = process.gather(tables.sqrt_one_minus_alphas_cumprod, timesteps)
            variance = (scale * std) ** 2 + sigma**2
            offset = x_t[..., None] - scale[..., None] * centres
            share = jax.nn.softmax(-(offset**2) / (2 * variance[..., None]), axis=-1)
            eps = sigma / variance * jnp.sum(share * offset, axis=-1)
            return jnp.concatenate([eps, jnp.zeros_like(eps)], axis=-1)

        return denoise

    return make
