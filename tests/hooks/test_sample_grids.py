"""Grids of a training run: real pictures, what the model is given, what it draws."""

from __future__ import annotations

import dataclasses

import numpy as np

from glide_jax.eval import contact_sheet
from glide_jax.hooks import sample_grids
from glide_jax.sample import image_io
from glide_jax.train import periodic_eval, setup
from tests.train import small_runs

FILLING = dataclasses.replace(small_runs.TEXT2IM, low_res_px=4, inpaint=True)


def test_a_grid_shows_each_picture_enlarged_in_its_row(make_config, tmp_path):
    changes = {
        "data.validation_sources": ("shapes:quickstart",),
        "log.validation_examples": 4,
        "log.grid_images": 2,
        "data.low_res_corruption": "none",
        "sample.respacing": "2",
    }
    run, state = setup.prepare(make_config(FILLING, changes), tmp_path)
    run.checkpoints.close()
    sheet = sample_grids.make(run)(periodic_eval.first_average(run, state))
    real = image_io.to_pixels(run.grid["image"])
    mask = run.grid["inpaint_mask"]
    known = np.where(mask > 0, real, sample_grids.HOLE_LEVEL)
    assert (mask == 0).any()
    rows = [real, image_io.to_pixels(run.grid["low_res"]), known]
    places = [place(sheet, row[column]) for row in rows for column in range(2)]
    assert [y for y, _ in places] == sorted(y for y, _ in places)
    assert places[0][0] == places[1][0] < places[2][0] < places[4][0]
    assert places[0][1] == places[2][1] == places[4][1] < places[1][1]
    assert sheet.shape[0] > places[4][0] + 2 * contact_sheet.TILE_PX, "what it drew"


def place(sheet: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """Where the first tile is (y, x) that shows this picture, enlarged."""
    side = contact_sheet.TILE_PX
    tile = picture.repeat(side // len(picture), 0).repeat(side // len(picture), 1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (side, side, 3))
    corners = np.argwhere((sheet[: 1 - side, : 1 - side] == tile[0, 0]).all(-1))
    for y, x in corners:
        if np.array_equal(windows[y, x, 0], tile):
            return y, x
    raise AssertionError("the sheet lacks the picture")
