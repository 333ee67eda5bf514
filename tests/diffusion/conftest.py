"""Golden arrays of the released code, and the error they are compared by."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
