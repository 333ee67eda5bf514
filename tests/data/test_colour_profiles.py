"""Pictures with a colour profile become sRGB by the standards' own matrices."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from PIL import Image, ImageCms

from glide_jax.data import colour_profiles, picture_files
from tests.data import pictures

SPACES = [("Display P3", None), ("Adobe RGB", 563 / 256), ("sRGB", 1.8)]


@pytest.mark.parametrize(("primaries", "gamma"), SPACES)
@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_a_profile_is_converted_to_srgb(primaries, gamma, format_, tmp_path):
    profile = pictures.rgb_profile(primaries, gamma)
    options = {"lossless": True} if format_ == "WEBP" else {}
    content = pictures.encode(pictures.RGB, format_, icc_profile=profile, **options)
    want = pictures.as_srgb(np.asarray(pictures.RGB), primaries, gamma)
    assert np.abs(want - np.asarray(pictures.RGB)).max() > 10
    np.testing.assert_allclose(pictures.read(content, tmp_path), want, atol=1)


def test_a_profile_of_a_jpeg_is_put_together_and_converted(tmp_path):
    # Over 64 KB: a segment cannot hold it.
    profile = pictures.rgb_profile("Adobe RGB", 2.2) + bytes(150_000)
    flat = Image.new("RGB", (16, 16), (60, 200, 90))
    content = pictures.encode(flat, "JPEG", quality=100, icc_profile=profile)
    plain = pictures.decode(pictures.encode(flat, "JPEG", quality=100))
    want = pictures.as_srgb(plain, "Adobe RGB", 2.2)
    np.testing.assert_allclose(pictures.read(content, tmp_path), want, atol=1)


@pytest.mark.parametrize("profile", ["Pillow's", "of a table", "sRGB in a gray file"])
def test_the_profile_of_srgb_keeps_every_bit(profile, tmp_path):
    made = pictures.rgb_profile("sRGB", None)
    if profile == "Pillow's":
        made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = pictures.GRAY if "gray" in profile else pictures.RGB
    content = pictures.encode(image, icc_profile=made)
    want = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(pictures.read(content, tmp_path), want)


def test_transparent_and_palette_and_gray_pictures_are_converted_too(tmp_path):
    profile = pictures.rgb_profile("Adobe RGB", 2.2)
    content = pictures.encode(pictures.RGBA, icc_profile=profile)
    decoded = picture_files.decode(content, "key")
    np.testing.assert_array_equal(
        decoded.getchannel("A"), pictures.RGBA.getchannel("A")
    )
    want = pictures.as_srgb(pictures.NOISE[..., :3], "Adobe RGB", 2.2)
    np.testing.assert_allclose(decoded.convert("RGB"), want, atol=1)
    palette = pictures.RGB.convert("P", palette=Image.Palette.ADAPTIVE)
    want = pictures.as_srgb(np.asarray(palette.convert("RGB")), "Adobe RGB", 2.2)
    content = pictures.encode(palette, icc_profile=profile)
    np.testing.assert_allclose(pictures.read(content, tmp_path), want, atol=1)
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    content = pictures.encode(ramp, icc_profile=pictures.gray_profile(1.8))
    levels = np.repeat(np.asarray(ramp)[..., None], 3, axis=2)
    want = pictures.as_srgb(levels, "sRGB", 1.8)
    np.testing.assert_allclose(pictures.read(content, tmp_path), want, atol=1)


@pytest.fixture
def log(caplog, monkeypatch):
    """The log, of which nothing is counted yet."""
    monkeypatch.setattr(colour_profiles, "_counts", collections.Counter())
    return caplog


def test_cmyk_is_converted_by_its_profile_and_without_one_by_a_guess_that_is_logged(
    tmp_path, log
):
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    profile = pictures.cmyk_profile()
    content = pictures.encode(cyan, "JPEG", quality=100, icc_profile=profile)
    # L* = 50 is level 119 of sRGB.
    assert pictures.colour(content, tmp_path) == pytest.approx((119, 119, 119), abs=1)
    assert not log.records
    assert pictures.decode(pictures.encode(cyan, "JPEG", quality=100))[0, 0, 0] == 0
    assert "CMYK without a colour profile" in log.text


BROKEN_PROFILES = {
    "garbage": b"profile" * 20,
    "cut off": pictures.rgb_profile("Display P3", None)[:500],
    "of another space": pictures.cmyk_profile(),
    "of gray": pictures.gray_profile(2.2),
    "too large": bytes(6 << 20),
}


@pytest.mark.parametrize("name", BROKEN_PROFILES)
def test_a_profile_that_cannot_be_used_is_ignored_and_logged_by_count(name, log):
    content = pictures.encode(pictures.RGB, icc_profile=BROKEN_PROFILES[name])
    for _ in range(12):
        np.testing.assert_array_equal(pictures.decode(content), pictures.RGB)
    assert len(log.records) == 2  # the first and the tenth
    assert "10 such pictures" in log.text
