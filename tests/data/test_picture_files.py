"""Every door reads a picture file the same way: upright, 8-bit sRGB, or one line."""

from __future__ import annotations

import collections
import io
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from glide_jax import errors
from glide_jax.data import colour_profiles, picture_files, schema, transforms
from glide_jax.sample import images
from tests.data import pictures

NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 4), np.uint8)
RGBA = Image.fromarray(NOISE)
RGB = RGBA.convert("RGB")
GRAY = RGBA.convert("L")


def doors(content: bytes, folder) -> dict[str, np.ndarray]:
    """The pixels that training, a flag's file, and a Pillow picture come to."""
    path = folder / "picture"
    path.write_bytes(content)
    example = schema.Example(content, "a picture", "key")
    with Image.open(path) as opened:
        return {
            "training": np.asarray(transforms.decode(example)),
            "file": images.read_image(path),
            "Pillow": images.as_pixels(opened)[0],
        }


def read(content: bytes, folder) -> np.ndarray:
    """The pixels of every door, found the same."""
    found = doors(content, folder)
    for pixels in found.values():
        np.testing.assert_array_equal(pixels, found["training"])
    return found["training"]


def colour(content: bytes, folder) -> tuple[int, ...]:
    return tuple(read(content, folder)[0, 0].tolist())


def decode(content: bytes) -> np.ndarray:
    return np.asarray(picture_files.on_white(picture_files.decode(content, "key")))


def kind(content: bytes) -> str:
    with pytest.raises(schema.BadRecordError) as caught:
        picture_files.decode(content, "key")
    return caught.value.kind


# ------------------------------------------------------------------- kinds of pixels


def test_transparency_is_laid_over_white(tmp_path):
    half = pictures.encode(Image.new("RGBA", (4, 4), (255, 0, 0, 128)))
    assert colour(half, tmp_path) == pytest.approx((255, 127, 127), abs=1)
    gray = pictures.encode(Image.new("LA", (4, 4), (0, 0)))
    assert colour(gray, tmp_path) == (255, 255, 255)


def test_palettes_with_and_without_a_transparent_entry_become_rgb(tmp_path):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert colour(pictures.encode(palette), tmp_path) == (10, 20, 30)
    clear = pictures.encode(palette, transparency=1)
    assert colour(clear, tmp_path) == (255, 255, 255)


@pytest.mark.parametrize("format_", ["PNG", "BMP", "GIF", "PPM"])
def test_gray_and_bilevel_become_rgb(format_, tmp_path):
    gray = pictures.encode(Image.new("L", (4, 4), 77), format_)
    assert colour(gray, tmp_path) == (77, 77, 77)
    white = pictures.encode(Image.new("1", (4, 4), 1), format_)
    assert colour(white, tmp_path) == (255, 255, 255)


LEVELS = np.array([[0, 255, 256, 0x7FFF], [0x8080, 0xFEFF, 0xFF00, 0xFFFF]], np.uint16)


def deep_files() -> dict[str, bytes]:
    """The 16-bit levels as gray, as gray of a PGM, and as colours."""
    deep = Image.fromarray(LEVELS)
    colours = np.repeat(LEVELS.astype(">u2")[..., None], 3, axis=2)
    rows = b"".join(b"\0" + row.tobytes() for row in colours)
    header = struct.pack(">2I5B", 4, 2, 16, 2, 0, 0, 0)
    return {
        "gray PNG": pictures.encode(deep),
        "PGM": pictures.encode(deep, "PPM"),
        "RGB PNG": pictures.png(header, rows),
        "PGM of text": b"P2 4 2 65535 " + " ".join(map(str, LEVELS.flat)).encode(),
    }


@pytest.mark.parametrize("name", deep_files())
def test_sixteen_bits_are_scaled_not_clipped_alike_in_every_format(name, tmp_path):
    pixels = read(deep_files()[name], tmp_path)
    np.testing.assert_array_equal(pixels, np.repeat(LEVELS[..., None] >> 8, 3, axis=2))


def test_the_transparent_colour_of_a_png_has_the_depth_of_the_file(tmp_path):
    deep = np.array([[0x8080, 700]], np.uint16)
    gray = pictures.encode(Image.fromarray(deep), transparency=700)
    np.testing.assert_array_equal(read(gray, tmp_path)[0, :, 0], [128, 255])
    # Two pixels of 16-bit colours, and two of 4-bit gray: the second is transparent.
    colours = struct.pack(">3H3H", 0x8080, 0x8080, 0x8080, 0x1234, 0x5678, 0x9ABC)
    clear = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)
    header = struct.pack(">2I5B", 2, 1, 16, 2, 0, 0, 0)
    content = pictures.png(header, b"\0" + colours, (b"tRNS", clear))
    assert decode(content)[0].tolist() == [[128] * 3, [255] * 3]
    header = struct.pack(">2I5B", 2, 1, 4, 0, 0, 0, 0)
    content = pictures.png(header, b"\0\x35", (b"tRNS", struct.pack(">H", 5)))
    assert decode(content)[0].tolist() == [[3 * 17] * 3, [255] * 3]


def test_floating_point_pixels_are_refused():
    floats = Image.fromarray(np.full((4, 4), 0.5, np.float32))
    assert kind(pictures.encode(floats, "PPM")) == "broken image"
    with pytest.raises(errors.UserError, match="mode 'F'"):
        images.as_pixels(floats)
    # 0 to 255, or 0 to 65535?
    with pytest.raises(errors.UserError, match="mode 'I'"):
        images.as_pixels(Image.fromarray(np.full((4, 4), 200, np.int32)))


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(format_, tmp_path):
    frames = [Image.new("RGB", (8, 8), name) for name in ("white", "black", "red")]
    options = {"save_all": True, "append_images": frames[1:]}
    content = pictures.encode(frames[0], format_, **options)
    assert colour(content, tmp_path) == (255, 255, 255)


# ----------------------------------------------------------------------- orientation

# Where the corners of the stored picture (top left, top right, bottom left, bottom
# right: 0 to 3) come to be seen, in the same order; EXIF 2.32, section 4.6.4.
SEEN = {
    1: (0, 1, 2, 3),
    2: (1, 0, 3, 2),
    3: (3, 2, 1, 0),
    4: (2, 3, 0, 1),
    5: (0, 2, 1, 3),
    6: (2, 0, 3, 1),
    7: (3, 1, 2, 0),
    8: (1, 3, 0, 2),
}
CORNERS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def turned(orientation: int, format_: str) -> bytes:
    """Four colours in the corners of 48 x 32 pixels."""
    pixels = np.array(CORNERS, np.uint8).reshape(2, 2, 3)
    image = Image.fromarray(pixels).resize((48, 32), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if format_ == "ImageMagick":
        packed = exif.tobytes()
        text = f"\nexif\n{len(packed):8}\n{packed.hex()}\n".encode()
        data = b"Raw profile type exif\0\0" + zlib.compress(text)
        return pictures.insert_chunks(pictures.encode(image), (b"zTXt", data))
    options = {"lossless": True} if format_ == "WEBP" else {}
    return pictures.encode(image, format_, exif=exif, **options)


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "ImageMagick"])
def test_each_camera_orientation_turns_the_corners_to_their_places(
    orientation, format_, tmp_path
):
    content = turned(orientation, format_)
    pixels = decode(content) if format_ == "ImageMagick" else read(content, tmp_path)
    assert pixels.shape[:2] == ((32, 48) if orientation < 5 else (48, 32))
    seen = [pixels[y, x] for y in (4, -4) for x in (4, -4)]
    want = [CORNERS[corner] for corner in SEEN[orientation]]
    np.testing.assert_allclose(seen, want, atol=3)  # JPEG is not exact


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_picture_with_damaged_exif_is_read_as_it_is_stored():
    broken = b"Exif\0\0MM\0*\xff\xff\xff\xff"
    content = pictures.encode(Image.new("RGB", (8, 4), "red"), exif=broken)
    assert decode(content).shape == (4, 8, 3)


# -------------------------------------------------------------------------- metadata

LONG = b"a" * (3 << 20)  # Pillow takes 1 MB


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    return pictures.insert_chunks(pictures.encode(RGB), *chunks)


def with_damaged_text() -> bytes:
    whole = with_chunks((b"tEXt", b"title\0some text"))
    return whole.replace(b"some text", b"same text")


def with_segments(*segments: tuple[int, bytes]) -> bytes:
    content = pictures.encode(RGB, "JPEG", quality=95)
    parts = [
        struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
        for marker, data in segments
    ]
    return content[:2] + b"".join(parts) + content[2:]


def with_comments() -> bytes:
    content = pictures.encode(GRAY, "GIF")
    at = content.index(b",", 13 + 768)
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * 8000 + b"\0"
    return content[:at] + comment + content[at:]


INFLATED = b"\0\0" + zlib.compress(LONG)
PADDED = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + LONG
BURDENED = {
    "PNG, text": lambda: with_chunks((b"tEXt", b"title\0" + LONG)),
    "PNG, packed text": lambda: with_chunks((b"zTXt", b"title" + INFLATED)),
    "PNG, packed UTF-8": lambda: with_chunks(
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG))
    ),
    "PNG, 30 MB in many texts": lambda: with_chunks(
        *[(b"zTXt", b"title" + INFLATED)] * 30
    ),
    "PNG, unknown packing": lambda: with_chunks((b"zTXt", b"title\0\7text")),
    "PNG, profile of 3 MB": lambda: with_chunks(
        (b"iCCP", b"p\0\0" + zlib.compress(PADDED))
    ),
    "PNG, profile of 12 MB": lambda: with_chunks(
        (b"iCCP", b"p\0\0" + zlib.compress(LONG * 4))
    ),
    "PNG, damaged text": with_damaged_text,
    "PNG, without its end": lambda: pictures.encode(RGB)[:-6],
    "PNG, animation out of order": lambda: with_chunks(
        (b"acTL", struct.pack(">2I", 2, 0)), (b"fcTL", bytes([0, 0, 0, 7] * 7))
    ),
    "JPEG, many segments": lambda: with_segments(
        *[(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"x" * 65000)] * 200
    ),
    "JPEG, marks of scans in a comment": lambda: with_segments(
        (0xFE, b"\xff\xda" * 500)
    ),
    "JPEG, short and strange segments": lambda: with_segments(
        (0xE0, b"JFIF\0"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"MPF\0MM\0*\0\0\0\x08\0\1\xb0\0\0\7\0\0"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM" * 20),
        (0xEE, b"Adobe"),
    ),
    "WebP, texts and a profile": lambda: pictures.encode(
        RGB, "WEBP", lossless=True, xmp=LONG, icc_profile=LONG
    ),
    "GIF, comments": with_comments,
}


@pytest.mark.parametrize("name", BURDENED)
def test_metadata_does_not_keep_good_pixels_from_being_read(name, tmp_path):
    content = BURDENED[name]()
    if name.startswith("JPEG"):
        want = decode(pictures.encode(RGB, "JPEG", quality=95))
    else:
        want = np.asarray(GRAY.convert("RGB") if name.startswith("GIF") else RGB)
    np.testing.assert_array_equal(decode(content), want)
    (tmp_path / "picture").write_bytes(content)
    np.testing.assert_array_equal(images.read_image(tmp_path / "picture"), want)


def damaged_png(change) -> bytes:
    """A PNG whose pixels' chunk is changed, with its old or its right checksum."""
    content = pictures.encode(RGB)
    at = content.index(b"IDAT")
    size = int.from_bytes(content[at - 4 : at], "big")
    data = change(content[at + 4 : at + 4 + size])
    return content[: at - 4] + data + pictures.chunk((b"IEND", b""))


def raw_idat(data: bytes, checksum: int | None = None) -> bytes:
    whole = pictures.chunk((b"IDAT", data))
    return whole if checksum is None else whole[:-4] + struct.pack(">I", checksum)


DAMAGED = {
    "checksum": damaged_png(lambda data: raw_idat(data, checksum=1)),
    "half of the pixels": damaged_png(lambda data: raw_idat(data[: len(data) // 2])),
    "not packed": damaged_png(lambda data: raw_idat(b"\xff" * len(data))),
    "no pixels": damaged_png(lambda data: b""),
    "cut off": pictures.encode(RGB)[:300],
    "JPEG": pictures.encode(RGB, "JPEG")[:-300],
    "WebP": pictures.encode(RGB, "WEBP")[:100],
    "GIF": pictures.encode(GRAY, "GIF")[:900],
    "BMP": pictures.encode(RGB, "BMP")[:600],
    "PPM": pictures.encode(RGB, "PPM")[:600],
    "empty": b"",
    "text": b"no picture",
    "TIFF": pictures.encode(RGB, "TIFF"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_a_bad_record_and_one_line_for_a_flag(name, tmp_path):
    assert kind(DAMAGED[name]) == "broken image"
    path = tmp_path / "picture.png"
    path.write_bytes(DAMAGED[name])
    with pytest.raises(errors.UserError, match=f"--image={path} ") as caught:
        images.read_image(path, "--image")
    assert not isinstance(caught.value, schema.BadRecordError)
    assert "\n" not in str(caught.value)
    assert " at 0x" not in str(caught.value)


def test_a_file_that_is_absent_or_a_folder_or_a_url_is_one_line(tmp_path, monkeypatch):
    for given in (tmp_path / "absent.png", tmp_path, "gs://bucket/a.png", "/dev/zero"):
        with pytest.raises(errors.UserError, match="--mask="):
            picture_files.read(given, "--mask")
    monkeypatch.setenv("HOME", str(tmp_path))
    RGB.save(tmp_path / "home.png")
    np.testing.assert_array_equal(picture_files.read("~/home.png"), RGB)


def test_a_broken_pillow_picture_is_refused(tmp_path):
    (tmp_path / "cut.png").write_bytes(pictures.encode(RGB)[:300])
    opened = Image.open(tmp_path / "cut.png")
    with pytest.raises(errors.UserError, match="images: a picture cannot be read"):
        images.as_pixels(opened)


@pytest.mark.parametrize("suffix", sorted(picture_files.SUFFIXES))
def test_every_suffix_is_of_a_format_that_is_read(suffix, tmp_path):
    path = tmp_path / f"picture{suffix.upper()}"
    RGB.save(path)
    content = path.read_bytes()
    assert decode(content).shape == (24, 20, 3)
    assert Image.open(io.BytesIO(content)).format in picture_files.FORMATS


def test_no_other_program_is_ever_given_a_picture(monkeypatch):
    # Pillow hands EPS to Ghostscript, whatever the file is called.
    monkeypatch.setattr(subprocess, "check_call", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    assert kind(postscript + b"showpage\n%%EOF\n") == "broken image"


# ------------------------------------------------------------------- colour profiles

SPACES = [("Display P3", None), ("Adobe RGB", 563 / 256), ("sRGB", 1.8)]


@pytest.mark.parametrize(("primaries", "gamma"), SPACES)
@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_a_profile_is_converted_to_srgb(primaries, gamma, format_, tmp_path):
    profile = pictures.rgb_profile(primaries, gamma)
    options = {"lossless": True} if format_ == "WEBP" else {}
    content = pictures.encode(RGB, format_, icc_profile=profile, **options)
    want = pictures.as_srgb(np.asarray(RGB), primaries, gamma)
    assert np.abs(want - np.asarray(RGB)).max() > 10
    np.testing.assert_allclose(read(content, tmp_path), want, atol=1)


def test_a_profile_of_a_jpeg_is_put_together_and_converted(tmp_path):
    # Over 64 KB: a segment cannot hold it.
    profile = pictures.rgb_profile("Adobe RGB", 2.2) + bytes(150_000)
    flat = Image.new("RGB", (16, 16), (60, 200, 90))
    content = pictures.encode(flat, "JPEG", quality=100, icc_profile=profile)
    plain = decode(pictures.encode(flat, "JPEG", quality=100))
    want = pictures.as_srgb(plain, "Adobe RGB", 2.2)
    np.testing.assert_allclose(read(content, tmp_path), want, atol=1)


@pytest.mark.parametrize("profile", ["Pillow's", "of a table", "sRGB in a gray file"])
def test_the_profile_of_srgb_keeps_every_bit(profile, tmp_path):
    made = pictures.rgb_profile("sRGB", None)
    if profile == "Pillow's":
        made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = GRAY if "gray" in profile else RGB
    content = pictures.encode(image, icc_profile=made)
    want = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read(content, tmp_path), want)


def test_transparent_and_palette_and_gray_pictures_are_converted_too(tmp_path):
    profile = pictures.rgb_profile("Adobe RGB", 2.2)
    content = pictures.encode(RGBA, icc_profile=profile)
    decoded = picture_files.decode(content, "key")
    np.testing.assert_array_equal(decoded.getchannel("A"), RGBA.getchannel("A"))
    want = pictures.as_srgb(NOISE[..., :3], "Adobe RGB", 2.2)
    np.testing.assert_allclose(decoded.convert("RGB"), want, atol=1)
    palette = RGB.convert("P", palette=Image.Palette.ADAPTIVE)
    want = pictures.as_srgb(np.asarray(palette.convert("RGB")), "Adobe RGB", 2.2)
    content = pictures.encode(palette, icc_profile=profile)
    np.testing.assert_allclose(read(content, tmp_path), want, atol=1)
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    content = pictures.encode(ramp, icc_profile=pictures.gray_profile(1.8))
    levels = np.repeat(np.asarray(ramp)[..., None], 3, axis=2)
    want = pictures.as_srgb(levels, "sRGB", 1.8)
    np.testing.assert_allclose(read(content, tmp_path), want, atol=1)


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
    assert colour(content, tmp_path) == pytest.approx((119, 119, 119), abs=1)
    assert not log.records
    assert decode(pictures.encode(cyan, "JPEG", quality=100))[0, 0, 0] == 0
    assert "CMYK without a colour profile" in log.text


BROKEN_PROFILES = {
    "garbage": b"profile" * 20,
    "cut off": pictures.rgb_profile("Display P3", None)[:500],
    "of another space": pictures.cmyk_profile(),
    "of gray": pictures.gray_profile(2.2),
    "too large": LONG * 2,
}


@pytest.mark.parametrize("name", BROKEN_PROFILES)
def test_a_profile_that_cannot_be_used_is_ignored_and_logged_by_count(name, log):
    content = pictures.encode(RGB, icc_profile=BROKEN_PROFILES[name])
    for _ in range(12):
        np.testing.assert_array_equal(decode(content), RGB)
    assert len(log.records) == 2  # the first and the tenth
    assert "10 such pictures" in log.text


# ------------------------------------------------------------------------ too large


def sized_png(width: int, height: int) -> bytes:
    """A small file that claims this size."""
    content = bytearray(pictures.encode(Image.new("L", (4, 4))))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch, tmp_path, recwarn):
    # The second is beyond Pillow's own limit as well.
    bombs = [sized_png(side, side) for side in (8193, 60_000)]
    gif = bytearray(pictures.encode(Image.new("L", (4, 4)), "GIF"))
    gif[6:10] = b"\xff" * 4
    ppm = b"P6 9000 9000 255 "
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    for bomb in (*bombs, bytes(gif), ppm):
        recwarn.clear()
        (tmp_path / "bomb").write_bytes(bomb)
        with pytest.raises(errors.UserError, match="decompression bomb"):
            images.read_image(tmp_path / "bomb", "--image")
        assert not recwarn.list  # a second line
        assert kind(bomb) == "decompression bomb"


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}])
def test_a_webp_bomb_is_refused_before_pillow_reserves_its_canvas(options, monkeypatch):
    small = pictures.encode(Image.new("RGB", (77, 40)), "WEBP", **options)
    assert picture_files._webp_size(small) == (77, 40)
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 77 * 40 - 1)
    monkeypatch.setattr(Image, "open", None)
    assert kind(small) == "decompression bomb"


def test_a_jpeg_of_endless_scans_is_refused_undecoded(monkeypatch):
    whole = pictures.encode(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(Image, "open", None)
    assert kind(whole[:-2] + scan * 200 + whole[-2:]) == "decompression bomb"


@pytest.mark.parametrize(
    "content",
    [
        b"P3 5000 5000 255 " + b"1 " * 1000,
        b"P6 5000 5000 254\n" + b"1" * 1000,
        b"P2 9 9 255\n" + b"#\n" * 5000,
    ],
    ids=["text", "uncommon depth", "comments"],
)
def test_a_ppm_that_pillow_would_read_for_minutes_is_refused(content, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert kind(content) == "decompression bomb"


def test_a_line_is_refused_for_enlarged_it_would_fill_the_memory():
    assert kind(pictures.encode(Image.new("L", (4000, 2)))) == "narrow image"
    assert decode(pictures.encode(Image.new("L", (320, 10)))).shape == (10, 320, 3)


def test_a_file_that_is_too_large_to_read_is_one_line(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(errors.UserError, match=r"--image=.*huge.png has 10995"):
        picture_files.read(tmp_path / "huge.png", "--image")
