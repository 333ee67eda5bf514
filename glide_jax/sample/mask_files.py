"""Reads mask files: which part of a picture is to be repainted.

A mask is a black and white picture (white is repainted), a copy of the picture with a
hole rubbed out (what is transparent is repainted), strokes on a transparent layer, or
the labels of a segmentation. The first two are recognised. What may be either of two
things is refused, and the reading has to be named.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from glide_jax.data import picture_files
from glide_jax.errors import UserError

Pixels = UInt8[np.ndarray, "h w 3"]
# What is repainted, by the name of the reading, as it is stated.
READINGS = {
    "white": "white",
    "black": "black",
    "alpha": "transparent",
    "opaque": "opaque",
    "nonzero": "above 0",
}
# A black and white mask may have so many transparent pixels that go by their colour.
_STRAY_SHARE = 0.01
# It may have soft edges, and so much of it may be grey; more is a photo.
_GREY_SHARE = 0.5
# JPEG colours the edges of black and white a little: levels between the channels of one
# pixel, and the share of pixels that may be above.
_COLOUR_LEVELS, _COLOUR_SHARE = 48, 0.01
# A copy of the picture differs from it by at most so many levels in nearly all pixels,
# after another compression or without its colour profile.
_COPY_LEVELS, _COPY_SHARE = 32, 0.95
# Paint is of one colour, or of a few: the most frequent ones make up this share.
_FEW_COLOURS, _FEW_SHARE = 8, 0.9


class MaskFile(NamedTuple):
    """A mask and how it was read.

    Attributes:
      known: float32 (H, W), 1 = known, 0 = to repaint.
      statement: E.g. "37% of 256x256 is repainted (white)".
    """

    known: Float[np.ndarray, "h w"]
    statement: str


def read(
    path: str | os.PathLike[str],
    reading: str | None = None,
    *,
    picture: Pixels | None = None,
    name: str = "",
) -> MaskFile:
    """The mask in a file.

    Args:
      path: The file.
      reading: One of READINGS; None: "white" of an opaque black and white picture,
          "alpha" of a photo that is transparent in part. "opaque" repaints strokes on
          a transparent layer, "nonzero" what has a label other than 0.
      picture: The picture to repaint; used to recognise a mask that is a copy of it.
      name: The flag that names the file, e.g. "--mask".

    Raises:
      UserError: No such file, no picture; a file that may be read in several ways; a
          mask by which nothing is repainted, or everything.
    """
    label = f"{name}={path}" if name else str(path)
    if reading is not None and reading not in READINGS:
        raise UserError(
            f"a mask is not read by {reading!r}; use one of {', '.join(READINGS)}"
        )
    stored = picture_files.load_file(path, name)
    with picture_files.bad_record_as_user_error(label):
        rgba = np.asarray(picture_files.as_srgb(stored, label).convert("RGBA"))
    notes = []
    if reading is None:
        reading, notes = _recognise(rgba, picture, label)
    repainted, values = _apply(reading, stored, rgba)
    share = float(repainted.mean())
    if share in (0.0, 1.0):
        extent = "everything" if share else "nothing"
        raise UserError(
            f"{label}: {extent} is {READINGS[reading]}, so {extent} would be repainted"
            f" ({values}); give another mask, or say what is to be repainted:"
            f" --mask_from={'|'.join(READINGS)}"
        )
    height, width = repainted.shape
    read_as = "; ".join([READINGS[reading], *notes])
    statement = f"{_percent(share)} of {width}x{height} is repainted ({read_as})"
    return MaskFile((~repainted).astype(np.float32), statement)


def _apply(
    reading: str, stored: Image.Image, rgba: np.ndarray
) -> tuple[np.ndarray, str]:
    """What is repainted, bool (H, W), and the range of the values it depends on."""
    alpha = rgba[..., 3]
    if reading == "alpha":
        return alpha < 128, f"opacity {_range(alpha)}; transparent is below 128"
    if reading == "opaque":
        # Strokes of a brush that covers a third are strokes.
        least = max(1, -(-int(alpha.max()) // 2))
        return alpha >= least, f"opacity {_range(alpha)}; opaque is {least} or more"
    if reading == "nonzero":
        labels = _labels(stored, rgba)
        return labels > 0, f"values {_range(labels)}"
    light = np.asarray(Image.fromarray(rgba[..., :3]).convert("L"))
    is_deep = stored.mode[0] == "I"
    levels = np.asarray(stored) if is_deep else light
    values = f"values {_range(levels)}; white is {65535 if is_deep else 255}"
    if stored.mode == "P":
        values = f"palette indices {_range(np.asarray(stored))}, {values}"
    return (light >= 128) == (reading == "white"), values


def _labels(stored: Image.Image, rgba: np.ndarray) -> np.ndarray:
    """Numbers of labels; in a picture with colours black is 0."""
    if stored.mode in ("1", "L", "P") or stored.mode[0] == "I":
        return np.asarray(stored).astype(np.int64)
    return rgba[..., :3].max(axis=-1)


def _recognise(
    rgba: np.ndarray, picture: Pixels | None, label: str
) -> tuple[str, list[str]]:
    """The reading of a file, and what else its statement says.

    Raises:
      UserError: It may be read in several ways.
    """
    clear = rgba[..., 3] < 128
    num_clear, count = int(clear.sum()), clear.size
    rgb = rgba[..., :3]
    is_copy = 0 < num_clear < count and _is_photo(rgb, ~clear, picture)
    if is_copy and picture is not None:
        return "alpha", []
    spread = np.ptp(rgb.astype(np.int16), axis=-1)
    light = rgb.mean(axis=-1)
    grey = float(((light >= 64) & (light < 192)).mean())
    is_coloured = (spread > _COLOUR_LEVELS).mean() > _COLOUR_SHARE
    if num_clear <= _STRAY_SHARE * count and not is_coloured and grey <= _GREY_SHARE:
        notes = []
        if grey > _STRAY_SHARE:
            notes.append(f"{_percent(grey)} is grey and divided at 128")
        if num_clear:
            notes.append(f"{num_clear} transparent pixels read by their colour")
        return "white", notes
    if is_copy:
        return "alpha", []
    if num_clear:
        raise UserError(
            f"{label} is transparent in {_percent(num_clear / count)} of it and not a"
            " copy of the picture; say what is to be repainted: --mask_from=alpha (what"
            " is transparent), opaque (the strokes), white, or black"
        )
    what = "has colours" if is_coloured else f"is grey in {_percent(grey)} of it"
    raise UserError(
        f"{label} {what}, and a mask is black and white; say what is to be repainted:"
        " --mask_from=white, black (divided at mid grey), or nonzero (all labels but 0)"
    )


def _is_photo(rgb: np.ndarray, opaque: np.ndarray, picture: Pixels | None) -> bool:
    """Whether the opaque part is a copy of the picture, or of any photo if None."""
    is_paint = _has_few_colours(rgb[opaque])
    if picture is None or picture.shape != rgb.shape:
        return not is_paint
    if is_paint and not _has_few_colours(picture.reshape(-1, 3)):
        return False
    away = np.abs(rgb.astype(np.int16) - picture).max(axis=-1)
    return bool((away[opaque] <= _COPY_LEVELS).mean() >= _COPY_SHARE)


def _has_few_colours(colours: np.ndarray) -> bool:
    """Whether a few colours make up nearly all of (N, 3) pixels."""
    # 32 levels of each channel: shades of one stroke fall together.
    red, green, blue = (colours >> 3).astype(np.int32).T
    counts = np.sort(np.bincount(red << 10 | green << 5 | blue))
    return bool(counts[-_FEW_COLOURS:].sum() >= _FEW_SHARE * len(colours))


def _range(values: np.ndarray) -> str:
    return f"{int(values.min())} to {int(values.max())}"


def _percent(share: float) -> str:
    """A share in per cent; never 0% or 100% of what is neither."""
    if share in (0.0, 1.0) or 0.01 <= share <= 0.99:
        return f"{share:.0%}"
    if share < 1e-4:
        return "less than 0.01%"
    return "more than 99.99%" if share > 1 - 1e-4 else f"{share:.2%}"
