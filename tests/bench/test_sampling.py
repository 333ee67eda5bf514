"""The row of the sampling benchmark."""

from __future__ import annotations

import dataclasses
import json

import pytest

from glide_jax import errors, presets
from glide_jax.bench import sampling
from glide_jax.config import defaults
from glide_jax.models import build

SIZE = dataclasses.replace(
    presets.base("tiny"),
    image_px=8,
    channel_mult=(1,),
    attention_px=(8,),
)
SAMPLE = defaults.SampleConfig(respacing="4")
BASE = defaults.Config(name="base", model=SIZE, sample=SAMPLE)
UPSAMPLER = defaults.Config(
    name="upsampler",
    model=dataclasses.replace(SIZE, image_px=16, low_res_px=8, attention_px=(16,)),
    sample=dataclasses.replace(SAMPLE, sampler="ddim", respacing="6"),
)


@pytest.fixture(scope="module", autouse=True)
def small_peaks():
    """The machine's peaks by small products: their height plays no part here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling.machine, "_MATMUL_SIDES", {"default": (32, 64)})
        patch.setattr(sampling.machine, "_CONV_PX", 8)
        yield


@pytest.fixture(scope="module")
def whole():
    return sampling.benchmark(BASE, UPSAMPLER, sampling.Settings(batch=2))


def test_a_row_is_json_and_names_machine_and_settings(whole):
    assert json.loads(json.dumps(whole)) == whole
    assert whole["machine"]["platform"] == "cpu"
    assert (whole["batch"], whole["guidance_mode"]) == (2, "cfg")
    assert whole["compute_dtype"] == "float32"
    assert whole["matmul_peak_flops"] > 0
    assert whole["conv_peak_flops"] > 0
    assert whole["peak_memory_bytes"] is None, "a CPU does not tell"


def test_guidance_doubles_the_rows_of_the_base_model_only(whole):
    assert {n: s["rows"] for n, s in whole["stages"].items()} == {
        "base": 4,
        "upsampler": 2,
    }


def test_a_picture_takes_the_passes_of_its_respacing(whole):
    stages = whole["stages"]
    assert (stages["base"]["passes"], stages["upsampler"]["passes"]) == (4, 6)
    for entry in stages.values():
        seconds, per_pass = entry["seconds"], entry["seconds_per_pass"]
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
        # Both are rounded to four digits.
        assert per_pass["median"] * entry["passes"] == pytest.approx(
            seconds["median"], rel=2e-3
        )
    assert whole["seconds_per_image"]["how"] == "measured"
    fastest = sum(entry["seconds"]["min"] for entry in stages.values()) / 2
    slowest = sum(entry["seconds"]["max"] for entry in stages.values()) / 2
    per_image = whole["seconds_per_image"]
    assert fastest <= per_image["min"] * 1.001
    assert per_image["max"] <= slowest * 1.001


def test_utilisation_is_formula_over_time_over_peak(whole):
    entry, parts = whole["stages"]["base"], build.forward_flops(SIZE)
    assert entry["flops_per_pass"] == pytest.approx(4 * parts["unet"], rel=1e-3)
    caption = 4 * (parts["text"] + parts["text_keys_values"])
    rate = (4 * entry["flops_per_pass"] + caption) / entry["seconds"]["median"]
    assert entry["utilisation"] == pytest.approx(
        rate / whole["matmul_peak_flops"], rel=5e-3
    )


def test_the_formula_agrees_with_xlas_count(whole):
    for entry in whole["stages"].values():
        # XLA leaves out the padding of convolutions, a fifth at 8 px, and counts norms
        # and activations, much at 16 channels.
        assert entry["flops_per_pass_xla"] == pytest.approx(
            entry["flops_per_pass"], rel=0.25
        )


def test_a_few_passes_predict_the_time_of_an_image():
    row = sampling.benchmark(
        BASE, None, sampling.Settings(guidance_mode="none", passes=2)
    )
    entry = row["stages"]["base"]
    assert (entry["respacing"], entry["passes"], entry["rows"]) == ("2", 2, 1)
    assert row["passes"] == 2
    assert row["seconds_per_image"]["how"] == "extrapolated from the passes"
    assert row["seconds_per_image"]["median"] == pytest.approx(
        2 * entry["seconds"]["median"], rel=2e-3
    )


CLIP = defaults.Config(name="clip", model=presets.noised_clip("tiny"))
LARGE = dataclasses.replace(UPSAMPLER, model=presets.upsampler("icons"))
HALF = dataclasses.replace(
    UPSAMPLER, model=dataclasses.replace(UPSAMPLER.model, compute_dtype="bfloat16")
)


@pytest.mark.parametrize(
    ("base", "upsampler", "passes", "named"),
    [
        (CLIP, None, None, "'clip' is not of a base model"),
        (UPSAMPLER, None, None, "'upsampler' is not of a base model"),
        (BASE, LARGE, None, "low_res_px=32"),
        (BASE, CLIP, None, "low_res_px=0"),
        (BASE, HALF, None, "float32 and bfloat16"),
        (BASE, None, 2000, "2000"),
    ],
)
def test_models_that_form_no_cascade_are_errors(base, upsampler, passes, named):
    with pytest.raises(errors.UserError, match=named):
        sampling.check(base, upsampler, sampling.Settings(passes=passes))


def make_student():
    model = dataclasses.replace(SIZE, guidance_range=(1.0, 5.0))
    return dataclasses.replace(
        BASE,
        model=model,
        diffusion=defaults.DiffusionConfig(prediction="x_and_eps"),
        train=defaults.TrainConfig(teacher="runs/t", student_steps=2),
        sample=defaults.SampleConfig(sampler="ddim", respacing="grid2"),
    )


def test_a_student_makes_its_steps_in_one_row():
    student = make_student()
    row = sampling.benchmark(student, None, sampling.Settings())
    entry = row["stages"]["base"]
    assert (entry["respacing"], entry["passes"], entry["rows"]) == ("grid2", 2, 1)
    assert row["seconds_per_image"]["how"] == "measured"
    with pytest.raises(errors.UserError, match="--passes=3 has no effect"):
        sampling.check(student, None, sampling.Settings(passes=3))
