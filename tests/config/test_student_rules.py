"""Settings of a distillation that contradict each other."""

from __future__ import annotations

import pytest

from glide_jax import presets
from glide_jax.config import experiments, resolve, validate
from glide_jax.errors import UserError

BASE, UPSAMPLER = "base64_halve", "upsample256_halve"
MOMENTS = "base64_moments"


@pytest.mark.parametrize("name", ["base64_fold", BASE, UPSAMPLER, MOMENTS])
def test_the_experiments_are_consistent(name):
    for size in presets.STUDENT_SIZES:
        validate.validate(experiments.load(name, size))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (BASE, {"train.loss_type": "hybrid"}, "use truncated_snr"),
        (BASE, {"train.low_pass_factors": (2,)}, "leave it empty"),
        (BASE, {"train.loss_weighting": "min_snr"}, "does not have; use none"),
        (BASE, {"sample.sampler": "ddpm"}, "use ddim"),
        (BASE, {"sample.sampler": "plms"}, "use 'ddim'"),
        (BASE, {"sample.respacing": "grid8"}, "use 'grid4'"),
        (BASE, {"sample.eta": 0.5}, "sample.eta"),
        (BASE, {"model.guidance_range": (5.0, 1.0)}, "two growing numbers"),
        (BASE, {"sample.guidance_scale": 6.0}, "is outside of model.guidance_range"),
        (BASE, {"train.teacher": ""}, "set train.teacher"),
        (BASE, {"model.residual_low_res": True}, "for an upsampler"),
        (BASE, {"train.timestep_sampling": "loss_second_moment"}, "uniform or power"),
        (MOMENTS, {"sample.eta": 0.0}, "use 1.0"),
        (MOMENTS, {"train.student_steps": 0}, "is for a student of few steps"),
        (UPSAMPLER, {"model.guidance_range": (1.0, 5.0)}, "for a base model"),
        (
            UPSAMPLER,
            {"train.student_steps": 0, "sample.respacing": "50"},
            "nothing to learn",
        ),
    ],
)
def test_a_contradiction_is_refused_in_one_line(name, changes, message):
    config = resolve.override(experiments.load(name, "tiny"), changes)
    with pytest.raises(UserError, match=message) as caught:
        validate.validate(config)
    assert "\n" not in str(caught.value)
