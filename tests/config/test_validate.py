"""Every size passes; every rule, when broken, names its path and a remedy."""

import dataclasses

import pytest

from glide_jax import presets
from glide_jax.config import defaults, resolve, validate
from glide_jax.diffusion import samplers
from glide_jax.errors import UserError


@pytest.mark.parametrize("size", presets.SIZES)
def test_every_size_is_valid(size):
    models = (
        presets.base(size),
        presets.base(size, inpaint=True),
        presets.upsampler(size),
        presets.upsampler(size, inpaint=True),
        presets.noised_clip(size),
    )
    for model in models:
        validate.validate(defaults.Config(model=model))


BROKEN = [
    ({"seed": -1}, "seed=-1"),
    ({"seed": 2**31}, "seed=2147483648 is not allowed; use 0 to 2147483647"),
    ({"model.norm_groups": 0}, "model.norm_groups=0"),
    ({"model.num_channels": 48}, "model.norm_groups=32"),
    ({"model.num_channels": 96}, "model.head_channels=64"),
    ({"model.head_channels": 0}, "model.head_channels=0"),
    ({"model.image_px": 60}, "multiple of 8"),
    ({"model.patch_px": 3}, "for 4 levels of 3 px patches; use a multiple of 24"),
    ({"model.patch_px": 2, "model.attention_px": (64,)}, "levels are 32, 16, 8, 4"),
    ({"model.channel_mult": ()}, "model.channel_mult"),
    ({"model.attention_px": (12,)}, "levels are 64, 32, 16, 8"),
    ({"model.low_res_px": 24}, "model.low_res_px=24"),
    ({"model.low_res_px": 64}, "not below model.image_px"),
    ({"model.text_heads": 7}, "model.text_heads=7"),
    ({"model.dropout_prob": 1.5}, "model.dropout_prob=1.5"),
    ({"model.compute_dtype": "fp16"}, "bfloat16"),
    ({"diffusion.schedule": "cosine"}, "squaredcos_cap_v2"),
    ({"diffusion.num_timesteps": 0}, "diffusion.num_timesteps=0"),
    ({"data.sources": (), "data.weights": ()}, "data.sources"),
    ({"data.weights": (1.0, 2.0)}, "one weight for each source"),
    ({"data.weights": (0.0,)}, "data.weights=(0.0,)"),
    ({"data.flip_prob": -0.1}, "data.flip_prob"),
    ({"data.low_res_corruption": "jpeg"}, "quantise"),
    ({"data.low_res_corruption": "blur"}, "use none, or an upsampler"),
    ({"data.num_threads": 0}, "data.num_threads"),
    ({"train.num_steps": 0}, "train.num_steps=0"),
    ({"train.caption_drop_prob": 2.0}, "train.caption_drop_prob"),
    ({"train.loss_type": "l1"}, "rescaled_kl"),
    ({"train.timestep_sampling": "cubic"}, "loss_second_moment"),
    ({"train.low_pass_factors": (4, 1)}, "train.low_pass_factors=(4, 1)"),
    ({"train.low_pass_factors": (5,)}, "does not divide model.image_px=64"),
    ({"train.low_pass_factors": (4, 4)}, "twice"),
    ({"train.loss_weighting": "p2"}, "min_snr"),
    (
        {"train.loss_weighting": "sigmoid", "train.loss_type": "kl"},
        "train.loss_type=kl does not have",
    ),
    (
        {"train.loss_weighting": "min_snr", "train.low_pass_factors": (4,)},
        "use one of the two",
    ),
    ({"train.loss_weighting_snr": 1.0}, "has no effect"),
    ({"train.timestep_power": 2.0}, "train.timestep_sampling=power"),
    ({"optim.learning_rate": 0.0}, "optim.learning_rate"),
    ({"optim.b2": 1.0}, "optim.b2"),
    ({"optim.schedule": "step"}, "cosine"),
    ({"ema.decays": (1.0,)}, "ema.decays"),
    ({"ema.decays": ()}, "ema.decays"),
    ({"ema.decays": (0.9, 0.9)}, "twice"),
    ({"mesh.fsdp": 0}, "mesh.fsdp=0"),
    ({"mesh.fsdp": -1}, "mesh='data, fsdp'"),
    ({"train.microbatches": 0}, "train.microbatches=0"),
    ({"train.remat": ("some",)}, "use none, dots, blocks, full, offload"),
    ({"train.remat": ("none", "full")}, "give one, or 4: one for each level"),
    ({"train.remat": ()}, "has 0 policies"),
    ({"train.remat_text": "all"}, "train.remat_text='all'"),
    ({"train.min_log2_loss_scale": -1.0}, "train.min_log2_loss_scale"),
    ({"train.stall_secs": 0.01}, "train.stall_secs=0.01"),
    ({"optim.name": "sgd"}, "use adamw, adafactor, lion"),
    ({"optim.moments_dtype": "float16"}, "use float32, bfloat16"),
    ({"ema.every_steps": 0}, "ema.every_steps=0"),
    ({"checkpoint.keep": 0}, "checkpoint.keep"),
    ({"log.every_steps": 0}, "log.every_steps"),
    ({"checkpoint.keep_best": 1}, "checkpoint.keep_best=1"),
    (
        {"checkpoint.every_steps": 10, "checkpoint.local_every_steps": 10},
        "checkpoint.local_every_steps=10 is not below checkpoint.every_steps=10",
    ),
    (
        {
            "checkpoint.keep_best": 1,
            "data.validation_sources": ("shapes:full",),
            "log.validate_every_steps": 300,
        },
        "log.validate_every_steps that divides checkpoint.every_steps=1000",
    ),
    ({"sample.sampler": "euler"}, ", ".join(samplers.SAMPLERS)),
    ({"sample.eta": 0.5}, "sample.sampler=ddim"),
    ({"sample.eta": 0.5, "sample.sampler": "plms"}, "with sample.sampler='plms'"),
    ({"sample.respacing": "lambda2000"}, "use lambda2 to lambda1000"),
    ({"sample.match_low_res": True}, "sample.match_low_res=True"),
    ({"sample.respacing": "150 steps"}, "sample.respacing='150 steps'"),
    ({"diffusion.num_timesteps": 100}, "sample.respacing='150' asks for 150"),
    ({"sample.guidance_scale": -1.0}, "sample.guidance_scale"),
    ({"evaluate.every_steps": -1}, "evaluate.every_steps=-1"),
    ({"evaluate.num_images": 1}, "evaluate.num_images=1"),
    ({"evaluate.every_steps": 5}, "needs evaluate.features; set it, or use 0"),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_a_broken_rule_names_its_setting(changes, message):
    config = resolve.override(defaults.Config(), changes)
    with pytest.raises(UserError) as caught:
        validate.validate(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.patch_px": 5}, "model.patch_px=5"),
        ({"model.image_heads": 7}, "model.image_heads=7"),
        ({"train.caption_drop_prob": 0.2}, "use 0 with model.family=noised_clip"),
        ({"train.timestep_sampling": "loss_second_moment"}, "uniform or power"),
        ({"train.loss_type": "mse"}, "leave it at 'hybrid'"),
        ({"train.remat": ("blocks", "none")}, "has 2 policies; give one"),
        ({"train.low_pass_factors": (4,)}, "train.low_pass_factors"),
        ({"train.loss_weighting": "min_snr"}, "leave it at 'none'"),
        ({"diffusion.num_timesteps": 1001}, "use 1000 or less"),
        ({"evaluate.every_steps": 5}, "not a noised CLIP; use 0"),
    ],
)
def test_clip_has_rules_of_its_own(changes, message):
    clip = defaults.Config(model=defaults.NoisedClipConfig())
    with pytest.raises(UserError, match=message):
        validate.validate(resolve.override(clip, changes))


def test_power_sampling_and_corrupted_upsamplers_are_allowed():
    power = dataclasses.replace(
        defaults.TrainConfig(), timestep_sampling="power", timestep_power=1.0
    )
    validate.validate(defaults.Config(train=power))
    blur = dataclasses.replace(defaults.DataConfig(), low_res_corruption="blur")
    validate.validate(defaults.Config(model=presets.upsampler("tiny"), data=blur))
