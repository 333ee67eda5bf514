"""The contact sheet shows every picture, whole, under its title."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from glide_jax.eval import contact_sheet

COLOURS = [(200, 0, 0), (0, 180, 0), (0, 0, 220), (200, 0, 200)]


def make_section(pictures, columns):
    rows = [(f"row {row}", images) for row, images in enumerate(pictures)]
    return contact_sheet.Section("Title", "A note.", columns, rows)


def plain(px, colour):
    return np.full((px, px, 3), colour, np.uint8)


def count(sheet, colour):
    return int((sheet == np.array(colour, np.uint8)).all(axis=-1).sum())


def test_every_picture_fills_its_tile_whatever_its_size():
    sizes = (16, 64, 128, 256)
    row = [plain(px, colour) for px, colour in zip(sizes, COLOURS, strict=True)]
    section = make_section([row], ["a", "b", "c", "d"])
    sheet = contact_sheet.draw_contact_sheet("Sheet", "Note.", [section])
    assert [count(sheet, colour) for colour in COLOURS] == [128 * 128] * 4


def test_small_pictures_keep_sharp_pixels():
    board = np.indices((16, 16)).sum(axis=0) % 2 * 255
    picture = np.repeat(board[..., None], 3, axis=-1).astype(np.uint8)
    section = make_section([[picture]], ["board"])
    sheet = contact_sheet.draw_contact_sheet("", "", [section])
    assert count(sheet, (255, 255, 255)) == count(sheet, (0, 0, 0)) == 128 * 64


def test_sections_are_stacked_vertically():
    one = make_section([[plain(8, COLOURS[0])]], ["one"])
    two = make_section([[plain(8, COLOURS[1])]], ["two"])
    sheet = contact_sheet.draw_contact_sheet("Sheet", "Note.", [one, two])
    tops = [
        np.flatnonzero((sheet == np.array(c, np.uint8)).all(-1).any(1))[0]
        for c in COLOURS[:2]
    ]
    assert tops[0] + 128 < tops[1]


def test_a_long_caption_makes_its_row_taller_and_stays_beside_the_picture():
    short = make_section([[plain(8, COLOURS[0])]], ["x"])
    rows = [("many long words about it " * 12, [plain(8, COLOURS[0])])]
    long = contact_sheet.Section("Title", "A note.", ["x"], rows)
    low, high = (
        contact_sheet.draw_contact_sheet("Sheet", "Note.", [section])
        for section in (short, long)
    )
    assert high.shape[0] > low.shape[0]
    assert count(high, COLOURS[0]) == 128 * 128


def test_a_newline_in_a_column_title_starts_a_line():
    one, two, wrapped = (
        contact_sheet.draw_contact_sheet(
            "", "", [make_section([[plain(8, COLOURS[0])]], [title])]
        ).shape[0]
        for title in ("a b", "a\nb", "cfg\n50% colour\n0% shape")
    )
    assert two - one == wrapped - two > 0


def test_notes_stand_below_their_pictures_and_make_the_sheet_taller():
    one, two = plain(8, COLOURS[0]), plain(8, COLOURS[1])
    bare = make_section([[one, two]], ["a", "b"])
    noted = dataclasses.replace(bare, notes=[["first", "second"]])
    sheets = [
        contact_sheet.draw_contact_sheet("", "", [section]) for section in (bare, noted)
    ]
    assert [count(sheet, COLOURS[1]) for sheet in sheets] == [128 * 128] * 2
    bottom = np.flatnonzero((sheets[1] == np.array(COLOURS[0], np.uint8)).all(-1))[-1]
    below = sheets[1][bottom // sheets[1].shape[1] + 2 :]
    assert (below.min(axis=-1) < 60).any(), "ink of the notes"
    assert sheets[1].shape[0] > sheets[0].shape[0]


def test_a_row_without_a_note_for_each_picture_is_refused():
    section = make_section([[plain(8, COLOURS[0])]], ["a"])
    section = dataclasses.replace(section, notes=[["first", "second"]])
    with pytest.raises(ValueError, match="one note for each picture"):
        contact_sheet.draw_contact_sheet("", "", [section])


def test_a_row_without_a_picture_for_each_column_is_refused():
    section = make_section([[plain(8, COLOURS[0])]], ["a", "b"])
    with pytest.raises(ValueError, match="1 pictures for 2 columns"):
        contact_sheet.draw_contact_sheet("Sheet", "Note.", [section])


def grid_of(captions, columns, px=64):
    pictures = [plain(px, colour) for colour in COLOURS[: len(captions)]]
    return contact_sheet.draw_grid(pictures, captions, columns)


def test_a_grid_enlarges_its_pictures_by_a_whole_factor():
    sides = {8: 128, 48: 144, 64: 128, 256: 256}
    for px, side in sides.items():
        sheet = grid_of(["one", "two", "three"], 2, px)
        assert [count(sheet, c) for c in COLOURS[:3]] == [side * side] * 3, px
        assert count(sheet, COLOURS[3]) == 0


def test_a_caption_of_a_whole_row_of_a_grid_stands_at_its_left():
    shared = grid_of(["one", "one", "two", "two"], 2)
    single = grid_of(["one", "two", "three", "four"], 2)
    left, further = (
        np.flatnonzero((sheet == np.array(COLOURS[0], np.uint8)).all(-1).any(0))[0]
        for sheet in (single, shared)
    )
    assert left < further
    assert shared.shape[0] < single.shape[0]


def test_a_picture_that_is_not_square_keeps_its_shape():
    wide = np.full((16, 32, 3), COLOURS[0], np.uint8)
    sheet = contact_sheet.draw_grid([wide, wide], ["a", "b"], 2)
    found = (sheet == np.array(COLOURS[0], np.uint8)).all(-1)
    assert (found.any(1).sum(), found.any(0).sum()) == (64, 2 * 128)


def test_a_long_caption_of_a_grid_is_shortened():
    words = [f"word{i} " * 20 for i in range(2)]
    sheets = [grid_of(texts, 2) for texts in (words, [text * 2 for text in words])]
    assert sheets[0].shape == sheets[1].shape


def test_a_word_that_is_too_wide_is_wrapped():
    key = "shard-00003.tar/000000123:photo_of_something"
    lines = contact_sheet._wrap(f"0.91 {key}", 13, 128)
    assert lines[0] == "0.91"
    assert "".join(lines[1:]) == key
