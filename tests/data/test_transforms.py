"""Pictures of any kind become the same float32 arrays."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from glide_jax import errors
from glide_jax.data import schema, transforms


def _example(image: Image.Image, format_: str = "PNG", **options) -> schema.Example:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return schema.Example(stream.getvalue(), "a picture", "key")


def _colour(example: schema.Example) -> tuple[int, ...]:
    return transforms.decode(example).getpixel((0, 0))


def test_transparency_is_laid_over_white():
    rgba = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert _colour(_example(rgba)) == pytest.approx((255, 127, 127), abs=1)
    gray = Image.new("LA", (4, 4), (0, 0))
    assert _colour(_example(gray)) == (255, 255, 255)


def test_palettes_with_and_without_a_transparent_entry_become_rgb():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert _colour(_example(palette)) == (10, 20, 30)
    assert _colour(_example(palette, transparency=1)) == (255, 255, 255)


def test_cmyk_and_gray_and_bilevel_become_rgb():
    assert _colour(_example(Image.new("CMYK", (8, 8)), "JPEG")) == (255, 255, 255)
    assert _colour(_example(Image.new("L", (4, 4), 77))) == (77, 77, 77)
    assert _colour(_example(Image.new("1", (4, 4), 1))) == (255, 255, 255)


def test_sixteen_bit_gray_is_scaled_not_clipped():
    half = Image.fromarray(np.full((4, 4), 0x8080, np.uint16))
    assert _colour(_example(half)) == (128, 128, 128)


def test_the_camera_orientation_is_applied():
    image = Image.new("RGB", (8, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    upright = transforms.decode(_example(image, exif=exif))
    assert upright.size == (4, 8)
    assert upright.getpixel((3, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.6])
def test_a_truncated_file_is_a_bad_record(format_, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = _example(Image.fromarray(noise), format_).image
    cut = schema.Example(whole[: int(share * len(whole))], "a picture", "shard:7")
    with pytest.raises(schema.BadRecordError, match=r"shard:7: broken image"):
        transforms.load_image(cut, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_every_camera_orientation_is_applied_as_pillow_does(orientation, format_):
    corners = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 50)
    image = corners.resize((48, 32), Image.Resampling.NEAREST).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    example = _example(image, format_, exif=exif)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(example.image)))
    np.testing.assert_array_equal(transforms.decode(example), want.convert("RGB"))


def test_a_picture_with_damaged_exif_is_read_as_it_is_stored():
    image = Image.new("RGB", (8, 4), "red")
    example = _example(image, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert transforms.decode(example).size == (8, 4)


def test_sixteen_bit_gray_with_a_transparent_level_is_laid_over_white():
    half = Image.fromarray(np.array([[0x8080, 700]], np.uint16))
    decoded = transforms.decode(_example(half, transparency=700))
    assert decoded.getpixel((0, 0)) == (128, 128, 128)
    assert decoded.getpixel((1, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(format_):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    options = {"save_all": True, "append_images": frames[1:]}
    assert _colour(_example(frames[0], format_, **options)) == (255, 255, 255)


def _kind(content: bytes) -> str:
    with pytest.raises(schema.BadRecordError) as caught:
        transforms.load_image(schema.Example(content, "a picture", "key"), 16)
    return caught.value.kind


def _sized_png(width: int, height: int) -> bytes:
    """A small file that claims this size."""
    content = bytearray(_example(Image.new("L", (4, 4))).image)
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch):
    # The second is beyond Pillow's own limit as well.
    bombs = [_sized_png(side, side) for side in (8193, 60_000)]
    gif = bytearray(_example(Image.new("L", (4, 4)), "GIF").image)
    gif[6:10] = b"\xff" * 4
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    for bomb in (*bombs, bytes(gif)):
        assert _kind(bomb) == "decompression bomb"


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}])
def test_a_webp_bomb_is_refused_before_pillow_reserves_its_canvas(options, monkeypatch):
    small = _example(Image.new("RGB", (77, 40)), "WEBP", **options).image
    assert transforms._webp_size(small) == (77, 40)
    large = _example(Image.new("RGB", (16_383, 6000)), "WEBP", **options).image
    monkeypatch.setattr(Image, "open", None)
    assert _kind(large) == "decompression bomb"


def test_a_jpeg_of_endless_scans_is_refused_undecoded(monkeypatch):
    whole = _example(Image.new("RGB", (64, 64)), "JPEG", progressive=True).image
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(Image, "open", None)
    assert _kind(whole[:-2] + scan * 200 + whole[-2:]) == "decompression bomb"


def test_a_line_is_refused_for_enlarged_it_would_fill_the_memory():
    assert _kind(_example(Image.new("L", (4000, 2))).image) == "narrow image"
    panorama = _example(Image.new("L", (320, 10)))
    assert transforms.load_image(panorama, 16).shape == (16, 16, 3)


def test_no_other_program_is_ever_given_a_picture(monkeypatch):
    # Pillow hands EPS to Ghostscript, whatever the file is called.
    monkeypatch.setattr(subprocess, "check_call", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    assert _kind(postscript + b"showpage\n%%EOF\n") == "broken image"
    assert _kind(_example(Image.new("L", (4, 4)), "TIFF").image) == "broken image"


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
