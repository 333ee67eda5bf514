"""For tests whose programs run for milliseconds: importing the fixture is enough."""

from __future__ import annotations

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Leaves programs unoptimised, which would take most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
