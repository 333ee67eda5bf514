"""`glide quickstart`, from nothing to its picture."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from glide_jax.cli import main
from glide_jax.config import resolve
from glide_jax.quickstart import phases
from glide_jax.runtime import ledger
from tests.quickstart.test_report import assert_documented


@pytest.fixture
def few_operations(monkeypatch):
    """One level for each U-Net, and few timesteps: most of the time is compilation."""
    load_config = phases.load_config

    def load(phase, root, scale):
        config = load_config(phase, root, scale)
        changes = {"sample.respacing": "5"}
        if phase.name != "noised_clip":
            changes |= {"model.channel_mult": (1,), "model.attention_px": ()}
        return resolve.override(config, changes)

    monkeypatch.setattr(phases, "load_config", load)


@pytest.mark.slow
@pytest.mark.usefixtures("few_operations")
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
