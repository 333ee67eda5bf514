"""The settings of the released models."""

import pytest

from glide_jax.config import resolve
from glide_jax.convert import names, released
from glide_jax.errors import UserError
from tests import test_golden_configs

EXPERIMENTS = {
    "base": "base64_cfg",
    "base-inpaint": "base64_inpaint",
    "upsample": "upsample256",
    "upsample-inpaint": "upsample256_inpaint",
    "clip-image": "noised_clip64",
    "clip-text": "noised_clip64",
}


@pytest.mark.parametrize("kind", names.KINDS)
def test_a_released_model_equals_its_experiment(kind):
    golden = test_golden_configs.GOLDEN / f"{EXPERIMENTS[kind]}_released.json"
    experiment = resolve.from_json(golden.read_text())
    config = released.make_config(kind)
    # So that a phase of the experiment can start from the converted bundle.
    assert config.model == experiment.model
    assert config.diffusion == experiment.diffusion
    assert config.train.caption_drop_prob == experiment.train.caption_drop_prob


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("base", ("ddpm", "150", 3.0, 1.0, "gpt2")),
        ("base-inpaint", ("ddpm", "100", 5.0, 1.0, "gpt2")),
        ("upsample", ("ddim", "fast27", 3.0, 0.997, "gpt2")),
        ("upsample-inpaint", ("ddpm", "fast27", 3.0, 0.997, "gpt2")),
    ],
)
def test_released_sampling_settings_are_the_published_ones(kind, settings):
    config = released.make_config(kind)
    sample = config.sample
    assert settings == (
        sample.sampler,
        sample.respacing,
        sample.guidance_scale,
        sample.noise_temperature,
        config.data.tokenizer,
    )


def test_both_halves_of_the_clip_have_the_same_settings():
    assert released.make_config("clip-image") == released.make_config("clip-text")
    assert released.make_config("clip-text").data.tokenizer == "clip"


def test_an_unknown_kind_is_an_error_that_lists_the_kinds():
    with pytest.raises(UserError, match=r"'decoder' is not one of base, base-inpaint"):
        released.make_config("decoder")
