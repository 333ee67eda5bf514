"""Draws SVG pictures on white at 128 x 128 pixels with resvg, which needs no fonts."""

from __future__ import annotations

import io
import re
from typing import Any

from PIL import Image

from glide_jax.errors import UserError

SIZE_PX = 128
# Between clip art and the sides; emoji have margins of their own.
MARGIN_PX = 4
# Clip art on a large page is drawn larger, up to this size, and cut out.
LARGEST_PX = 1024
# A larger SVG takes seconds.
MAX_BYTES = 1_000_000
# A picture with fewer pixels that are not white is blank.
LEAST_PIXELS = 80
_FAINT = 8
_TEXT = re.compile(r"<(?:\w+:)?(?:text|flowRoot)\b")
_IMAGE = re.compile(r"<(?:\w+:)?image\b")


class UndrawableError(Exception):
    """A picture that is left out; the text is the reason, without details."""


def version() -> str:
    """The version of resvg-py.

    Raises:
      UserError: it is not installed.
    """
    return _resvg().__version__


def _resvg() -> Any:
    try:
        import resvg_py
    except ImportError as error:
        raise UserError(
            "SVG files are drawn by resvg-py, which is not installed; pip install -e"
            ' ".[icons]"'
        ) from error
    return resvg_py


def check_content(svg: str) -> None:
    """Raises UndrawableError for a file that other machines would draw differently."""
    if len(svg) > MAX_BYTES:
        raise UndrawableError("the file is larger than 1 MB")
    if _TEXT.search(svg):
        raise UndrawableError("it has letters, whose font this machine may lack")
    if _IMAGE.search(svg):
        raise UndrawableError("it embeds a photo")


def draw(svg: str, *, is_cropped: bool) -> Image.Image:
    """Draws a file on white, RGB (SIZE_PX, SIZE_PX), with its aspect ratio, centred.

    Args:
      svg: the content of the file.
      is_cropped: whether the drawing fills the picture up to MARGIN_PX, instead of its
        page.

    Raises:
      UndrawableError: it cannot be drawn, or is blank.
      UserError: resvg-py is not installed.
    """
    drawn = _render(svg, SIZE_PX)
    if is_cropped:
        box = _extent(drawn)
        zoom = (SIZE_PX - 2 * MARGIN_PX) / max(box[2] - box[0], box[3] - box[1])
        drawn = _render(svg, min(round(SIZE_PX * zoom), LARGEST_PX))
        drawn = drawn.crop(_extent(drawn))
    canvas = Image.new("RGB", (SIZE_PX, SIZE_PX), "white")
    corner = ((SIZE_PX - drawn.width) // 2, (SIZE_PX - drawn.height) // 2)
    canvas.paste(drawn, corner, drawn)
    levels = canvas.convert("L").histogram()
    if sum(levels[: 256 - _FAINT]) < LEAST_PIXELS:
        raise UndrawableError("it is blank")
    return canvas


def _extent(drawn: Image.Image) -> tuple[int, int, int, int]:
    """The smallest box with all pixels that are not transparent."""
    opaque = drawn.getchannel("A").point([255 * (a > _FAINT) for a in range(256)])
    box = opaque.getbbox()
    if box is None:
        raise UndrawableError("it is blank")
    return box


def _render(svg: str, px: int) -> Image.Image:
    """Renders RGBA pixels, whose longer side is `px`."""
    resvg = _resvg()
    try:
        png = resvg.svg_to_bytes(
            svg_string=svg, width=px, height=px, dpi=96.0, skip_system_fonts=True
        )
    except ValueError as error:
        raise UndrawableError("the file is not valid SVG") from error
    return Image.open(io.BytesIO(png)).convert("RGBA")
