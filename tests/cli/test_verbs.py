"""The verbs that prepare: data, and a training's dry run."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image

from glide_jax.cli import main
from glide_jax.data import sources, transforms
from glide_jax.hooks import sample_grids
from glide_jax.sample import stage
from glide_jax.text import tokenizers
from glide_jax.train import setup
from tests import fake_devices

BASE64 = fake_devices.ROOT / "experiments" / "configs" / "base64.py"


def test_a_dry_run_counts_parameters_and_allocates_and_writes_nothing(tmp_path, capsys):
    before = sum(array.nbytes for array in jax.live_arrays())
    # The data lie on the machine that this is planned for.
    flags = [f"--config={BASE64}:released", "--config.seed=5", "--dry_run"]
    flags += ["--devices=1"]
    assert main.run(["train", *flags, f"--workdir={tmp_path / 'run'}"]) == 0
    text = capsys.readouterr().out
    assert "parameters: 385,030,726" in text
    assert '"seed": 5' in text
    assert "unet/stem/kernel" in text
    # Parameters, two moments and one average of four bytes each.
    total = f"{(4 * 4 * 385_030_726 + 4) / 2**20:,.1f} MiB"  # and Adam's counter
    assert text.index("total") < text.index(total) < text.index("shardings:")
    assert not (tmp_path / "run").exists()
    # A few scalars such as a key may be left; the model would be 1.5 GB.
    assert sum(array.nbytes for array in jax.live_arrays()) < before + 10_000


def test_a_dry_run_plans_for_more_devices_than_there_are(capsys):
    flags = [f"--config={BASE64}:paper", "--dry_run", "--devices=16"]
    assert main.run(["train", *flags]) == 0
    text = capsys.readouterr().out
    assert "mesh: {'data': 2, 'fsdp': 8, 'tensor': 1}" in text
    kernel = next(line for line in text.splitlines() if "attn_qkv/kernel" in line)
    assert kernel.endswith("P(None, None, 'fsdp')")


def test_a_dry_run_of_what_could_start_here_passes(experiment, workdir, capsys):
    flags = [f"--config={experiment}", f"--config.train.init_from={workdir}"]
    assert main.run(["train", *flags, "--dry_run"]) == 0
    assert "state per device" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dropped", "mode"), [(0.0, "none"), (0.2, "cfg")], ids=["never", "sometimes"]
)
def test_grids_are_guided_where_the_empty_caption_is_trained(
    make_config, tmp_path, monkeypatch, dropped, mode
):
    asked = []
    make_program = stage.make_program

    def make(config, fns, settings):
        asked.append(settings.guidance_mode)
        return make_program(config, fns, settings)

    monkeypatch.setattr(stage, "make_program", make)
    changes = {
        "data.validation_sources": ("shapes:quickstart",),
        "log.validation_examples": 4,
        "train.caption_drop_prob": dropped,
    }
    run, _ = setup.prepare(make_config(changes=changes), tmp_path)
    run.checkpoints.close()
    sample_grids.make(run)
    assert asked == [mode]


def test_a_tokenizer_is_trained_from_the_captions_of_a_source(tmp_path, capsys):
    flags = ["--source=shapes:quickstart", "--vocab_size=300", "--max_captions=200"]
    assert main.run(["data", "tokenizer", *flags, f"--output={tmp_path}"]) == 0
    tokenizer = tokenizers.load(tmp_path)
    assert f"{tokenizer.vocab_size} pieces" in capsys.readouterr().out
    tokens, mask = tokenizer.encode_batch(["a small red circle"], 16)
    assert mask.any()
    assert tokens.max() < 300


@pytest.fixture
def pictures(tmp_path):
    """A folder of five captioned pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        shade = np.full((8, 8, 3), 50 * i, np.uint8)
        Image.fromarray(shade).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"shade {i}")
    return folder


def test_records_built_from_a_folder_hold_its_pictures_and_captions(
    pictures, tmp_path, capsys
):
    flags = [f"--source=folder:{pictures}", "--name=shades"]
    assert main.run(["data", "build", *flags, f"--output={tmp_path / 'out'}"]) == 0
    told = capsys.readouterr().out
    spec = told.strip().partition("--config.data.sources=")[2].strip("'")
    assert spec.startswith("tfds:")
    records = sources.open_source(spec)
    examples = [records[i] for i in range(len(records))]
    assert sorted(e.caption for e in examples) == [f"shade {i}" for i in range(5)]
    for example in examples:
        shade = transforms.load_image(example, 8)
        level = 50 * int(example.caption.removeprefix("shade "))
        np.testing.assert_allclose(shade, level / 127.5 - 1, atol=1e-6)
