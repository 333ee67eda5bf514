"""What a mask file repaints, or why it has to be said."""

from __future__ import annotations

import numpy as np
import pytest
from absl import flags
from PIL import Image, ImageDraw, ImageFilter

from glide_jax import errors
from glide_jax.cli import inpaint
from glide_jax.sample import image_io, mask_files

SIDE = 48
# A region that no symmetry of the square keeps.
REGION = np.zeros((SIDE, SIDE), bool)
REGION[4:20, 8:40] = True
PHOTO = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    .resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    .convert("RGB")
)


@pytest.fixture
def read(tmp_path):
    """read(image, reading, picture=...) -> what is repainted, and the statement."""

    def run(image, reading=None, suffix=".png", **options):
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        path = tmp_path / f"mask{suffix}"
        image.save(path)
        mask = mask_files.read(path, reading, name="--mask", **options)
        assert mask.known.dtype == np.float32
        return mask.known == 0, mask.statement

    return run


def layer(colour, alpha) -> np.ndarray:
    """RGBA of a colour, or of colours, under an alpha."""
    pixels = np.empty((SIDE, SIDE, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = colour, alpha
    return pixels


def hole(colours=PHOTO) -> np.ndarray:
    """A copy of a picture with the region rubbed out."""
    return layer(colours, np.where(REGION, 0, 255))


def strokes(colour, opacity=255) -> np.ndarray:
    """The region painted on a transparent layer."""
    return layer(colour, np.where(REGION, opacity, 0))


def labels(values: dict[int, tuple[int, int, int]]) -> Image.Image:
    """A palette picture: label 0, and the last label in the region."""
    image = Image.fromarray(np.where(REGION, max(values), 0).astype(np.uint8), "P")
    palette = [0] * 768
    for label, colour in values.items():
        palette[3 * label : 3 * label + 3] = colour
    image.putpalette(palette)
    return image


BLACK_AND_WHITE = np.where(REGION, 255, 0).astype(np.uint8)
WHITE = {
    "gray": BLACK_AND_WHITE,
    "bilevel": Image.fromarray(REGION),
    "colours": np.repeat(BLACK_AND_WHITE[..., None], 3, axis=2),
    "opaque": layer(BLACK_AND_WHITE[..., None], 255),
    "not quite black and white": np.where(REGION, 235, 16).astype(np.uint8),
    "16 bits": np.where(REGION, 65535, 0).astype(np.uint16),
    "palette": labels({0: (0, 0, 0), 1: (255, 255, 255)}),
}


@pytest.mark.parametrize("name", WHITE)
def test_white_of_a_black_and_white_picture_is_repainted_and_said_so(name, read):
    repainted, statement = read(WHITE[name])
    np.testing.assert_array_equal(repainted, REGION)
    assert statement == "22% of 48x48 is repainted (white)"


def test_a_jpeg_and_soft_edges_are_read_by_the_same_rule(read):
    repainted, _ = read(BLACK_AND_WHITE, suffix=".jpg")
    np.testing.assert_array_equal(repainted, REGION)
    soft = Image.fromarray(BLACK_AND_WHITE).filter(ImageFilter.GaussianBlur(3))
    repainted, statement = read(soft)
    assert (repainted != REGION).mean() < 0.05
    assert "is grey and divided at 128" in statement


def test_one_stray_transparent_pixel_does_not_decide(read):
    stray = layer(BLACK_AND_WHITE[..., None], 255)
    stray[0, 0, 3] = 0
    # With the picture known or not, and whatever it is.
    for picture in (None, PHOTO, np.zeros_like(PHOTO)):
        repainted, statement = read(stray, picture=picture)
        np.testing.assert_array_equal(repainted, REGION)
        assert "white; 1 transparent pixels read by their colour" in statement


@pytest.mark.parametrize("colours", [PHOTO, 90, 255, 0, BLACK_AND_WHITE[..., None]])
def test_a_copy_of_the_picture_is_repainted_where_it_is_rubbed_out(colours, read):
    picture = hole(colours)[..., :3]
    repainted, statement = read(hole(colours), picture=picture)
    np.testing.assert_array_equal(repainted, REGION)
    assert "(transparent)" in statement


def test_a_copy_is_known_after_a_change_of_its_colours_or_without_the_picture(read):
    brighter = np.clip(PHOTO.astype(int) + 20, 0, 255).astype(np.uint8)
    for options in ({"picture": brighter}, {}, {"picture": PHOTO[:20, :20]}):
        repainted, _ = read(hole(), **options)
        np.testing.assert_array_equal(repainted, REGION)
    # A hole of one pixel in a photo is a hole.
    tiny = layer(PHOTO, 255)
    tiny[3, 3, 3] = 0
    for options in ({"picture": PHOTO}, {}):
        repainted, statement = read(tiny, **options)
        assert repainted.sum() == 1
        assert statement == "0.04% of 48x48 is repainted (transparent)"


def sketch() -> Image.Image:
    """Strokes of several colours with soft ends, as a painting tool saves a layer."""
    image = Image.new("RGBA", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    for at, colour in ((8, "red"), (20, "blue"), (32, "#00ff0080")):
        draw.line([(6, at), (40, at + 6)], fill=colour, width=5)
    return image


@pytest.mark.parametrize(
    "image",
    [
        strokes((255, 255, 255)),
        strokes((0, 0, 0)),
        strokes((255, 0, 0)),
        strokes((200, 30, 90), opacity=140),
        np.asarray(sketch()),
        hole((255, 255, 255)),
        hole(BLACK_AND_WHITE[..., None]),
    ],
    ids=["white", "black", "red", "translucent", "colours", "hole", "two colours"],
)
@pytest.mark.parametrize("picture", [None, PHOTO])
def test_paint_with_transparency_is_either_and_has_to_be_named(image, picture, read):
    with pytest.raises(errors.UserError, match=r"--mask=.*--mask_from=alpha .*opaque"):
        read(image, picture=picture)
    visible = image[..., 3] >= image[..., 3].max() / 2
    np.testing.assert_array_equal(read(image, "opaque")[0], visible)
    if image[..., 3].max() == 255:
        clear = image[..., 3] < 128
        np.testing.assert_array_equal(read(image, "alpha")[0], clear)


def test_thin_paint_is_paint(read):
    repainted, statement = read(strokes((255, 0, 0), opacity=60), "opaque")
    np.testing.assert_array_equal(repainted, REGION)
    assert "(opaque)" in statement


def test_white_strokes_on_a_photograph_of_white_are_not_taken_for_a_copy(read):
    product = PHOTO.copy()
    product[REGION] = 255
    with pytest.raises(errors.UserError, match="--mask_from"):
        read(strokes((255, 255, 255)), picture=product)


def test_black_repaints_what_white_keeps(read):
    repainted, statement = read(BLACK_AND_WHITE, "black")
    np.testing.assert_array_equal(repainted, ~REGION)
    assert "(black)" in statement


VOC = labels({0: (0, 0, 0), 1: (128, 0, 0)})
UNUSABLE = {
    "0 and 1": (REGION.astype(np.uint8), "nothing .*values 0 to 1; white is 255"),
    "0 and 1 of 16 bits": (REGION.astype(np.uint16), "values 0 to 1; white is 65535"),
    "grey 100": (np.full((SIDE, SIDE), 100, np.uint8), "is grey in 100%"),
    "black and grey": (np.where(REGION, 100, 0).astype(np.uint8), "values 0 to 100"),
    "black": (np.zeros((SIDE, SIDE), np.uint8), "values 0 to 0"),
    "white": (np.full((SIDE, SIDE), 255, np.uint8), "everything .*values 255 to 255"),
    "labels in colours": (VOC, "has colours"),
    "labels in grey": (labels({0: (0, 0, 0), 7: (7, 7, 7)}), "indices 0 to 7"),
    "a photo": (PHOTO, "--mask_from=white"),
    "a clear layer": (strokes((9, 9, 9), opacity=0), "100% transparent"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_mask_that_repaints_nothing_or_everything_is_refused_with_its_values(
    name, read
):
    image, named = UNUSABLE[name]
    with pytest.raises(errors.UserError, match=named) as caught:
        read(image)
    assert "--mask_from" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "image",
    [
        REGION.astype(np.uint8),
        REGION.astype(np.uint16),
        np.where(REGION, 100, 0).astype(np.uint8),
        VOC,
        # Label 0 of other palettes is not black.
        labels({0: (120, 120, 120), 3: (180, 120, 120)}),
        np.asarray(VOC.convert("RGB")),
    ],
    ids=["0 and 1", "16 bits", "grey", "VOC", "another palette", "colours"],
)
def test_labels_are_repainted_where_they_are_not_0(image, read):
    repainted, statement = read(image, "nonzero")
    np.testing.assert_array_equal(repainted, REGION)
    assert "(above 0)" in statement


@pytest.mark.parametrize("reading", mask_files.READINGS)
def test_no_reading_repaints_nothing_or_everything(reading, read):
    flat = layer((0, 0, 0) if reading == "black" else (255, 255, 255), 255)
    if reading == "alpha":
        flat[..., 3] = 255
    with pytest.raises(errors.UserError, match="would be repainted"):
        read(flat, reading)


def test_the_flag_offers_every_reading_and_no_other(read):
    values = flags.FlagValues()
    inpaint.define_flags(values)
    assert values["mask_from"].parser.enum_values == list(mask_files.READINGS)
    with pytest.raises(errors.UserError, match="'grey'"):
        read(BLACK_AND_WHITE, "grey")


def test_a_mask_is_turned_upright_like_its_picture(read, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(BLACK_AND_WHITE).save(tmp_path / "turned.png", exif=exif)
    mask = mask_files.read(tmp_path / "turned.png")
    np.testing.assert_array_equal(mask.known == 0, np.rot90(REGION, -1))
    known = image_io.read_mask(tmp_path / "turned.png")
    np.testing.assert_array_equal(known, mask.known)
    known = image_io.read_mask(tmp_path / "turned.png", "black")
    np.testing.assert_array_equal(known, 1 - mask.known)
