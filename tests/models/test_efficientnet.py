"""EfficientNet-Lite0 compared with PyTorch's, and its resizing with Pillow's."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image

from glide_jax.models import efficientnet
from tests.models import golden_efficientnet as golden
from tests.models import golden_inception


def test_features_equal_pytorchs():
    found = jax.jit(efficientnet.extract)(golden.params(), golden.pictures())
    for ours, theirs in zip(found, golden.answers("drawn"), strict=True):
        assert np.ptp(theirs) > 2, "the comparison must not be one of small numbers"
        # 2.4e-5 was seen; numbers are of the order of 1.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_a_picture_of_the_networks_own_size_is_only_scaled():
    pixels = golden.pictures()
    expected = (pixels.astype(np.float32) - 127) / 128
    np.testing.assert_allclose(efficientnet.resized(pixels), expected, atol=1e-5)


@pytest.mark.parametrize("px", [64, 500], ids=["enlarged", "reduced"])
def test_the_middle_square_is_resized_as_by_pillow(px):
    square = golden_inception.pictures(px)
    wide = np.concatenate([square[:, :, :20] * 0, square, square[:, :, :20] * 0], 2)
    expected = [
        Image.fromarray(picture).resize(
            (efficientnet.PX, efficientnet.PX), Image.Resampling.BICUBIC
        )
        for picture in square
    ]
    for pixels in (wide, wide.transpose(0, 2, 1, 3)):
        found = np.asarray(efficientnet.resized(pixels)) * 128 + 127
        if pixels is not wide:
            found = found.transpose(0, 2, 1, 3)
        # Pillow rounds after each of its two passes.
        np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1.5)
