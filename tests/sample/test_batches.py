"""Few program shapes for any number of pictures, on one device or several."""

from __future__ import annotations

import numpy as np
import pytest

from glide_jax.runtime import random_streams
from glide_jax.sample import batches
from tests import fake_devices


@pytest.mark.parametrize(
    ("count", "most", "size"),
    [(1, 16, 1), (3, 16, 4), (5, 16, 8), (16, 16, 16), (9, 12, 12)],
)
def test_a_batch_is_padded_to_a_power_of_two(count, most, size):
    assert batches.padded_size(count, most, None) == size


def test_an_image_has_its_own_key():
    import jax

    keys = random_streams.image_keys(3, np.array([4, 5]), random_streams.BASE_STAGE)
    alone = random_streams.image_keys(3, np.array([5]), random_streams.BASE_STAGE)
    other = random_streams.image_keys(3, np.array([5]), random_streams.UPSAMPLER_STAGE)
    data = [np.asarray(jax.random.key_data(k)) for k in (keys[1:], alone, other)]
    np.testing.assert_array_equal(data[0], data[1])
    assert (data[1] != data[2]).any()


@pytest.mark.slow
def test_eight_devices_draw_what_one_draws(bundles, tmp_path):
    script = f"""
    import jax
    import numpy as np
    import glide_jax

    glide = glide_jax.Glide.load(
        {str(bundles["base"])!r},
        {str(bundles["upsampler"])!r},
        fsdp=2 if jax.device_count() > 1 else 1,
    )
    drawn = glide.sample(["a big r circle"] * 3, seed=7)
    np.save({str(tmp_path)!r} + f"/{{jax.device_count()}}.npy", drawn.images)
    """
    for devices in (1, 8):
        fake_devices.run_with_devices(script, devices)
    one, eight = (np.load(tmp_path / f"{n}.npy").astype(int) for n in (1, 8))
    assert one.shape == (3, 16, 16, 3)
    assert np.abs(one - eight).max() <= 2
