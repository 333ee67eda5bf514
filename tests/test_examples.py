"""The scripts of examples/ run at toy size, and the notebook has alternative texts."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
from PIL import Image

from glide_jax.checkpoint import bundle
from tests import fake_devices

# The folder with bundles of toy size, and its tokenizer.
from tests.test_documentation import tokenizer, world  # noqa: F401

EXAMPLES = fake_devices.ROOT / "examples"
BUNDLES = "runs/quickstart/bundles"


def run(folder: pathlib.Path, script: str, *words: str) -> str:
    """Runs a script in a folder; returns its standard output."""
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *words],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(fake_devices.ROOT),
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


@pytest.mark.slow
def test_a_model_is_trained_on_a_folder_and_exported(tmp_path):
    words = ("--num_pictures=32", "--num_steps=2")
    run(tmp_path, "train_on_a_folder.py", *words)
    assert len(list((tmp_path / "photos").glob("*.txt"))) == 32
    assert bundle.is_bundle(tmp_path / "runs" / "example" / "bundle")


@pytest.mark.slow
def test_a_bundle_is_finetuned(world, tmp_path):  # noqa: F811
    words = (
        f"--bundle={world}/{BUNDLES}/base_cfg",
        f"--source=folder:{world}/photos",
        f"--workdir={tmp_path}/finetune",
        *("--num_steps=1", "--batch_size=2"),
    )
    run(tmp_path, "finetune_a_bundle.py", *words)
    trained = bundle.read_bundle(tmp_path / "finetune" / "bundle")
    before = bundle.read_bundle(world / BUNDLES / "base_cfg")
    assert set(bundle.flatten(trained.params)) == set(bundle.flatten(before.params))


@pytest.mark.slow
def test_every_guidance_mode_is_drawn(world, tmp_path):  # noqa: F811
    words = (
        f"--base={world}/{BUNDLES}/base_cfg",
        f"--clip={world}/{BUNDLES}/noised_clip",
        *("--num_images=2", "--prompt=a red circle", f"--output={tmp_path}/modes"),
    )
    run(tmp_path, "sample_with_guidance.py", *words)
    grids = {path.stem: path for path in (tmp_path / "modes").iterdir()}
    assert set(grids) == {"none", "cfg", "clip", "cfg+clip"}
    for path in grids.values():
        with Image.open(path) as grid:
            assert grid.size == (32, 16)


@pytest.mark.slow
def test_a_sampler_of_ones_own_draws(world, tmp_path):  # noqa: F811
    words = (
        f"--base={world}/{BUNDLES}/base_cfg",
        *("--prompt=a red circle", "--num_images=2", "--num_steps=3"),
    )
    text = run(tmp_path, "write_a_sampler.py", *words)
    assert "rows ddim, own" in text
    with Image.open(tmp_path / "out" / "samplers.png") as grid:
        assert grid.size == (32, 32)


def test_the_notebook_has_no_outputs_and_its_pictures_have_an_alternative_text():
    notebook = json.loads((EXAMPLES / "denoising.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells
    for cell in cells:
        assert cell["outputs"] == []
        # The cells that call show(); the one that only defines it has other lines too.
        if any(line.lstrip().startswith("show(") for line in cell["source"]):
            assert len(cell["metadata"]["mystnb"]["image"]["alt"]) > 10
