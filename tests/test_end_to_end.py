"""The whole way with pictures of one's own: train, export, sample, repaint."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from glide_jax.cli import main
from glide_jax.runtime import metric_writers
from tests import fake_devices

EXPERIMENTS = fake_devices.ROOT / "experiments" / "configs"
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}
# The tiny size is for minutes of training; here every step is to take milliseconds.
TEXT2IM = {
    "model.num_channels": 32,
    "model.channel_mult": (1,),
    "model.num_res_blocks": 1,
    "model.attention_px": (),
    "model.head_channels": 32,
    "model.text_context": 8,
    "model.text_width": 32,
    "model.text_layers": 1,
    "model.text_heads": 2,
}
BASE = {**TEXT2IM, "model.image_px": 8, "sample.respacing": "3"}
UPSAMPLER = {
    **TEXT2IM,
    "model.image_px": 16,
    "model.low_res_px": 8,
    "sample.respacing": "3",
}
CLIP = {
    "model.image_px": 8,
    "model.image_width": 32,
    "model.image_layers": 1,
    "model.image_heads": 2,
    "model.text_context": 8,
    "model.text_width": 32,
    "model.text_layers": 1,
    "model.text_heads": 2,
    "model.embed_dim": 16,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> pathlib.Path:
    """24 pictures that are no squares, each with its caption beside it."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(24):
        name, colour = list(COLOURS.items())[i % 3]
        pixels = np.full((20, 28, 3), colour, np.uint8)
        pixels ^= rng.integers(0, 16, pixels.shape, np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"number {i}, a {name} wall\n")
    return folder


@pytest.fixture(scope="module")
def bundles(photos, tmp_path_factory) -> dict[str, pathlib.Path]:
    """Every phase but the inpainting upsampler, trained and exported."""
    runs = tmp_path_factory.mktemp("runs")

    def phase(name, experiment, sizes, init_from="", **more):
        changes = {
            **sizes,
            "data.sources": (f"folder:{photos}",),
            "data.validation_sources": (f"folder:{photos}",),
            "train.num_steps": 3,
            "train.global_batch_size": 4,
            "train.init_from": str(runs / init_from) if init_from else "",
            "optim.warmup_steps": 1,
            "log.every_steps": 1,
            "log.validation_examples": 4,
            **more,
        }
        config = f"--config={EXPERIMENTS / experiment}.py:tiny"
        flags = [f"--config.{key}={value}" for key, value in changes.items()]
        workdir = runs / name
        assert main.run(["train", config, f"--workdir={workdir}", *flags]) == 0
        assert main.run(["export", str(workdir)]) == 0
        rows = metric_writers.read_metrics(workdir / "metrics.jsonl")
        assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
        assert all(np.isfinite(list(row.values())).all() for row in rows)
        return workdir / "bundle"

    grid = {"log.grid_every_steps": 3, "log.grid_images": 2}
    found = {
        "base": phase("base", "base64", BASE, **grid),
        "cfg": phase("cfg", "base64_cfg", BASE, "base"),
        "inpaint": phase("inpaint", "base64_inpaint", BASE, "cfg"),
        "upsampler": phase("upsampler", "upsample256", UPSAMPLER),
        "clip": phase("clip", "noised_clip64", CLIP),
    }
    # Two real pictures above what was made of their captions, side by side.
    drawn = Image.open(runs / "base" / "grids" / "00000003.png")
    assert drawn.width >= 2 * 8
    assert drawn.height >= 2 * 8
    return found


def read(path: pathlib.Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.slow
def test_prompts_become_large_pictures_with_a_record(bundles, tmp_path):
    argv = [
        "sample",
        f"--base={bundles['cfg']}",
        f"--upsampler={bundles['upsampler']}",
        f"--clip={bundles['clip']}",
        "--guidance_mode=cfg+clip",
        "--guidance_scale=2",
        "--prompt=a red wall",
        "--prompt=a blue wall",
        "--upsampler_respacing=2",
        f"--output={tmp_path}",
    ]
    assert main.run(argv) == 0
    record = json.loads((tmp_path / "samples.json").read_text())
    assert [entry["prompt"] for entry in record["images"]] == argv_prompts(argv)
    assert record["bundles"].keys() == {"base", "upsampler", "clip"}
    for entry in record["images"]:
        assert read(tmp_path / entry["file"]).shape == (16, 16, 3)
        assert read(tmp_path / entry["base_file"]).shape == (8, 8, 3)


def argv_prompts(argv: list[str]) -> list[str]:
    return [a.removeprefix("--prompt=") for a in argv if a.startswith("--prompt=")]


@pytest.mark.slow
def test_a_masked_part_is_repainted_and_the_rest_is_kept(bundles, tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 255
    Image.fromarray(picture).save(tmp_path / "picture.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    argv = [
        "inpaint",
        f"--base={bundles['inpaint']}",
        f"--image={tmp_path / 'picture.png'}",
        f"--mask={tmp_path / 'mask.png'}",
        "--prompt=a green wall",
        f"--output={tmp_path / 'out'}",
    ]
    assert main.run(argv) == 0
    result = read(tmp_path / "out" / "000000.png")
    known = mask == 0
    np.testing.assert_array_equal(result[known], picture[known])
    assert (result[~known] != picture[~known]).any()
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["images"][0]["prompt"] == "a green wall"
