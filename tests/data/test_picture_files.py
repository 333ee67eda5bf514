"""Every door reads a picture file the same way: upright, 8-bit sRGB, or one line."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from glide_jax import errors
from glide_jax.data import picture_files, schema
from glide_jax.sample import image_io
from tests.data import pictures


def kind(content: bytes) -> str:
    with pytest.raises(schema.BadRecordError) as caught:
        picture_files.decode(content, "key")
    return caught.value.kind


# ------------------------------------------------------------------- kinds of pixels


def test_transparency_is_laid_over_white(tmp_path):
    half = pictures.encode(Image.new("RGBA", (4, 4), (255, 0, 0, 128)))
    assert pictures.colour(half, tmp_path) == pytest.approx((255, 127, 127), abs=1)
    gray = pictures.encode(Image.new("LA", (4, 4), (0, 0)))
    assert pictures.colour(gray, tmp_path) == (255, 255, 255)


def test_palettes_with_and_without_a_transparent_entry_become_rgb(tmp_path):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert pictures.colour(pictures.encode(palette), tmp_path) == (10, 20, 30)
    clear = pictures.encode(palette, transparency=1)
    assert pictures.colour(clear, tmp_path) == (255, 255, 255)


@pytest.mark.parametrize("format_", ["PNG", "BMP", "GIF", "PPM"])
def test_gray_and_bilevel_become_rgb(format_, tmp_path):
    gray = pictures.encode(Image.new("L", (4, 4), 77), format_)
    assert pictures.colour(gray, tmp_path) == (77, 77, 77)
    white = pictures.encode(Image.new("1", (4, 4), 1), format_)
    assert pictures.colour(white, tmp_path) == (255, 255, 255)


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
def test_sixteen_bits_are_scaled_not_clipped_in_every_format(name, tmp_path):
    pixels = pictures.read(deep_files()[name], tmp_path)
    np.testing.assert_array_equal(pixels, np.repeat(LEVELS[..., None] >> 8, 3, axis=2))


def test_the_transparent_colour_of_a_png_has_the_depth_of_the_file(tmp_path):
    deep = np.array([[0x8080, 700]], np.uint16)
    gray = pictures.encode(Image.fromarray(deep), transparency=700)
    np.testing.assert_array_equal(pictures.read(gray, tmp_path)[0, :, 0], [128, 255])
    # Two pixels of 16-bit colours, and two of 4-bit gray: the second is transparent.
    colours = struct.pack(">3H3H", 0x8080, 0x8080, 0x8080, 0x1234, 0x5678, 0x9ABC)
    clear = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)
    header = struct.pack(">2I5B", 2, 1, 16, 2, 0, 0, 0)
    content = pictures.png(header, b"\0" + colours, (b"tRNS", clear))
    assert pictures.decode(content)[0].tolist() == [[128] * 3, [255] * 3]
    header = struct.pack(">2I5B", 2, 1, 4, 0, 0, 0, 0)
    content = pictures.png(header, b"\0\x35", (b"tRNS", struct.pack(">H", 5)))
    assert pictures.decode(content)[0].tolist() == [[3 * 17] * 3, [255] * 3]


def test_floating_point_pixels_are_refused():
    floats = Image.fromarray(np.full((4, 4), 0.5, np.float32))
    assert kind(pictures.encode(floats, "PPM")) == "broken image"
    with pytest.raises(errors.UserError, match="mode 'F'"):
        image_io.as_pixels(floats)
    # 0 to 255, or 0 to 65535?
    with pytest.raises(errors.UserError, match="mode 'I'"):
        image_io.as_pixels(Image.fromarray(np.full((4, 4), 200, np.int32)))


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(format_, tmp_path):
    frames = [Image.new("RGB", (8, 8), name) for name in ("white", "black", "red")]
    options = {"save_all": True, "append_images": frames[1:]}
    content = pictures.encode(frames[0], format_, **options)
    assert pictures.colour(content, tmp_path) == (255, 255, 255)


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
    pixels = (
        pictures.decode(content)
        if format_ == "ImageMagick"
        else pictures.read(content, tmp_path)
    )
    assert pixels.shape[:2] == ((32, 48) if orientation < 5 else (48, 32))
    seen = [pixels[y, x] for y in (4, -4) for x in (4, -4)]
    want = [CORNERS[corner] for corner in SEEN[orientation]]
    np.testing.assert_allclose(seen, want, atol=3)  # JPEG is not exact


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_picture_with_damaged_exif_is_read_as_it_is_stored():
    broken = b"Exif\0\0MM\0*\xff\xff\xff\xff"
    content = pictures.encode(Image.new("RGB", (8, 4), "red"), exif=broken)
    assert pictures.decode(content).shape == (4, 8, 3)


# --------------------------------------------------------------- damage and suffixes


def damaged_png(change) -> bytes:
    """A PNG whose pixels' chunk is changed, with its old or its right checksum."""
    content = pictures.encode(pictures.RGB)
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
    "cut off": pictures.encode(pictures.RGB)[:300],
    "JPEG": pictures.encode(pictures.RGB, "JPEG")[:-300],
    "WebP": pictures.encode(pictures.RGB, "WEBP")[:100],
    "GIF": pictures.encode(pictures.GRAY, "GIF")[:900],
    "BMP": pictures.encode(pictures.RGB, "BMP")[:600],
    "PPM": pictures.encode(pictures.RGB, "PPM")[:600],
    "empty": b"",
    "text": b"no picture",
    "TIFF": pictures.encode(pictures.RGB, "TIFF"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_a_bad_record_and_one_line_for_a_flag(name, tmp_path):
    assert kind(DAMAGED[name]) == "broken image"
    path = tmp_path / "picture.png"
    path.write_bytes(DAMAGED[name])
    with pytest.raises(errors.UserError, match=f"--image={path} ") as caught:
        image_io.read_image(path, "--image")
    assert not isinstance(caught.value, schema.BadRecordError)
    assert "\n" not in str(caught.value)
    assert " at 0x" not in str(caught.value)


def test_a_file_that_is_absent_or_a_folder_or_a_url_is_one_line(tmp_path, monkeypatch):
    for given in (
        tmp_path / "absent.png",
        tmp_path,
        "https://bucket/a.png",
        "/dev/zero",
    ):
        with pytest.raises(errors.UserError, match="--mask="):
            picture_files.read(given, "--mask")
    monkeypatch.setenv("HOME", str(tmp_path))
    pictures.RGB.save(tmp_path / "home.png")
    np.testing.assert_array_equal(picture_files.read("~/home.png"), pictures.RGB)


def test_a_broken_pillow_picture_is_refused(tmp_path):
    (tmp_path / "cut.png").write_bytes(pictures.encode(pictures.RGB)[:300])
    opened = Image.open(tmp_path / "cut.png")
    with pytest.raises(errors.UserError, match="images: a picture cannot be read"):
        image_io.as_pixels(opened)


@pytest.mark.parametrize("suffix", sorted(picture_files.SUFFIXES))
def test_every_suffix_is_of_a_format_that_is_read(suffix, tmp_path):
    path = tmp_path / f"picture{suffix.upper()}"
    pictures.RGB.save(path)
    content = path.read_bytes()
    assert pictures.decode(content).shape == (24, 20, 3)
    assert Image.open(io.BytesIO(content)).format in picture_files.FORMATS


def test_no_other_program_is_ever_given_a_picture(monkeypatch):
    # Pillow hands EPS to Ghostscript, whatever the file is called.
    monkeypatch.setattr(subprocess, "check_call", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    assert kind(postscript + b"showpage\n%%EOF\n") == "broken image"


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
            image_io.read_image(tmp_path / "bomb", "--image")
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
    assert pictures.decode(pictures.encode(Image.new("L", (320, 10)))).shape == (
        10,
        320,
        3,
    )


def test_a_file_that_is_too_large_to_read_is_one_line(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(errors.UserError, match=r"--image=.*huge.png has 10995"):
        picture_files.read(tmp_path / "huge.png", "--image")
