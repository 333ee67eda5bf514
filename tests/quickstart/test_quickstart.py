"""`glide quickstart`, from nothing to its picture."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from glide_jax.cli import main
from glide_jax.quickstart import phases
from glide_jax.runtime import ledger
from tests.quickstart.test_report import assert_documented


@pytest.mark.slow
def test_the_quickstart_ends_with_its_files_and_started_again_does_nothing(tmp_path):
    argv = ["quickstart", f"--output={tmp_path}", "--scale=0.001"]
    assert main.run(argv) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert_documented(report)
    for phase in phases.PHASES:
        steps = phases.load_config(phase, tmp_path, 0.001).train.num_steps
        assert report["phases"][phase.name]["steps"] == steps
    assert report["inpaint"]["known_pixel_max_error"] == 0
    sheet = Image.open(tmp_path / "samples.png")
    assert min(sheet.size) > 200

    spent = ledger.Ledger(tmp_path / "ledger.json").seconds()
    (tmp_path / "samples.png").unlink()
    assert main.run(argv) == 0
    assert ledger.Ledger(tmp_path / "ledger.json").seconds() == spent
    assert (tmp_path / "samples.png").exists()
    assert json.loads((tmp_path / "report.json").read_text()) == report
