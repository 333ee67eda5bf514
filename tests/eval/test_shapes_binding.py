"""The command of the binding benchmark, from nothing to its table and sheet."""

from __future__ import annotations

import importlib.util
import json

import pytest
from PIL import Image

from glide_jax.config import experiments, resolve
from glide_jax.runtime import ledger
from tests import fake_devices

SCRIPT = fake_devices.ROOT / "experiments" / "figures" / "shapes_binding.py"


@pytest.fixture
def script(monkeypatch):
    """The script, with one level in its U-Net and few timesteps."""
    spec = importlib.util.spec_from_file_location("shapes_binding", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    load = experiments.load

    def load_small(name, size):
        changes = {
            "model.channel_mult": (1,),
            "model.attention_px": (),
            "model.text_layers": 1,
            "train.global_batch_size": 2,
            "log.validation_examples": 2,
            "sample.respacing": "3",
        }
        return resolve.override(load(name, size), changes)

    monkeypatch.setattr(module.experiments, "load", load_small)
    return module


def test_the_captions_are_unseen_pairs_with_the_number_of_objects(script):
    for num_objects, count in script.CAPTIONS.items():
        scenes = script.held_out(num_objects, 1.0)
        assert len(scenes) == count
        pairs = {(scene.colour, scene.shape) for scene in scenes}
        assert pairs == set(script.shapes_world.HELD_OUT_PAIRS)
        assert all(len(scene.objects) == num_objects for scene in scenes)


@pytest.mark.slow
def test_the_benchmark_ends_with_its_files_and_started_again_does_nothing(
    script, tmp_path
):
    assert script.main(tmp_path, 0.001) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").open()]
    assert [(row["objects"], row["guidance_scale"]) for row in rows] == [
        (count, scale) for count in script.CAPTIONS for scale in script.SCALES
    ]
    for row in rows:
        assert sum(row["outcomes"].values()) == pytest.approx(1, abs=1e-12)
        is_real = row["guidance_scale"] is None
        assert not is_real or row["outcomes"]["right"] == 1
    table = (tmp_path / "table.md").read_text()
    assert "| real pictures | 0.0% | 0.0% | 100.0% |" in table
    assert min(Image.open(tmp_path / "samples.png").size) > 200

    spent = ledger.Ledger(tmp_path / "ledger.json").seconds()
    assert script.main(tmp_path, 0.001) == 0
    assert ledger.Ledger(tmp_path / "ledger.json").seconds() == spent
    with pytest.raises(script.UserError, match="--share"):
        script.main(tmp_path, 0.5)
