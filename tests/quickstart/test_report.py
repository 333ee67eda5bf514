"""report.json and samples.png from what was measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from glide_jax.quickstart import measure, phases, report
from glide_jax.runtime import ledger

# What a tool that reads the report relies on.
REPORT = {"wall_seconds", "phases", "checker_on_real", "modes", "upsampled", "inpaint"}
PHASE = {"seconds", "steps", "loss_first", "loss_last"}
MODES = {"unguided", "cfg", "clip", "cfg+clip"}
SHARES = {"colour", "shape", "background"}
INPAINT = {"filled_as_asked", "known_pixel_max_error"}


def assert_documented(found: dict) -> None:
    """Exactly these keys, at every level."""
    assert found.keys() == REPORT
    assert found["phases"].keys() == {phase.name for phase in phases.PHASES}
    for entry in found["phases"].values():
        assert entry.keys() == PHASE
    assert found["modes"].keys() == MODES
    for entry in found["modes"].values():
        assert entry.keys() == SHARES | {"n"}
    assert found["checker_on_real"].keys() == SHARES
    assert found["upsampled"].keys() == SHARES
    assert found["inpaint"].keys() == INPAINT


@pytest.fixture
def measured(tmp_path):
    """A finished ledger and real pictures in place of drawn ones."""
    done = ledger.Ledger(tmp_path / "ledger.json")
    for phase in phases.PHASES:
        done.finish(phase.name, {"steps": 1, "loss_first": 1.0, "loss_last": 0.5})
    shares = {"colour": 1.0, "shape": 0.5, "background": 0.5}
    results = {name: {**shares, "n": 4} for name in MODES}
    results |= {"checker_on_real": shares, "upsampled": shares}
    results["inpaint"] = {"filled_as_asked": 0.25, "known_pixel_max_error": 0.0}
    small, _ = measure.held_out(4, 16)
    large, _ = measure.held_out(4, 64)
    pictures = {name: {"drawn": small} for name in MODES}
    pictures["upsampled"] = {"drawn": large}
    pictures["inpaint"] = {"originals": large, "small": small, "large": large}
    (tmp_path / "pictures").mkdir()
    for name, result in results.items():
        done.finish(name, result)
    for name, arrays in pictures.items():
        np.savez(tmp_path / "pictures" / f"{name}.npz", **arrays)
    return tmp_path, done, measure.Measurements(tmp_path, done, measure.Counts())


def test_the_report_has_the_documented_keys_and_the_sheet_is_a_picture(measured):
    report.write(*measured)
    root = measured[0]
    assert_documented(json.loads((root / "report.json").read_text()))
    sheet = np.asarray(Image.open(root / "samples.png"))
    assert sheet.ndim == 3
    assert sheet.std() > 10


def test_the_tables_name_every_phase_and_mode_with_its_figures(measured):
    lines = report.as_text(report.write(*measured)).splitlines()
    rows = {line[:20].strip(): line[20:].split() for line in lines}
    for phase in phases.PHASES:
        assert rows[phase.name] == ["1", "0.0", "1.0000", "0.5000"]
    for name in {*MODES, "real pictures", "upsampled"}:
        assert rows[name] == ["100%", "50%", "50%"]
    assert "25% filled" in lines[-1]


def test_nothing_that_is_done_is_measured_again(measured, caplog):
    caplog.set_level("INFO")
    root, _, measurements = measured
    before = (root / "ledger.json").read_text()
    measurements.run()  # there is no model to ask
    assert (root / "ledger.json").read_text() == before
    assert caplog.messages == ["sampling and scoring: already done"]


def test_a_share_of_the_pictures_is_at_least_two():
    assert measure.Counts().of(256) == 256
    assert measure.Counts(0.25).of(256) == 64
    assert measure.Counts(0.001).of(256) == 2


def test_the_hole_is_in_the_middle_and_covers_its_share():
    mask = measure.hole_mask(64)
    assert mask.shape == (64, 64)
    np.testing.assert_array_equal(mask, mask[::-1, ::-1])
    rows = np.flatnonzero((mask == 0).any(axis=1))
    assert len(rows) == 64 * measure.HOLE_FRACTION
    # On the grid of the base model it could not show pixels lost at the edge.
    assert rows[0] % 4


def test_the_hole_covers_every_object_it_erases():
    originals, _ = measure.inpainting_requests(32, 64)
    kept = originals[:, measure.hole_mask(64) == 1]
    assert (kept == kept[:, :1]).all()


def test_what_is_asked_for_stands_on_the_ground_that_stays():
    originals, asked = measure.inpainting_requests(5, 64)
    assert originals.shape == (5, 64, 64, 3)
    again, _ = measure.inpainting_requests(5, 64)
    np.testing.assert_array_equal(originals, again)
    assert {scene.size for scene in asked} == {"small"}
