"""Reads mask files: the part of a picture that is repainted.

A mask is a black and white picture (white is repainted), a copy of the picture with a
transparent hole, strokes on a transparent layer, or the labels of a segmentation. The
first two are recognised. Other files, and those that may be either, are refused without
a reading.
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
# Reading -> the repainted pixels, in words.
READINGS = {
    "white": "white",
    "black": "black",
    "alpha": "transparent",
    "opaque": "opaque",
    "nonzero": "above 0",
}
# Largest share of transparent pixels in a black and white mask, read by their colour.
_STRAY_SHARE = 0.01
# Largest share of grey pixels in such a mask, for soft edges; a photo has more.
_GREY_SHARE = 0.5
# Largest difference between the channels of a black and white pixel, and the share of
# pixels that may exceed it: JPEG colours edges a little.
_COLOUR_LEVELS, _COLOUR_SHARE = 48, 0.01
# Largest difference of a copy from its picture, and the share of pixels within it:
# it may be compressed again or lack the colour profile.
_COPY_LEVELS, _COPY_SHARE = 32, 0.95
# The most frequent colours of paint make up this share of it.
_FEW_COLOURS, _FEW_SHARE = 8, 0.9


class MaskFile(NamedTuple):
    """A mask and a line about its reading.

    Attributes:
      known: float32 (H, W), 1 = known, 0 = to repaint.
      statement: e.g. "37% of 256x256 is repainted (white)".
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
    """Reads a mask file.

    Args:
      path: the file.
      reading: one of READINGS; None: "white" for an opaque black and white picture,
        "alpha" for a photo with transparent pixels. "opaque" repaints strokes on a
        transparent layer, "nonzero" pixels with a label other than 0.
      picture: the picture to repaint, to recognise a mask that is a copy of it.
      name: the flag of the file, e.g. "--mask".

    Raises:
      UserError: no such file, no picture, a file with several possible readings, or a
        mask that repaints nothing or everything.
    """
    label = f"{name}={path}" if name else str(path)
    if reading is not None and reading not in READINGS:
        raise UserError(
            f"reading={reading!r} of a mask is unknown; use one of "
            f"{', '.join(READINGS)}"
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
            f" ({values}); give another mask, or --mask_from={'|'.join(READINGS)}"
        )
    height, width = repainted.shape
    read_as = "; ".join([READINGS[reading], *notes])
    statement = f"{_percent(share)} of {width}x{height} is repainted ({read_as})"
    return MaskFile((~repainted).astype(np.float32), statement)


def _apply(
    reading: str, stored: Image.Image, rgba: np.ndarray
) -> tuple[np.ndarray, str]:
    """Returns the repainted pixels, bool (H, W), and the range of their values."""
    alpha = rgba[..., 3]
    if reading == "alpha":
        return alpha < 128, f"opacity {_range(alpha)}; transparent is below 128"
    if reading == "opaque":
        # A brush may be translucent.
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
    """Returns the labels; in a picture with colours, black is 0."""
    if stored.mode in ("1", "L", "P") or stored.mode[0] == "I":
        return np.asarray(stored).astype(np.int64)
    return rgba[..., :3].max(axis=-1)


def _recognise(
    rgba: np.ndarray, picture: Pixels | None, label: str
) -> tuple[str, list[str]]:
    """Returns the reading of a file, and notes for its statement.

    Raises:
      UserError: several readings are possible.
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
            f"{label} has {_percent(num_clear / count)} transparent pixels and is not a"
            " copy of the picture; give --mask_from=alpha (repaints what is"
            " transparent), opaque (strokes), white, or black"
        )
    what = "has colours" if is_coloured else f"is grey in {_percent(grey)} of it"
    raise UserError(
        f"{label} {what}, and a mask is black and white; give --mask_from=white, black"
        " (divided at mid grey), or nonzero (all labels but 0)"
    )


def _is_photo(rgb: np.ndarray, opaque: np.ndarray, picture: Pixels | None) -> bool:
    """Whether the opaque part is a copy of the picture; if None, of any photo."""
    is_paint = _has_few_colours(rgb[opaque])
    if picture is None or picture.shape != rgb.shape:
        return not is_paint
    if is_paint and not _has_few_colours(picture.reshape(-1, 3)):
        return False
    away = np.abs(rgb.astype(np.int16) - picture).max(axis=-1)
    return bool((away[opaque] <= _COPY_LEVELS).mean() >= _COPY_SHARE)


def _has_few_colours(colours: np.ndarray) -> bool:
    """Whether a few colours make up nearly all of (N, 3) pixels."""
    # 32 levels of each channel, so that shades of one stroke are one colour.
    red, green, blue = (colours >> 3).astype(np.int32).T
    counts = np.sort(np.bincount(red << 10 | green << 5 | blue))
    return bool(counts[-_FEW_COLOURS:].sum() >= _FEW_SHARE * len(colours))


def _range(values: np.ndarray) -> str:
    return f"{int(values.min())} to {int(values.max())}"


def _percent(share: float) -> str:
    """Returns a share in per cent, 0% and 100% only for exactly 0 and 1."""
    if share in (0.0, 1.0) or 0.01 <= share <= 0.99:
        return f"{share:.0%}"
    if share < 1e-4:
        return "less than 0.01%"
    return "more than 99.99%" if share > 1 - 1e-4 else f"{share:.2%}"
