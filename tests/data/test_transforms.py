"""Pictures of any kind become the same float32 arrays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from glide_jax import errors
from glide_jax.data import schema, transforms
from tests.data import pictures


def _example(image: Image.Image) -> schema.Example:
    return schema.Example(pictures.encode(image), "a picture", "key")


@pytest.mark.parametrize("content", [b"no picture", b""])
def test_a_record_that_is_no_picture_is_a_bad_record(content):
    with pytest.raises(schema.BadRecordError, match=r"shard:7: broken image"):
        transforms.load_image(schema.Example(content, "a picture", "shard:7"), 16)


def test_a_picture_larger_than_the_target_is_cropped_and_scaled():
    panorama = _example(Image.new("L", (320, 10), 255))
    np.testing.assert_array_equal(
        transforms.load_image(panorama, 16), np.ones((16, 16, 3), np.float32)
    )


def test_a_picture_of_the_target_size_passes_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    example = _example(Image.fromarray(pixels))
    loaded = transforms.load_image(example, 16)
    # [-1, 1] and back is exact to far less than a level.
    np.testing.assert_array_equal(np.round((loaded + 1) * 127.5), pixels)
    drawn = schema.Example(pixels, "a picture", "key")
    np.testing.assert_array_equal(transforms.load_image(drawn, 16), loaded)


def _guided_diffusion_crop(image: Image.Image, px: int) -> np.ndarray:
    """center_crop_arr of openai/guided-diffusion (MIT), image_datasets.py."""
    while min(*image.size) >= 2 * px:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.BOX)
    scale = px / min(*image.size)
    image = image.resize(
        tuple(round(x * scale) for x in image.size), resample=Image.BICUBIC
    )
    array = np.array(image)
    crop_y = (array.shape[0] - px) // 2
    crop_x = (array.shape[1] - px) // 2
    return array[crop_y : crop_y + px, crop_x : crop_x + px]


@pytest.mark.parametrize("size", [(100, 37), (37, 100), (64, 65), (20, 16), (9, 11)])
def test_the_crop_is_guided_diffusions(size):
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    image = Image.fromarray(noise)
    cropped = transforms.centre_crop(image, 16)
    assert cropped.shape == (16, 16, 3)
    np.testing.assert_array_equal(cropped, _guided_diffusion_crop(image, 16))


def test_downsampling_averages_blocks():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    want = np.array([[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(
        transforms.area_downsample(image, 2)[0, :, :, 0], want
    )
    np.testing.assert_array_equal(transforms.area_downsample(image, 4), image)
    with pytest.raises(errors.UserError, match="low_res_px=3"):
        transforms.area_downsample(image, 3)


@pytest.fixture
def low_res() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (8, 8, 3)).astype(np.float32)


def _corrupt(low_res: np.ndarray, kind: str, strength: float) -> np.ndarray:
    rng = np.random.default_rng(5)
    return transforms.corrupt_low_res(low_res, kind, strength, rng)


def test_no_corruption_changes_nothing(low_res):
    np.testing.assert_array_equal(_corrupt(low_res, "none", 0.6), low_res)


def test_blur_is_a_gaussian_of_three_pixels():
    point = np.zeros((5, 5, 1), np.float32)
    point[2, 2] = 1.0
    blurred = _corrupt(point, "blur", 0.6)[..., 0]
    side = np.exp(-0.5 / 0.36)
    kernel = np.array([0, side, 1, side, 0]) / (1 + 2 * side)
    # Float32 rounding of products below one.
    np.testing.assert_allclose(blurred, np.outer(kernel, kernel), atol=1e-6)


def test_blur_keeps_a_flat_picture():
    flat = np.full((6, 6, 3), 0.25, np.float32)
    np.testing.assert_allclose(_corrupt(flat, "blur", 0.6), flat, atol=1e-6)


def test_noise_has_the_asked_deviation_and_stays_in_range(low_res):
    middle = np.zeros((64, 64, 3), np.float32)
    # 12288 draws: the deviation's own relative error is 0.006; five of them.
    assert _corrupt(middle, "noise", 0.1).std() == pytest.approx(0.1, rel=0.03)
    assert np.abs(_corrupt(low_res, "noise", 0.5)).max() <= 1.0


def test_quantised_pictures_have_256_levels(low_res):
    levels = (_corrupt(low_res, "quantise", 0.6) + 1) * 127.5
    # Levels up to 255 in float32: a unit in the last place is 1.5e-5.
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    np.testing.assert_allclose(levels, (low_res + 1) * 127.5, atol=0.5001)
    assert _corrupt(low_res, "quantise", 0.6).dtype == np.float32
