"""A labelled sheet of generated pictures that explains itself at a glance.

A sheet is a title, a few lines of explanation and sections; a section is a table of
pictures with a caption at the left of each row and a title above each column.
"""

from __future__ import annotations

import dataclasses
import functools
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE_PX = 128  # a whole multiple of 16, 32, 64 and 128 px pictures
_LABEL_PX = 200
_GAP_PX = 14
_MARGIN_PX = 24
_MIN_WIDTH_PX = 760

_BACKGROUND = (250, 250, 248)
_INK = (28, 28, 30)
_QUIET_INK = (96, 96, 102)
_LINE = (214, 214, 210)

_TITLE_PT, _HEADING_PT, _TEXT_PT = 28, 20, 15


@dataclasses.dataclass(frozen=True)
class Section:
    """One table of pictures.

    Attributes:
        title: Heading of the section.
        note: One or two sentences saying what the section shows.
        column_titles: What each column is, above its pictures; may hold newlines.
        rows: (caption, pictures) from top to bottom; a picture is uint8 (H, W, 3)
            of any size and becomes a square tile.
        notes: Texts underneath the pictures of each row; none at all by default.
    """

    title: str
    note: str
    column_titles: Sequence[str]
    rows: Sequence[tuple[str, Sequence[np.ndarray]]]
    notes: Sequence[Sequence[str]] = ()


def draw_contact_sheet(
    title: str, note: str, sections: Sequence[Section], *, tile_px: int = TILE_PX
) -> np.ndarray:
    """The sheet as uint8 (H, W, 3).

    Args:
        title: What the pictures are.
        note: How to read the sheet; wrapped to its width.
        sections: Tables, from top to bottom.
        tile_px: Side of every tile; smaller pictures are enlarged by nearest
            neighbour (their pixels stay visible), larger ones reduced.

    Raises:
        ValueError: A row has not one picture a column, or not one note a picture.
    """
    for section in sections:
        _check_rows(section)
    width = _sheet_width(sections, tile_px)
    # A first pass on a one-line canvas measures, the second draws: one layout code.
    height = _draw(_Pen(width, 1), title, note, sections, tile_px)
    pen = _Pen(width, height)
    _draw(pen, title, note, sections, tile_px)
    return np.asarray(pen.canvas)


class _Pen:
    """A canvas and the y coordinate at which the next thing is drawn."""

    def __init__(self, width: int, height: int):
        self.canvas = Image.new("RGB", (width, height), _BACKGROUND)
        self.drawing = ImageDraw.Draw(self.canvas)
        self.width = width
        self.y = _MARGIN_PX

    def paragraph(self, text: str, size: int, ink=_INK) -> None:
        """Text over the whole width; moves below it."""
        lines = _wrap(text, size, self.width - 2 * _MARGIN_PX)
        self.y = self.lines(lines, _MARGIN_PX, self.y, size, ink)

    def lines(self, lines: list[str], x: int, y: int, size: int, ink=_INK) -> int:
        """Left-aligned lines from (x, y); the y below the last."""
        font = _font(size)
        for line in lines:
            self.drawing.text((x, y), line, font=font, fill=ink)
            y += _line_height(size)
        return y


def _draw(
    pen: _Pen, title: str, note: str, sections: Sequence[Section], tile_px: int
) -> int:
    """Draws everything; the height it took."""
    pen.paragraph(title, _TITLE_PT)
    pen.y += 4
    pen.paragraph(note, _TEXT_PT, _QUIET_INK)
    for section in sections:
        pen.y += _GAP_PX
        pen.drawing.line(
            [(_MARGIN_PX, pen.y), (pen.width - _MARGIN_PX, pen.y)], fill=_LINE
        )
        pen.y += _GAP_PX
        _draw_section(pen, section, tile_px)
    return pen.y + _MARGIN_PX


def _draw_section(pen: _Pen, section: Section, tile_px: int) -> None:
    pen.paragraph(section.title, _HEADING_PT)
    pen.paragraph(section.note, _TEXT_PT, _QUIET_INK)
    pen.y += _GAP_PX // 2
    _draw_in_columns(pen, section.column_titles, tile_px)
    for row, (label, images) in enumerate(section.rows):
        lines = _wrap(label, _TEXT_PT, _LABEL_PX - _GAP_PX)
        text_height = len(lines) * _line_height(_TEXT_PT)
        top = pen.y + max(0, (tile_px - text_height) // 2)
        pen.lines(lines, _MARGIN_PX, top, _TEXT_PT)
        for column, image in enumerate(images):
            x = _column_x(column, tile_px)
            pen.canvas.paste(_tile(image, tile_px), (x, pen.y))
            # A hairline keeps white pictures apart from the light sheet.
            box = (x - 1, pen.y - 1, x + tile_px, pen.y + tile_px)
            pen.drawing.rectangle(box, outline=_LINE)
        pen.y += max(tile_px, text_height)
        if section.notes:
            pen.y += _GAP_PX // 3
            _draw_in_columns(pen, section.notes[row], tile_px)
        pen.y += _GAP_PX


def _draw_in_columns(pen: _Pen, texts: Sequence[str], tile_px: int) -> None:
    """Texts centred in their columns, their last lines on one level."""
    wrapped = [_wrap(text, _TEXT_PT, tile_px) for text in texts]
    tallest = max((len(lines) for lines in wrapped), default=0)
    height = _line_height(_TEXT_PT)
    for column, lines in enumerate(wrapped):
        y = pen.y + (tallest - len(lines)) * height
        for line in lines:
            indent = round((tile_px - _font(_TEXT_PT).getlength(line)) / 2)
            pen.lines([line], _column_x(column, tile_px) + indent, y, _TEXT_PT)
            y += height
    pen.y += tallest * height + 6


def _tile(image: np.ndarray, tile_px: int) -> Image.Image:
    picture = Image.fromarray(np.asarray(image, np.uint8))
    grows = max(picture.size) <= tile_px
    resample = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
    return picture.resize((tile_px, tile_px), resample)


def _column_x(column: int, tile_px: int) -> int:
    return _MARGIN_PX + _LABEL_PX + column * (tile_px + _GAP_PX)


def _sheet_width(sections: Sequence[Section], tile_px: int) -> int:
    columns = max((len(section.column_titles) for section in sections), default=0)
    return max(_MIN_WIDTH_PX, _column_x(columns, tile_px) - _GAP_PX + _MARGIN_PX)


def _check_rows(section: Section) -> None:
    for label, images in section.rows:
        if len(images) != len(section.column_titles):
            raise ValueError(
                f"row {label!r} of section {section.title!r} has {len(images)} "
                f"pictures for {len(section.column_titles)} columns"
            )
    expected = [len(images) for _, images in section.rows]
    if section.notes and [len(texts) for texts in section.notes] != expected:
        raise ValueError(f"section {section.title!r} has not one note a picture")


def _wrap(text: str, size: int, width_px: int) -> list[str]:
    """Lines no wider than width_px; a newline starts one, a longer word is broken."""
    return [
        line for part in text.splitlines() for line in _wrap_line(part, size, width_px)
    ]


def _wrap_line(text: str, size: int, width_px: int) -> list[str]:
    font, lines = _font(size), [""]
    for part in (
        part for word in text.split() for part in _parts(word, font, width_px)
    ):
        joined = f"{lines[-1]} {part}".strip()
        if font.getlength(joined) <= width_px:
            lines[-1] = joined
        else:
            lines.append(part)
    return [line for line in lines if line]


def _parts(word: str, font: ImageFont.FreeTypeFont, width_px: int) -> list[str]:
    if font.getlength(word) <= width_px:
        return [word]
    letters = max(1, int(width_px / font.getlength("m")))
    return textwrap.wrap(word, letters)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def _line_height(size: int) -> int:
    return round(size * 1.35)
