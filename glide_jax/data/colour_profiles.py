"""Converts pictures with an ICC colour profile to sRGB."""

from __future__ import annotations

import collections
import functools
import io
import logging
import threading
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from glide_jax.data import picture_metadata

_log = logging.getLogger(__name__)
# Profiles that differ from sRGB by at most this many of 255 levels are treated as sRGB:
# they are variants with rounded curves, and pixels stay unchanged.
SAME_LEVELS = 2
# Colour spaces of usable profiles, and the mode of their pixels.
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_counts: collections.Counter[str] = collections.Counter()
_lock = threading.Lock()


class _UnusableProfileError(Exception):
    """The profile is damaged, or for pixels of another mode."""


def to_srgb(image: Image.Image, profile: bytes | None, key: str) -> Image.Image:
    """Converts a picture to sRGB, mode "RGB".

    Pixels without a profile are assumed to be sRGB. Pixels with an unusable profile are
    assumed to be sRGB, and CMYK without one to be ideal inks; both are logged.

    Args:
      image: mode "L", "RGB", or "CMYK".
      profile: the ICC profile; None: the picture has none.
      key: names the picture in the log.
    """
    if profile is None and image.mode != "CMYK":
        return image.convert("RGB")
    try:
        if profile is None:
            raise _UnusableProfileError("CMYK without a colour profile")
        mode, transform = _transform(profile)
        if mode != "RGB" and mode != image.mode:
            raise _UnusableProfileError(f"a {mode} profile of {image.mode} pixels")
        if mode == "RGB" and image.mode == "CMYK":
            raise _UnusableProfileError("an RGB profile of CMYK pixels")
    except _UnusableProfileError as fault:
        _note(str(fault), key)
        return image.convert("RGB")
    # Gray pixels with an RGB profile are RGB pixels with three equal values.
    image = image.convert(mode)
    return image.convert("RGB") if transform is None else _apply(transform, image)


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None only if it converts in place
    # The profile no longer applies to the converted pixels.
    converted.info.pop("icc_profile", None)
    return converted


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Returns the mode of the profile's pixels and the transform to sRGB, if any.

    Raises:
      _UnusableProfileError: the profile cannot be used.
    """
    if not profile:
        raise _UnusableProfileError("the colour profile cannot be unpacked")
    if len(profile) > picture_metadata.MAX_PROFILE_BYTES:
        raise _UnusableProfileError("the colour profile is too large")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        core_profile: Any = source.profile  # its stub is wrong
        space = core_profile.xcolor_space.strip()
        if space not in _MODES:
            raise _UnusableProfileError(f"a colour profile of {space}")
        mode = _MODES[space]
        # The intent selects the tables of printer profiles; for profiles of primaries
        # it has no effect.
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
        )
    except (ImageCms.PyCMSError, OSError) as fault:
        raise _UnusableProfileError(
            f"the colour profile is damaged: {fault}"
        ) from fault
    return mode, None if _is_srgb(transform, mode) else transform


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    if mode == "CMYK":
        return False
    if mode == "L":
        probe = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
        probe = Image.fromarray(colours.reshape(levels.size, -1, 3))
    before = np.asarray(probe.convert("RGB"), np.int16)
    after = np.asarray(_apply(transform, probe), np.int16)
    return bool(np.abs(after - before).max() <= SAME_LEVELS)


def _note(reason: str, key: str) -> None:
    """Logs the 1st, 10th, 100th, ... picture for each reason."""
    with _lock:
        _counts[reason] += 1
        count = _counts[reason]
    if count == 10 ** (len(str(count)) - 1):
        _log.warning(
            "%s: %s; its colours are treated as sRGB (%d such pictures so far)",
            key,
            reason,
            count,
        )
