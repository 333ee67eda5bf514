"""`glide export`: a self-contained bundle, whose program runs without this package."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors
import yaml
from PIL import Image

from glide_jax.checkpoint import bundle
from glide_jax.cli import main
from glide_jax.config import resolve
from glide_jax.runtime import metric_writers
from glide_jax.text import tokenizers
from glide_jax.train import export

PROMPT = "a small red circle on a black background"

# What a machine with jax, flatbuffers and numpy has; jax brings ml_dtypes along.
BARE = """
import runpy, sys
from importlib import machinery

ALLOWED = {"jax", "jaxlib", "numpy", "ml_dtypes", "opt_einsum", "scipy", "flatbuffers"}

class OnlyAllowed:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        # The standard library's build settings have a name for each platform.
        is_standard = top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        if top in ALLOWED or is_standard:
            return machinery.PathFinder.find_spec(name, path, target)

sys.meta_path[:] = machinery.BuiltinImporter, machinery.FrozenImporter, OnlyAllowed()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def fixed(clip_bundle):
    """Flags of what is fixed in the program of these tests."""
    guidance = "--guidance_mode=cfg+clip", f"--clip={clip_bundle}"
    return [*guidance, "--sampler=ddim", "--respacing=3"]


@pytest.fixture(scope="module")
def exported(workdir, fixed, tmp_path_factory):
    """A bundle with a program."""
    output = tmp_path_factory.mktemp("exported") / "bundle"
    argv = ["export", str(workdir), f"--output={output}", "--program", *fixed]
    assert main.run([*argv, f"--prompt={PROMPT}"]) == 0
    return output


def run_bare(script, *flags):
    argv = [sys.executable, "-I", "-c", BARE, str(script), *map(str, flags)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def read(path):
    return np.asarray(Image.open(path), int)


def test_the_program_runs_without_this_package_and_draws_what_sample_draws(
    exported, fixed, tmp_path
):
    # Moved, so that nothing outside the bundle can be of use.
    moved = shutil.copytree(exported, tmp_path / "moved")
    done = run_bare(moved / "program" / "run.py", f"--output={tmp_path / 'bare'}")
    assert done.returncode == 0, done.stderr
    argv = ["sample", f"--base={exported}", *fixed, f"--output={tmp_path / 'ours'}"]
    assert main.run([*argv, f"--prompt={PROMPT}"]) == 0
    ours = read(tmp_path / "ours" / "000000.png")
    assert np.abs(read(tmp_path / "bare" / "000000.png") - ours).max() <= 1
    pixels = np.load(tmp_path / "bare" / "pixels.npy")
    np.testing.assert_array_equal(pixels[0], read(tmp_path / "bare" / "000000.png"))
    assert run_bare(exported / "program" / "run.py", "--help").returncode == 0
    for place, named in (("bare", "holds pictures"), ("https://b/x", "is a URL")):
        given = f"--output={place if '://' in place else tmp_path / place}"
        again = run_bare(moved / "program" / "run.py", given)
        assert again.returncode != 0
        assert named in again.stderr


def test_the_bare_environment_of_these_tests_has_none_of_our_packages(tmp_path):
    for name in ("glide_jax", "flax", "safetensors", "einops"):
        (tmp_path / "script.py").write_text(f"import {name}")
        done = run_bare(tmp_path / "script.py")
        assert f"No module named '{name}'" in done.stderr


@pytest.mark.slow
def test_tokens_given_as_json_are_drawn_without_this_package(exported, fixed, tmp_path):
    # Both models have the same tokenizer and context here.
    tokens, mask = tokenizers.load(exported).encode_batch(["a red square"] * 2, 8)
    given = dict.fromkeys(("tokens", "clip_tokens"), tokens.tolist())
    given |= dict.fromkeys(("text_mask", "clip_mask"), mask.tolist())
    given["seed"] = [7, 7]
    (tmp_path / "inputs.json").write_text(json.dumps(given))
    flags = f"--inputs={tmp_path / 'inputs.json'}", f"--output={tmp_path / 'bare'}"
    done = run_bare(exported / "program" / "run.py", *flags)
    assert done.returncode == 0, done.stderr
    flags = [*fixed, "--prompt=a red square", "--seed=7", "--num_images=2"]
    argv = ["sample", f"--base={exported}", *flags, f"--output={tmp_path / 'ours'}"]
    assert main.run(argv) == 0
    for name in ("000000.png", "000001.png"):
        difference = read(tmp_path / "bare" / name) - read(tmp_path / "ours" / name)
        assert np.abs(difference).max() <= 1


def test_an_exported_workdir_is_a_bundle_with_settings_and_tokenizer(
    workdir, tmp_path, capsys
):
    output = tmp_path / "bundle"
    assert main.run(["export", str(workdir), f"--output={output}", "--ema=0.5"]) == 0
    assert str(output) in capsys.readouterr().out
    content = bundle.read_bundle(output)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(content.params)} == {"bfloat16"}
    config = resolve.from_json(content.config_json)
    assert config == resolve.from_json((workdir / "config.json").read_text())
    assert (
        tokenizers.load(output).digest()
        == tokenizers.load(workdir / "tokenizer").digest()
    )
    assert not (output / "program").exists()
    assert not (output / "grid.png").exists()


def test_a_bundle_whose_weights_were_changed_is_refused(refused, workdir, tmp_path):
    copy = shutil.copytree(workdir / "bundle", tmp_path / "copy")
    content = bytearray((copy / "params.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "params.safetensors").write_bytes(content)
    line = refused("sample", "--base=copy", "--prompt=x", "--output=o")
    assert "params.safetensors is not the file that was exported" in line


def test_weights_are_float32_by_choice(workdir, tmp_path):
    argv = ["export", str(workdir), f"--output={tmp_path / 'b'}", "--dtype=float32"]
    assert main.run(argv) == 0
    params = bundle.read_bundle(tmp_path / "b").params
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}


@pytest.mark.parametrize(
    ("weights", "shares"), [([1.0], ("50%", "50%")), ([3.0, 1.0], ("75%", "25%"))]
)
def test_the_card_has_the_shares_of_a_mixture(workdir, tmp_path, weights, shares):
    run = shutil.copytree(workdir, tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())
    settings["data"] |= {
        "sources": ["shapes:quickstart", "shapes:full"],
        "weights": weights,
    }
    (run / "config.json").write_text(json.dumps(settings))
    assert main.run(["export", str(run), f"--output={tmp_path / 'b'}"]) == 0
    first, second = shares
    line = f"| data | {first} of shapes:quickstart, {second} of shapes:full |"
    assert line in (tmp_path / "b" / "README.md").read_text()


def test_the_card_describes_the_model(workdir, tmp_path):
    run = shutil.copytree(
        workdir, tmp_path / "run", ignore=shutil.ignore_patterns("bundle")
    )
    (run / "grids").mkdir()
    for step, shade in ((20, 9), (100, 200)):
        Image.new("RGB", (4, 4), (shade,) * 3).save(run / "grids" / f"{step:08d}.png")
    with (run / "metrics.jsonl").open("w") as file:
        for row in (
            {"step": 0, "time": 0.0, "validation/loss": 1.0},
            {"step": 1, "time": 0.0, "loss": 0.25},
            {"step": 2, "time": 0.0, "loss": 0.125, "validation/loss": 0.5},
        ):
            file.write(json.dumps(row) + "\n")
    assert metric_writers.read_metrics(run / "metrics.jsonl")[-1]["loss"] == 0.125
    assert main.run(["export", str(run), "--ema=0.5"]) == 0
    folder = run / "bundle"
    assert read(folder / "grid.png").max() == 200, "the newest grid"
    card = (folder / "README.md").read_text()
    count = sum(
        leaf.size for leaf in jax.tree.leaves(bundle.read_bundle(folder).params)
    )
    for row in (
        "role | base model",
        f"parameters | {count:,}",
        "weights | bfloat16; computes in float32",
        "data | shapes:quickstart",
        "trained | 1 step of 4 images",
        "average | 0.5",
        "captions | 8 tokens of sentencepiece",
        "last loss | 0.12500",
        "last validation/loss | 0.50000",
        "timesteps | 150",
    ):
        assert f"| {row} |" in card
    _, front_matter, _ = card.split("---\n", 2)
    assert yaml.safe_load(front_matter) == {
        "library_name": "glide_jax",
        "pipeline_tag": "text-to-image",
        "tags": ["glide", "diffusion", "jax", "flax"],
    }
    with safetensors.safe_open(folder / "params.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "flax"}
    assert "![grid](grid.png)" in card
    assert "glide sample --base=THIS_FOLDER" in card
    assert "program/run.py" not in card


def test_the_card_of_a_bundle_with_a_program_names_it(exported):
    card = (exported / "README.md").read_text()
    assert "program/run.py" in card
    assert "grid.png" not in card


def test_cards_of_other_roles_have_their_own_command(clip_bundle):
    card = (clip_bundle / "README.md").read_text()
    assert "| role | noised CLIP |" in card
    assert "--clip=THIS_FOLDER" in card
    assert "guidance scale" not in card


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--respacing=5"], "--respacing needs --program"),
        (["--clip=b", "--noprogram"], "--clip needs --program"),
        (["--program", "--respacing=0"], "respacing='0'"),
        (["--program", "--guidance_mode=clip"], "needs a noised CLIP"),
        (["--program", "--guidance_mode=clip", "--clip=absent"], "absent is not a"),
    ],
)
def test_a_program_that_cannot_be_is_one_line_and_no_bundle(
    refused, workdir, flags, named
):
    assert named in refused("export", str(workdir), "--output=o", *flags)


def test_a_noised_clip_has_no_program(refused, clip_bundle):
    line = refused("export", str(clip_bundle.parent), "--output=o", "--program")
    assert "draws nothing" in line


def test_a_stopped_export_leaves_the_bundle_as_it_was(workdir, tmp_path, monkeypatch):
    output = tmp_path / "bundle"
    command = ["export", str(workdir), f"--output={output}"]
    assert main.run(command) == 0
    before = {path: path.read_bytes() for path in output.iterdir()}
    whole = export.write_card

    def write_card(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return whole(*arguments, **options)

    monkeypatch.setattr(export, "write_card", write_card)
    assert main.run([*command, "--dtype=float32"]) == 42
    assert {path: path.read_bytes() for path in output.iterdir()} == before
    assert [*tmp_path.iterdir()] == [output]
