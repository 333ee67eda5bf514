"""Named betas against the released code, float64."""

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.diffusion import schedules


@pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("num_timesteps", [1000, 100, 25])
def test_betas_equal_the_reference(golden_tables, name, num_timesteps):
    betas = schedules.make_betas(name, num_timesteps)
    assert betas.dtype == np.float64
    # Float64 rounding of a few operations.
    expected = golden_tables[f"betas/{name}/{num_timesteps}"]
    np.testing.assert_allclose(betas, expected, rtol=1e-12)


def test_only_the_last_cosine_beta_is_capped():
    betas = schedules.make_betas("squaredcos_cap_v2", 1000)
    assert np.flatnonzero(betas == 0.999).tolist() == [999]


def test_an_unknown_schedule_names_the_known_ones():
    with pytest.raises(errors.UserError, match="linear, squaredcos_cap_v2"):
        schedules.make_betas("cosine", 1000)


def test_a_chain_too_short_for_the_linear_schedule_is_refused():
    with pytest.raises(errors.UserError, match="at least 21"):
        schedules.make_betas("linear", 20)
    assert schedules.make_betas("linear", 21).max() < 1


def test_a_chain_without_timesteps_is_refused():
    with pytest.raises(errors.UserError, match="num_timesteps=0"):
        schedules.make_betas("squaredcos_cap_v2", 0)
