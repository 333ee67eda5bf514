"""`glide convert`: a converted model draws the same images."""

from __future__ import annotations

import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from glide_jax.checkpoint import bundle
from glide_jax.cli import main
from glide_jax.config import resolve
from glide_jax.convert import released, tensor_files, torch_glide
from tests.train import small_runs

FROM, TO = ["convert", "--from=openai"], ["convert", "--to=openai"]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["convert"], "give either --from=openai or --to=openai"),
        ([*FROM, "--to=openai"], "give either --from=openai or --to=openai"),
        (["convert", "--from=diffusers"], "diffusers"),
        ([*FROM, "base.pt"], "'base.pt' is not a flag; give it as --input=base.pt"),
        ([*FROM, "--output=o", "--kind=base"], "--input is missing"),
        ([*FROM, "--input=small.safetensors", "--kind=base"], "--output is missing"),
        ([*FROM, "--input=small.safetensors", "--output=o"], "--kind is missing"),
        (
            [*FROM, "--input=small.safetensors", "--output=o", "--kind=decoder"],
            "'decoder' is not one of base, base-inpaint, upsample",
        ),
        (
            [*FROM, "--input=absent.safetensors", "--output=o/p", "--kind=base"],
            "absent.safetensors is not a file",
        ),
        (
            [*FROM, "--input=small.bin", "--output=o/p", "--kind=base"],
            "small.bin is neither .safetensors nor .pt",
        ),
        (
            [*FROM, "--input=page.safetensors", "--output=o", "--kind=base"],
            "page.safetensors is not a valid safetensors file",
        ),
        (
            [*FROM, "--input=small.safetensors", "--output=o", "--kind=clip-text"],
            "185 missing: blocks.input.w_voc, ",
        ),
        (
            [*FROM, "--input=small.safetensors", "--output=page", "--kind=base"],
            "--output=page cannot be written",
        ),
        ([*TO, "--input=absent", "--output=o/a.safetensors"], "absent is not a bundle"),
        (
            [*TO, "--input=absent", "--output=o/a.pt", "--config=c"],
            "--config is for --from=openai",
        ),
        (
            [*FROM, "--kind=base", "--input=a", "--output=o", "--config=small.bin"],
            "--config=small.bin is not a bundle or its config.json",
        ),
        ([*TO, "--input=absent", "--output=o/a.bin"], "a.bin is neither"),
        ([*TO, "--input=absent", "--output=page/a.safetensors"], "page cannot be"),
    ],
)
def test_a_user_error_is_one_line_and_leaves_no_files(refused, tmp_path, argv, named):
    tensors = {"weight": np.zeros(1, np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "small.safetensors")
    (tmp_path / "small.bin").touch()
    for name in ("page", "page.safetensors"):
        (tmp_path / name).write_text("<html>not found</html>")
    before = sorted(tmp_path.rglob("*"))
    assert named in refused(*argv)
    assert sorted(tmp_path.rglob("*")) == before  # no folder either


def test_without_pytorch_a_pt_file_names_the_extra(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it now fails
    (tmp_path / "base.pt").touch()
    line = refused(*FROM, "--kind=base", "--input=base.pt", "--output=o")
    assert 'pip install -e ".[torch]", or use a .safetensors' in line
    assert not (tmp_path / "o").exists()


def test_a_pt_file_that_would_run_code_leaves_nothing(refused, tmp_path):
    torch = pytest.importorskip("torch")

    class Attack:
        def __reduce__(self):
            return pathlib.Path.touch, (tmp_path / "made",)

    torch.save({"weight": torch.zeros(1), "more": Attack()}, tmp_path / "base.pt")
    line = refused(*FROM, "--kind=base", "--input=base.pt", "--output=o")
    assert "would run code" in line
    assert [path.name for path in tmp_path.iterdir()] == ["base.pt"]


def test_a_folder_with_a_bundle_is_not_overwritten(refused, workdir, tmp_path):
    safetensors.numpy.save_file({}, tmp_path / "a.safetensors")
    ask = f"--input={tmp_path / 'a.safetensors'}", f"--output={workdir / 'bundle'}"
    assert "holds a bundle; give a new folder" in refused(*FROM, "--kind=base", *ask)
    assert bundle.is_bundle(workdir / "bundle")


def test_a_converted_model_draws_the_same_picture_and_can_be_trained_on(
    workdir, experiment, make_config, tmp_path, capsys
):
    output = tmp_path / "out" / "base.safetensors"
    argv = [*TO, f"--input={workdir / 'bundle'}", f"--output={output}"]
    assert main.run(argv) == 0
    printed = capsys.readouterr().out
    assert "under the released names of base" in printed
    assert "not in the files: the tokenizer is sentencepiece" in printed
    made = json.loads((tmp_path / "out" / "base.options.json").read_text())
    assert made["num_channels"] == make_config().model.num_channels
    back = tmp_path / "back"
    argv = [*FROM, "--kind=base", f"--input={output}", f"--output={back}"]
    assert main.run(argv) == 2  # of other sizes than the released model
    for given in (workdir / "bundle", workdir / "bundle" / "config.json"):
        shutil.rmtree(back, ignore_errors=True)
        assert main.run([*argv, f"--config={given}"]) == 0
    drawn = []
    for folder in (workdir / "bundle", back):
        pictures = tmp_path / f"drawn_{folder.name}"
        ask = "sample", "--prompt=a small red circle", "--respacing=2"
        argv = [*ask, f"--base={folder}", f"--output={pictures}"]
        assert main.run(argv) == 0
        drawn.append(np.asarray(Image.open(pictures / "000000.png")))
    np.testing.assert_array_equal(*drawn)
    argv = [f"--config={experiment}", f"--config.train.init_from={back}", "--dry_run"]
    assert main.run(["train", *argv]) == 0


def test_a_noised_clip_is_written_as_two_files(clip_bundle, tmp_path, refused, capsys):
    ask = *TO, f"--input={clip_bundle}"
    assert "give --kind=clip-image" in refused(*ask, "--output=a.safetensors")
    for kind in ("clip-image", "clip-text"):
        output = tmp_path / f"{kind}.safetensors"
        assert main.run([*ask, f"--kind={kind}", f"--output={output}"]) == 0
        assert f"under the released names of {kind}" in capsys.readouterr().out
        expected = torch_glide.torch_shapes(kind, small_runs.CLIP)
        found = tensor_files.read(output)
        assert {name: tensor.shape for name, tensor in found.items()} == expected


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [["upsample-inpaint"], ["clip-text", "clip-image"]])
def test_files_of_the_released_size_become_a_bundle(
    kinds, tmp_path, capsys, vocab_folder
):
    folder, written = tmp_path / "bundle", {}
    for i, kind in enumerate(kinds):
        written[kind] = tmp_path / f"{kind}.safetensors"
        shapes = torch_glide.torch_shapes(kind, released.make_config(kind).model)
        rng = np.random.default_rng(i)
        tensors = {
            name: rng.standard_normal(shape, np.float32).astype(np.float16)
            for name, shape in shapes.items()
        }
        tensor_files.write(written[kind], tensors)
        ask = f"--kind={kind}", f"--input={written[kind]}", f"--output={folder}"
        assert main.run([*FROM, *ask]) == 0
        whole = i == len(kinds) - 1
        assert ("give it as --" in capsys.readouterr().out) == whole
    config = resolve.from_json(bundle.read_bundle(folder).config_json)
    assert config == released.make_config(kinds[0])
    for kind, source in written.items():
        output = tmp_path / f"{kind}.out.safetensors"
        argv = [*TO, f"--kind={kind}", f"--input={folder}", f"--output={output}"]
        assert main.run(argv) == 0
        # The same names, types, shapes and bits: the same file.
        before, after = (tensor_files.read(path) for path in (source, output))
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert after[name].tobytes() == tensor.tobytes()
