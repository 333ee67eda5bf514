"""Draws a labelled sheet of pictures.

A sheet is a title, a few lines of explanation and sections. A section is a table of
pictures with a caption at the left of each row and a title above each column.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib import ft2font
from PIL import Image, ImageDraw, ImageFont

from glide_jax.runtime import wording

TILE_PX = 128  # a whole multiple of 16, 32, 64 and 128 px pictures
MAX_TILE_PX = 512  # of a picture in a grid
NOTE_LINES = 5  # of the text underneath a picture; a longer one is shortened
_MAX_LABEL_PX = 200
_GAP_PX = 14
_MARGIN_PX = 24
_MIN_WIDTH_PX = 760  # of a sheet that has a title

_BACKGROUND = (250, 250, 248)
_INK = (28, 28, 30)
_QUIET_INK = (96, 96, 102)
_LINE = (214, 214, 210)

# Latin, Greek and Cyrillic; comes with matplotlib.
_FONT = pathlib.Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")

_TITLE_PT, _HEADING_PT, _TEXT_PT, _NOTE_PT = 25, 18, 13, 12


@dataclasses.dataclass(frozen=True)
class Section:
    """One table of pictures.

    Attributes:
      title: Heading of the section; may be empty.
      note: One or two sentences that explain the section; may be empty.
      column_titles: Titles above the columns; may contain newlines.
      rows: (caption, pictures) from top to bottom; a picture is uint8 (H, W, 3)
        of any size and fills a square tile, or its width or height; None leaves
        its place empty.
      notes: Texts below the pictures of each row, in small letters, each of at
        most NOTE_LINES lines; none by default.
    """

    title: str
    note: str
    column_titles: Sequence[str]
    rows: Sequence[tuple[str, Sequence[np.ndarray | None]]]
    notes: Sequence[Sequence[str]] = ()


def whole_tile_px(picture_px: int) -> int:
    """Returns the smallest multiple of a picture's side that is at least TILE_PX."""
    return picture_px * -(-TILE_PX // picture_px)


def draw_grid(
    pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int
) -> np.ndarray:
    """Returns pictures with their captions, row by row, as uint8 (H, W, 3).

    A caption is at the left of its row if all pictures of the row have it, otherwise
    below its picture. Pictures are enlarged by a whole factor, at least to TILE_PX on
    their longer side; larger ones keep their size, up to MAX_TILE_PX.

    Args:
      pictures: uint8 (H, W, 3), of any sizes.
      captions: One for each picture.
      columns: Pictures in a row; the last row may have fewer.
    """
    starts = range(0, len(pictures), columns)
    captions_of = [list(captions[start : start + columns]) for start in starts]
    is_shared = columns > 1 and all(len(set(row)) == 1 for row in captions_of)
    rows, notes = [], []
    for start, row in zip(starts, captions_of, strict=True):
        empty = columns - len(row)
        shown = [*pictures[start : start + columns], *[None] * empty]
        rows.append((row[0] if is_shared else "", shown))
        notes.append([*row, *[""] * empty])
    titles = [""] * columns
    section = Section("", "", titles, rows, () if is_shared else notes)
    longest = max(max(picture.shape[:2]) for picture in pictures)
    tile_px = min(whole_tile_px(longest), MAX_TILE_PX)
    return draw_contact_sheet("", "", [section], tile_px=tile_px)


def draw_contact_sheet(
    title: str, note: str, sections: Sequence[Section], *, tile_px: int = TILE_PX
) -> np.ndarray:
    """Returns the sheet as uint8 (H, W, 3).

    Args:
      title: Title of the sheet; may be empty.
      note: Explanation, wrapped to the width of the sheet; may be empty.
      sections: Tables, from top to bottom.
      tile_px: Side of every tile; smaller pictures are enlarged by nearest
        neighbour (their pixels stay visible), larger ones reduced.

    Raises:
      ValueError: A row has not one picture for each column, or not one note for
        each picture.
    """
    for section in sections:
        _check_rows(section)
    labels = [label for section in sections for label, _ in section.rows]
    _warn_of_boxes([title, note, *labels, *_texts(sections)])
    layout = _Layout(tile_px, _label_px(labels))
    columns = max((len(section.column_titles) for section in sections), default=0)
    width = layout.column_x(columns) - _GAP_PX + _MARGIN_PX
    width = max(width, _MIN_WIDTH_PX) if title else width
    # The first pass, on a canvas of one line, measures the height for the second.
    height = _draw(_Pen(width, 1), title, note, sections, layout)
    pen = _Pen(width, height)
    _draw(pen, title, note, sections, layout)
    return np.asarray(pen.canvas)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Sizes of a sheet."""

    tile_px: int
    label_px: int  # their gap to the pictures included

    def column_x(self, column: int) -> int:
        return _MARGIN_PX + self.label_px + column * (self.tile_px + _GAP_PX)


class _Pen:
    """A canvas and the y coordinate at which drawing continues."""

    def __init__(self, width: int, height: int):
        self.canvas = Image.new("RGB", (width, height), _BACKGROUND)
        self.drawing = ImageDraw.Draw(self.canvas)
        self.width = width
        self.y = _MARGIN_PX

    def paragraph(self, text: str, size: int, ink=_INK) -> None:
        """Draws text over the whole width, and moves below it."""
        lines = _wrap(text, size, self.width - 2 * _MARGIN_PX)
        self.y = self.lines(lines, _MARGIN_PX, self.y, size, ink)

    def lines(self, lines: list[str], x: int, y: int, size: int, ink=_INK) -> int:
        """Draws left-aligned lines from (x, y); returns y below the last line."""
        font = _font(size)
        for line in lines:
            self.drawing.text((x, y), line, font=font, fill=ink)
            y += _line_height(size)
        return y


def _draw(
    pen: _Pen, title: str, note: str, sections: Sequence[Section], layout: _Layout
) -> int:
    """Draws the sheet and returns its height."""
    pen.paragraph(title, _TITLE_PT)
    pen.y += 4 if title else 0
    pen.paragraph(note, _TEXT_PT, _QUIET_INK)
    for number, section in enumerate(sections):
        if title or note or number:
            pen.y += _GAP_PX
            pen.drawing.line(
                [(_MARGIN_PX, pen.y), (pen.width - _MARGIN_PX, pen.y)], fill=_LINE
            )
            pen.y += _GAP_PX
        _draw_section(pen, section, layout)
    return pen.y - _GAP_PX + _MARGIN_PX


def _draw_section(pen: _Pen, section: Section, layout: _Layout) -> None:
    pen.paragraph(section.title, _HEADING_PT)
    pen.paragraph(section.note, _TEXT_PT, _QUIET_INK)
    pen.y += _GAP_PX // 2 if section.title or section.note else 0
    titles = [_wrap(text, _TEXT_PT, layout.tile_px) for text in section.column_titles]
    tallest = max(map(len, titles), default=0)
    # The last lines of all titles are on one level, next to the pictures.
    titles = [[""] * (tallest - len(lines)) + lines for lines in titles]
    _draw_in_columns(pen, titles, _TEXT_PT, layout)
    for row, (label, images) in enumerate(section.rows):
        lines = _wrap(label, _TEXT_PT, layout.label_px - _GAP_PX)
        text_height = len(lines) * _line_height(_TEXT_PT)
        top = pen.y + max(0, (layout.tile_px - text_height) // 2)
        pen.lines(lines, _MARGIN_PX, top, _TEXT_PT)
        for column, image in enumerate(images):
            if image is not None:
                _paste(pen, image, layout.column_x(column), layout.tile_px)
        pen.y += max(layout.tile_px, text_height)
        if section.notes:
            pen.y += _GAP_PX // 3
            notes = [
                _shorten(_wrap(text, _NOTE_PT, layout.tile_px), layout.tile_px)
                for text in section.notes[row]
            ]
            _draw_in_columns(pen, notes, _NOTE_PT, layout)
        pen.y += _GAP_PX


def _draw_in_columns(
    pen: _Pen, texts: Sequence[list[str]], size: int, layout: _Layout
) -> None:
    """Draws lines centred in their columns, with a gap below."""
    tallest = max(map(len, texts), default=0)
    font = _font(size)
    for column, lines in enumerate(texts):
        y = pen.y
        for line in lines:
            indent = round((layout.tile_px - font.getlength(line)) / 2)
            y = pen.lines([line], layout.column_x(column) + indent, y, size)
    pen.y += tallest * _line_height(size) + 6 if tallest else 0


def _paste(pen: _Pen, image: np.ndarray, x: int, tile_px: int) -> None:
    """Pastes a picture into the middle of the tile whose left edge is x."""
    picture = Image.fromarray(np.asarray(image, np.uint8))
    factor = tile_px / max(picture.size)
    resample = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    width, height = (max(1, round(side * factor)) for side in picture.size)
    x, y = x + (tile_px - width) // 2, pen.y + (tile_px - height) // 2
    pen.canvas.paste(picture.resize((width, height), resample), (x, y))
    # An outline separates white pictures from the light sheet.
    pen.drawing.rectangle((x - 1, y - 1, x + width, y + height), outline=_LINE)


def _label_px(labels: Sequence[str]) -> int:
    """Returns the width of the longest label and a gap, at most _MAX_LABEL_PX."""
    longest = max(map(_font(_TEXT_PT).getlength, labels), default=0)
    return min(_MAX_LABEL_PX, math.ceil(longest) + _GAP_PX) if longest else 0


def _check_rows(section: Section) -> None:
    for label, images in section.rows:
        if len(images) != len(section.column_titles):
            raise ValueError(
                f"row {label!r} of section {section.title!r} has {len(images)} "
                f"pictures for {len(section.column_titles)} columns"
            )
    expected = [len(images) for _, images in section.rows]
    if section.notes and [len(texts) for texts in section.notes] != expected:
        raise ValueError(f"section {section.title!r} needs one note for each picture")


def _wrap(text: str, size: int, width_px: int) -> list[str]:
    """Splits text into lines of at most width_px; longer words are broken."""
    return [
        line for part in text.splitlines() for line in _wrap_line(part, size, width_px)
    ]


def _shorten(lines: list[str], width_px: int) -> list[str]:
    """Returns the first NOTE_LINES lines; "..." marks that more follow."""
    if len(lines) <= NOTE_LINES:
        return lines
    last = lines[NOTE_LINES - 1]
    while _font(_NOTE_PT).getlength(f"{last}...") > width_px:
        last = last[:-1]
    return [*lines[: NOTE_LINES - 1], f"{last}..."]


def _wrap_line(text: str, size: int, width_px: int) -> list[str]:
    font, lines = _font(size), [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width_px:
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width_px:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line]


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_FONT, size=size)


def _texts(sections: Sequence[Section]) -> list[str]:
    """Every text of the sections except the labels of their rows."""
    texts = []
    for section in sections:
        texts += [section.title, section.note, *section.column_titles]
        texts += [text for row in section.notes for text in row]
    return texts


def _warn_of_boxes(texts: Sequence[str]) -> None:
    """Logs the characters that the font lacks and a sheet therefore shows as boxes."""
    known = ft2font.FT2Font(_FONT).get_charmap()
    missing = {c for text in texts for c in text if not c.isspace()}
    missing = sorted(c for c in missing if ord(c) not in known)
    if missing:
        logging.warning(
            "%s of the captions (%.40s) are not in the sheet's font and appear as "
            "boxes; the files beside it keep the whole text",
            wording.counted(len(missing), "character"),
            "".join(missing),
        )


def _line_height(size: int) -> int:
    return round(size * 1.35)
