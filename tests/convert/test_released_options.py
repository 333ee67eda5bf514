"""Options of the released code, and properties that they cannot store."""

from __future__ import annotations

import dataclasses
import json

import pytest

from glide_jax.checkpoint import bundle
from glide_jax.config import resolve
from glide_jax.convert import bundles, released, torch_glide
from glide_jax.errors import UserError
from glide_jax.text import tokenizers
from tests.models import golden_models
from tests.train import small_runs

# The published model_and_diffusion_defaults, of the base model.
PUBLISHED = {
    "image_size": 64,
    "num_channels": 192,
    "num_res_blocks": 3,
    "channel_mult": "",
    "num_heads": 1,
    "num_head_channels": 64,
    "num_heads_upsample": -1,
    "attention_resolutions": "32,16,8",
    "dropout": 0.1,
    "text_ctx": 128,
    "xf_width": 512,
    "xf_layers": 16,
    "xf_heads": 8,
    "xf_final_ln": True,
    "xf_padding": True,
    "diffusion_steps": 1000,
    "noise_schedule": "squaredcos_cap_v2",
    "timestep_respacing": "",
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "use_fp16": True,
    "cache_text_emb": False,
    "inpaint": False,
    "super_res": False,
}
UPSAMPLER = {
    "image_size": 256,
    "num_res_blocks": 2,
    "noise_schedule": "linear",
    "super_res": True,
    "channel_mult": "1,1,2,2,4,4",
    "timestep_respacing": "fast27",
}


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("base", {"channel_mult": "1,2,3,4", "timestep_respacing": "150"}),
        (
            "base-inpaint",
            {"channel_mult": "1,2,3,4", "timestep_respacing": "100", "inpaint": True},
        ),
        ("upsample", UPSAMPLER),
        ("upsample-inpaint", {**UPSAMPLER, "inpaint": True}),
    ],
)
def test_options_of_the_released_models_are_the_published_ones(kind, changed):
    found = released.options(released.make_config(kind))
    assert found == {**PUBLISHED, "use_fp16": False, **changed}
    assert list(found) == list(PUBLISHED)
    lines = released.left_out(released.make_config(kind), "gpt2")
    # A size that has no option, and how the notebooks draw.
    assert len(lines) == (2 if kind.startswith("upsample") else 1)


@pytest.mark.parametrize(
    ("image_px", "channel_mult", "attention_px"),
    [
        (16, (1, 2, 3), (8, 4)),
        (8, (1,), ()),
        (64, (1, 2), (32,)),
        (48, (1, 1, 2, 2), (24, 6)),
        (128, (1, 1, 2, 3, 4), (128, 8)),
    ],
)
def test_the_released_code_gets_levels_and_attention_of_any_model(
    image_px, channel_mult, attention_px
):
    model = dataclasses.replace(
        small_runs.TEXT2IM,
        image_px=image_px,
        channel_mult=channel_mult,
        attention_px=attention_px,
    )
    config = dataclasses.replace(released.make_config("base"), model=model)
    found = released.options(config)
    # As the released create_model reads them.
    levels = [int(part) for part in found["channel_mult"].split(",")]
    assert tuple(levels) == channel_mult
    assert 2 ** (len(levels) + 2) == found["image_size"]
    sides = found["attention_resolutions"].split(",")
    factors = {found["image_size"] // int(side) for side in sides}
    attends = {image_px >> level for level in range(len(levels)) if 2**level in factors}
    assert attends == set(attention_px)
    said = any(
        line.startswith(f"images are {image_px} px")
        for line in released.left_out(config, "gpt2")
    )
    assert said == (image_px != found["image_size"])


def write_bundle(folder, model, changes=None):
    tokenizer = small_runs.write_tokenizer(folder / "tokenizer")
    config = small_runs.make_config(tokenizer, model, changes)
    tensors = {
        name: golden_models.weight(name, shape)
        for name, shape in torch_glide.torch_shapes("base", model).items()
    }
    params = torch_glide.from_torch("base", model, tensors)
    files = tokenizers.load(tokenizer)
    tokenizers.save(files, folder / "saved")
    content = {p.name: p.read_bytes() for p in (folder / "saved").iterdir()}
    bundle.write_bundle(folder / "b", params, resolve.to_json(config), content, "")
    return folder / "b"


def test_options_are_written_next_to_the_weights(tmp_path):
    folder = write_bundle(
        tmp_path, small_runs.TEXT2IM, {"sample.respacing": "lambda20"}
    )
    written = bundles.to_openai(folder, tmp_path / "own.v2.safetensors")
    assert written.options == tmp_path / "own.v2.options.json"
    found = json.loads(written.options.read_text())
    assert list(found) == list(PUBLISHED)
    assert found["timestep_respacing"] == ""
    for what in ("320 rows", "sentencepiece", "lambda20", "guidance_scale"):
        assert sum(what in line for line in written.left_out) == 1
    (tmp_path / "own.v2.safetensors").unlink()
    with pytest.raises(UserError, match=r"own\.v2\.options\.json exists"):
        bundles.to_openai(folder, tmp_path / "own.v2.safetensors")
    assert not (tmp_path / "own.v2.safetensors").exists()


@pytest.mark.parametrize("groups", [1, 8, 16])
def test_a_model_of_other_norm_groups_is_an_error(tmp_path, groups):
    model = dataclasses.replace(small_runs.TEXT2IM, norm_groups=groups)
    folder = write_bundle(tmp_path, model)
    with pytest.raises(UserError, match=f"norm_groups={groups}") as caught:
        bundles.to_openai(folder, tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("a.*"))


def test_settings_that_differ_from_the_released_clip_are_listed():
    theirs = released.make_config("clip-text")
    assert released.left_out(theirs, "clip") == []
    ours = dataclasses.replace(theirs, model=small_runs.CLIP)
    (line,) = released.left_out(ours, "sentencepiece")
    for what in ("image_px 8", "vocab_size 320", "tokenizer sentencepiece"):
        assert what in line
    assert "compute_dtype" not in line
