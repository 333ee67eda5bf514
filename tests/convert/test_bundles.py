"""Conversion of released files to bundles and back."""

import dataclasses
import json
import math

import ml_dtypes
import numpy as np
import pytest

from glide_jax.checkpoint import bundle
from glide_jax.config import resolve
from glide_jax.convert import bundles, tensor_files, torch_glide
from glide_jax.errors import UserError
from glide_jax.sample import restore
from glide_jax.text import tokenizers
from tests.convert import test_tensor_files as plain
from tests.models import golden_models
from tests.train import small_runs

MODELS = {
    "base": small_runs.TEXT2IM,
    "upsample-inpaint": dataclasses.replace(
        small_runs.TEXT2IM, image_px=16, low_res_px=4, inpaint=True
    ),
    "clip-image": small_runs.CLIP,
    "clip-text": small_runs.CLIP,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_runs.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def convert(tokenizer, tmp_path):
    """convert("base", tensors, "folder") -> whether the bundle is whole."""

    def run(kind, tensors, folder):
        source = tmp_path / f"source_{kind}.safetensors"
        tensor_files.write(source, tensors)
        config = small_runs.make_config(tokenizer, MODELS[kind])
        return bundles.from_openai(kind, config, source, folder)

    return run


def make_tensors(kind, dtype=np.float32):
    shapes = torch_glide.torch_shapes(kind, MODELS[kind])
    return {
        name: golden_models.weight(name, shape).astype(dtype)
        for name, shape in shapes.items()
    }


def all_files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in files(folder)}


def files(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.mark.parametrize("kind", ["base", "upsample-inpaint"])
@pytest.mark.parametrize("dtype", plain.DTYPES)
def test_a_unet_round_trip_is_exact(convert, tmp_path, kind, dtype):
    tensors = make_tensors(kind, dtype)
    # What numpy's comparison does not tell apart.
    next(iter(tensors.values())).flat[:2] = [np.nan, -0.0]
    folder = tmp_path / "new" / "bundle"
    assert convert(kind, tensors, folder)
    stored = bundle.read_bundle(folder)
    assert resolve.from_json(stored.config_json).model == MODELS[kind]
    assert stored.params["unet"]["stem"]["kernel"].dtype == dtype
    output = tmp_path / "out.safetensors"
    assert bundles.to_openai(folder, output).kind == kind
    plain.assert_same(tensor_files.read(output), tensors)


def test_half_precision_weights_compute_in_float32(convert, tmp_path):
    tensors = make_tensors("base", np.float16)
    convert("base", tensors, tmp_path / "bundle")
    model = restore.load_bundle(tmp_path / "bundle")
    stem = model.params["unet"]["stem"]["bias"]
    assert stem.dtype == np.float32
    np.testing.assert_array_equal(stem, tensors["input_blocks.0.0.bias"])
    assert model.tokenizer.encode("a small red circle")


def test_the_card_describes_the_conversion(convert, tmp_path):
    convert("base", make_tensors("base"), tmp_path / "bundle")
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "source_base.safetensors, sha256 " in card
    assert "as --base" in card
    mark = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert "README.md" in mark["sha256"]


@pytest.mark.parametrize("first", ["clip-image", "clip-text"])
def test_two_files_make_one_noised_clip_in_any_order(convert, tmp_path, first):
    second = "clip-text" if first == "clip-image" else "clip-image"
    tensors = {
        first: make_tensors(first, np.float16),
        second: make_tensors(second, ml_dtypes.bfloat16),
    }
    folder = tmp_path / "clip"
    folder.mkdir()
    assert not convert(first, tensors[first], folder)
    assert not bundle.is_bundle(folder)
    assert convert(second, tensors[second], folder)
    assert not (folder / f"{first}.safetensors").exists()
    assert not list(tmp_path.glob(".clip*"))
    params = restore.load_bundle(folder).params
    assert params["logit_scale"] == np.float32(math.log(100))
    for kind in (first, second):
        output = tmp_path / f"{kind}.out.safetensors"
        assert bundles.to_openai(folder, output, kind).kind == kind
        plain.assert_same(tensor_files.read(output), tensors[kind])


def test_a_wrong_file_does_not_remove_the_other_half(convert, tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    convert("clip-image", make_tensors("clip-image"), folder)
    before = all_files(folder)
    with pytest.raises(UserError, match="missing"):
        convert("clip-text", make_tensors("clip-image"), folder)
    assert all_files(folder) == before
    with pytest.raises(UserError, match="give --kind=clip-text"):
        convert("clip-image", make_tensors("clip-image"), folder)
    with pytest.raises(UserError, match="is not empty"):
        convert("base", make_tensors("base"), folder)
    assert all_files(folder) == before
    assert convert("clip-text", make_tensors("clip-text"), folder)


def test_a_folder_that_is_not_empty_is_not_changed(convert, tmp_path):
    convert("base", make_tensors("base"), tmp_path / "bundle")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    for name, named in (("bundle", "holds a bundle"), ("photos", "is not empty")):
        before = all_files(tmp_path / name)
        for kind in ("base", "clip-text"):
            with pytest.raises(UserError, match=named):
                convert(kind, make_tensors(kind), tmp_path / name)
        assert all_files(tmp_path / name) == before


def test_wrong_tensors_leave_no_folder(convert, tmp_path):
    tensors = make_tensors("base")
    tensors["surplus"] = tensors.pop("out.2.bias")
    with pytest.raises(UserError, match=r"1 missing: out\.2\.bias; 1 unknown: surplus"):
        convert("base", tensors, tmp_path / "deep" / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["source_base.safetensors"]


@pytest.mark.parametrize("place", ["file", "file/bundle"])
def test_a_path_that_cannot_be_written_is_an_error(convert, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    for kind in ("base", "clip-text"):
        with pytest.raises(UserError, match="cannot be written") as caught:
            convert(kind, make_tensors(kind), tmp_path / place)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_existing_output_file_is_not_changed(convert, tmp_path):
    convert("base", make_tensors("base"), tmp_path / "bundle")
    output = tmp_path / "out.safetensors"
    output.write_text("mine")
    with pytest.raises(UserError, match="exists; name a new file"):
        bundles.to_openai(tmp_path / "bundle", output)
    assert output.read_text() == "mine"


def test_a_kind_of_another_model_is_an_error(convert, tmp_path):
    convert("base", make_tensors("base"), tmp_path / "bundle")
    output = tmp_path / "out.safetensors"
    with pytest.raises(UserError, match="'upsample' does not fit"):
        bundles.to_openai(tmp_path / "bundle", output, "upsample")
    for kind in ("clip-image", "clip-text"):
        convert(kind, make_tensors(kind), tmp_path / "clip")
    with pytest.raises(UserError, match="two files; give --kind=clip-image"):
        bundles.to_openai(tmp_path / "clip", output)
    assert not output.exists()


def test_a_logit_scale_that_is_not_written_is_logged(convert, tmp_path, caplog):
    for kind in ("clip-image", "clip-text"):
        convert(kind, make_tensors(kind), tmp_path / "clip")
    output = tmp_path / "out.safetensors"
    bundles.to_openai(tmp_path / "clip", output, "clip-text")
    read = bundle.read_bundle(tmp_path / "clip")
    tokenizer = tokenizers.load(tmp_path / "clip")
    tokenizers.save(tokenizer, tmp_path / "files")
    saved = {path.name: path.read_bytes() for path in files(tmp_path / "files")}
    for scale, dtype in ((100, ml_dtypes.bfloat16), (14.3, np.float32)):
        assert caplog.text == ""
        params = {**read.params, "logit_scale": np.asarray(math.log(scale), dtype)}
        bundle.write_bundle(tmp_path / "own", params, read.config_json, saved, "")
        output.unlink()
        bundles.to_openai(tmp_path / "own", output, "clip-text")
    assert "logit scale of this CLIP, 14.3," in caplog.text
