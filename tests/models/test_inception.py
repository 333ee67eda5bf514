"""FID's Inception compared with PyTorch's."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from glide_jax.models import inception
from tests.models import golden_inception as golden

CASES = [(resizing, px) for resizing in inception.RESIZING for px in golden.SIDES]


@pytest.fixture(scope="module")
def seen():
    """The two pictures of every case, in one batch."""
    images = [
        np.asarray(inception.RESIZING[resizing](golden.pictures(px)))
        for resizing, px in CASES
    ]
    found = jax.jit(inception.apply)(golden.params(), np.concatenate(images))
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("case", range(len(CASES)), ids=map(str, CASES))
def test_features_equal_pytorchs(seen, case):
    for ours, theirs in zip(seen, golden.answers(*CASES[case]), strict=True):
        assert np.ptp(theirs) > 2, "the comparison must not be one of small numbers"
        # Asked for is 1e-4; 5e-6 was seen. Numbers are of the order of 1.
        np.testing.assert_allclose(
            ours[2 * case : 2 * case + 2], theirs, rtol=0, atol=5e-5
        )


def test_a_picture_of_the_networks_own_size_is_not_resized():
    pixels = golden.pictures(inception.PX)
    scaled = {
        "pytorch_fid": pixels / np.float32(127.5) - 1,
        "tf1": pixels / np.float32(128) - 1,
    }
    for resizing, expected in scaled.items():
        ours = inception.RESIZING[resizing](pixels)
        np.testing.assert_allclose(ours, expected, atol=1e-6)  # rounding of float32


def test_tf1_resizing_aligns_pixel_corners():
    # Of 2 rows, row i of 299 lies at 2 i / 299; past the last row it stays.
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    pixels[:, 1] = 128
    rows = np.asarray(inception.RESIZING["tf1"](pixels))[0, :, 0, 0]
    expected = np.minimum(2 * np.arange(299) / 299, 1) - 1
    np.testing.assert_allclose(rows, expected, atol=1e-6)
