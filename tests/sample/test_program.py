"""A serialized sampler draws what the package draws."""

from __future__ import annotations

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import export
from PIL import Image

from glide_jax import errors
from glide_jax.checkpoint import bundle
from glide_jax.config import resolve
from glide_jax.sample import cascade, program, program_runner
from glide_jax.text import tokenizers

PROMPT = "a big r circle"
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def models(models):
    """As everywhere, but with captions that can be seen in the pictures."""

    def emphasise(path, leaf):
        names = [step.key for step in path]
        is_caption = "token_embedding" in names or "encoder_kv" in names
        return 30 * leaf if is_caption else leaf

    return {
        name: dataclasses.replace(
            model, params=jax.tree_util.tree_map_with_path(emphasise, model.params)
        )
        for name, model in models.items()
    }


@pytest.fixture(scope="module")
def write(models, tmp_path_factory):
    """write("base", clip="clip", sampler="ddim") -> a bundle with its program."""

    def make(name, *, clip=None, sample=None, **options):
        model, folder = models[name], tmp_path_factory.mktemp("program") / name
        config = resolve.override(model.config, sample or {})
        guide = None if clip is None else models[clip]
        files = program.make_files(
            *(config, model.tokenizer, folder, guide),
            dtype="float32",
            prompt=PROMPT,
            **options,
        )
        files |= model.tokenizer.files()
        text = resolve.to_json(config)
        bundle.write_bundle(folder, model.params, text, files, "A test model.")
        return folder

    return make


def assert_same_pixels(drawn, wanted):
    # Two compilations of one program may round differently: a level at most.
    assert drawn.shape == wanted.shape
    assert np.abs(drawn.astype(int) - wanted).max() <= 1


def captions(model, prompts, tokens="tokens", mask="text_mask"):
    context = model.config.model.text_context
    return dict(
        zip((tokens, mask), model.tokenizer.encode_batch(prompts, context), strict=True)
    )


def test_one_program_draws_any_batch_as_the_package_does(models, write):
    fixed = {"guidance_mode": "cfg+clip", "sampler": "ddim", "respacing": "3"}
    folder = write("base", clip="clip", **fixed)
    draw = program_runner.load(folder / "program")
    whole = cascade.Glide(models["base"], clip=models["clip"])
    prompts = ["a big r circle", "a small g circle", "a small b circle"]
    # Guidance is small enough that not every pixel ends at 0 or 255.
    scales = {"guidance_scale": 1.5, "clip_guidance_scale": 30.0, "eta": 0.7}
    wanted = whole.sample(prompts, seed=7, first_index=2, **fixed, **scales)
    inputs = {
        **captions(models["base"], prompts),
        **captions(models["clip"], prompts, "clip_tokens", "clip_mask"),
        "seed": [7] * 3,
        "index": [2, 3, 4],
        **scales,
    }
    drawn = draw(inputs)
    assert_same_pixels(drawn, wanted.base_images)
    rows = {k: v if k in scales else v[1:2] for k, v in inputs.items()}
    assert_same_pixels(draw(rows), wanted.base_images[1:2])
    # Without one of them the example's stands in: none is without effect.
    masks = {tokens: mask for mask, tokens in program_runner.PAIRS.items()}
    for name in ("tokens", "clip_tokens", "seed", "index", *scales):
        left_out = name, masks.get(name)
        others = {k: v for k, v in inputs.items() if k not in left_out}
        assert not np.array_equal(draw(others), drawn), name


def test_an_upsampler_enlarges_as_the_package_does(models, write):
    folder = write("upsampler", sample={"sample.match_low_res": True})
    small, prompts = PIXELS[:, ::2, ::2], [PROMPT] * 3
    draw = program_runner.load(folder / "program")
    drawn = draw({"low_res": small})
    whole = cascade.Glide(models["base"], models["upsampler"])
    wanted = whole.upsample(small, prompts, match_low_res=True)
    assert_same_pixels(drawn, wanted.images)


def test_an_inpainting_model_keeps_what_is_known_and_draws_without_it(models, write):
    draw = program_runner.load(write("base_inpaint") / "program")
    whole = cascade.Glide(models["base_inpaint"])
    picture, mask = PIXELS[:1, :8, :8], np.zeros((1, 8, 8), np.uint8)
    assert_same_pixels(draw({}), whole.sample([PROMPT]).base_images)
    mask[:, :, 4:] = 1
    drawn = draw({"inpaint_image": picture, "inpaint_mask": mask})
    wanted = whole.inpaint(picture, mask.astype(np.float32), [PROMPT])
    assert_same_pixels(drawn, wanted.base_images)
    np.testing.assert_array_equal(drawn[:, :, 4:], picture[:, :, 4:])


def test_the_manifest_lists_the_programs_arguments_in_order(models, write):
    folder = write("base", clip="clip", guidance_mode="clip") / "program"
    manifest = json.loads((folder / "manifest.json").read_text())
    content = bytearray((folder / manifest["program"]).read_bytes())
    exported = export.deserialize(content)
    assert manifest["platforms"] == list(exported.platforms) == ["cpu", "cuda", "tpu"]
    told = [(tuple(a["shape"]), a["dtype"]) for a in manifest["order"]]
    found = [
        (tuple(n if isinstance(n, int) else str(n) for n in a.shape), a.dtype.name)
        for a in exported.in_avals
    ]
    assert told == found
    # None is left out of the compiled program, so the order is also that of its code.
    assert list(exported.module_kept_var_idx) == list(range(len(found)))
    assert manifest["inputs"].keys() == {
        a["name"] for a in manifest["order"] if a["argument"] == "inputs"
    }
    assert manifest["fixed"]["guidance_mode"] == "clip"
    rule = manifest["token_ids"]["tokens"]
    assert (rule["length"], rule["pad_id"]) == (8, models["base"].tokenizer.pad_id)
    assert all((folder.parent / name).is_file() for name in rule["files"])
    # Digests cover what lies in folders too.
    assert bundle.read_bundle(folder.parent).folder == folder.parent
    (folder / manifest["program"]).write_bytes(content[:-1])
    with pytest.raises(errors.UserError, match=r"sampler\.stablehlo is not the file"):
        bundle.read_bundle(folder.parent)


def test_every_tokenizer_has_a_rule_in_words(vocab_folder):
    del vocab_folder  # the published vocabularies are needed to make them
    kinds = {tokenizers.make_tokenizer(name).kind for name in ("gpt2", "clip")}
    assert kinds | {"sentencepiece"} == program.program_readme.TOKEN_RULES.keys()


@pytest.mark.parametrize(
    ("name", "clip", "options", "named"),
    [
        ("clip", None, {}, "noised_clip model, which draws nothing"),
        ("upsampler", None, {"guidance_mode": "cfg"}, "is an upsampler; leave it out"),
        ("base", None, {"guidance_mode": "clip"}, "needs a noised CLIP"),
        ("base", "clip", {}, "guidance_mode=cfg reads no CLIP"),
        ("base", "base", {"guidance_mode": "clip"}, "is not a noised CLIP"),
        ("base", None, {"sampler": "euler"}, "sampler='euler'"),
        ("base", None, {"respacing": "0"}, "respacing='0'"),
    ],
)
def test_a_program_that_cannot_be_is_refused(write, name, clip, options, named):
    with pytest.raises(errors.UserError, match=named):
        write(name, clip=clip, **options)


DESCRIBED = {
    "seed": {"shape": ["b"], "dtype": "uint32"},
    "index": {"shape": ["b"], "dtype": "uint32"},
    "tokens": {"shape": ["b", 2], "dtype": "int32"},
    "text_mask": {"shape": ["b", 2], "dtype": "bool"},
    "eta": {"shape": [], "dtype": "float32"},
}
EXAMPLE = {
    "seed": np.uint32([5]),
    "index": np.uint32([0]),
    "tokens": np.int32([[1, 2]]),
    "text_mask": np.array([[True, False]]),
    "eta": np.float32(0.5),
}


def test_what_inputs_leave_out_comes_from_the_example():
    tokens = [[3, 4], [5, 6], [7, 8]]
    given = {"tokens": tokens, "text_mask": [[True, True]] * 3}
    inputs = program_runner.complete(given, EXAMPLE, DESCRIBED)
    assert inputs["seed"].tolist() == [5, 5, 5]
    assert inputs["index"].tolist() == [0, 1, 2]
    assert inputs["tokens"].tolist() == tokens
    assert inputs["tokens"].dtype == np.int32
    assert inputs["eta"] == 0.5


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"token": [[1, 2]]}, "token is not an input; known: seed, index"),
        ({"tokens": [[1, 2]]}, "give tokens and text_mask together"),
        ({"text_mask": [[True, True]]}, "give tokens and text_mask together"),
        (
            {"tokens": [[1, 2, 3]], "text_mask": [[True] * 3]},
            r"tokens has shape \(1, 3\); it has to be \(1, 2\)",
        ),
        (
            {"tokens": [[1, 2]], "text_mask": [[True, True]], "seed": [1, 2]},
            r"inputs are for \[1, 2\] pictures",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_named(given, named):
    with pytest.raises(ValueError, match=named):
        program_runner.complete(given, EXAMPLE, DESCRIBED)


@pytest.mark.parametrize(
    ("installed", "is_refused"),
    [("0.6.2", True), ("0.8.2", True), ("0.8.3", False), ("0.10.0", False)],
)
def test_a_jax_that_is_too_old_is_named(installed, is_refused):
    if is_refused:
        with pytest.raises(ValueError, match=rf"{installed} is installed.*0\.8\.3"):
            program_runner.check_version(installed, "0.8.3")
    else:
        program_runner.check_version(installed, "0.8.3")


def test_the_runner_reads_tensors_and_writes_pictures_by_itself(tmp_path):
    rng = np.random.default_rng(0)
    half = jax.numpy.asarray(rng.normal(size=(2, 3)), jax.numpy.bfloat16)
    tensors = {
        "odd": np.asarray(half[:1, :1]),
        "half": np.asarray(half),
        "whole": rng.normal(size=(3, 2, 1)).astype(np.float32),
        "scalar": np.array(3, np.float32),
    }
    path = tmp_path / "params.safetensors"
    safetensors.numpy.save_file(tensors, path, {"by": "test"})
    found = program_runner.read_safetensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)
    picture = PIXELS[0, :5]
    read = Image.open(io.BytesIO(program_runner.png(picture)))
    np.testing.assert_array_equal(np.asarray(read), picture)
