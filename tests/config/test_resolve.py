"""Settings survive every form they travel in, and mistakes are named."""

import dataclasses

import pytest

from glide_jax import presets
from glide_jax.config import defaults, resolve
from glide_jax.errors import UserError

CONFIGS = [
    defaults.Config(model=model)
    for model in (presets.base("tiny"), presets.upsampler("paper"))
] + [defaults.Config(name="clip", seed=3, model=presets.noised_clip("released"))]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model.family)
def test_a_config_survives_json_and_config_dict(config):
    assert resolve.from_json(resolve.to_json(config)) == config
    assert resolve.from_config_dict(resolve.to_config_dict(config)) == config


def test_a_config_dict_is_locked_and_keeps_tuples():
    config_dict = resolve.to_config_dict(defaults.Config())
    assert config_dict.ema.decays == (0.9999,)
    with pytest.raises(AttributeError, match="learning_rate"):
        config_dict.optim.learnin_rate = 1.0


def test_an_override_of_a_config_dict_reaches_the_dataclass():
    config_dict = resolve.to_config_dict(defaults.Config())
    config_dict.model.channel_mult = (1, 2)
    config_dict.optim.learning_rate = 1  # a whole number where a float stands
    config = resolve.from_config_dict(config_dict)
    assert config.model.channel_mult == (1, 2)
    assert isinstance(config.optim.learning_rate, float)


def test_a_file_without_a_newer_key_takes_the_default():
    config = resolve.from_json('{"model": {"family": "noised_clip"}}')
    assert config == defaults.Config(model=defaults.NoisedClipConfig())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.learning_rte": 1.0}, r"did you mean optim\.learning_rate\?"),
        ({"optm.learning_rate": 1.0}, r"did you mean optim\?"),
        ({"model.image_px.x": 1}, r"image_px"),
        ({"train.num_steps": 1.5}, r"train\.num_steps=1\.5 is a float.*whole number"),
        ({"train.num_steps": True}, r"train\.num_steps=True is a bool"),
        ({"ema.warmup": 1}, r"ema\.warmup=1 is a int; use a bool"),
        ({"ema.decays": 0.9}, r"ema\.decays=0\.9 is a float; use a tuple"),
        ({"ema.decays": ("a",)}, r"ema\.decays\[0\]='a'.*use a number$"),
        ({"optim.learning_rate": float("nan")}, r"optim\.learning_rate=nan"),
        ({"data.tokenizer": None}, r"data\.tokenizer=None.*use a text$"),
        ({"model.family": "vae"}, r"use text2im or noised_clip"),
        ({"model.family": "noised_clip"}, r"model\.num_channels is not a setting"),
    ],
)
def test_a_wrong_key_or_type_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        resolve.override(defaults.Config(), changes)


@pytest.mark.parametrize("text", ["{", "[]", '{"train": 3}', '{"model": 3}'])
def test_broken_json_is_a_user_error(text):
    with pytest.raises(UserError):
        resolve.from_json(text)


def test_override_changes_only_what_it_names():
    before = defaults.Config()
    after = resolve.override(before, {"optim.learning_rate": 1e-3, "seed": 7})
    assert resolve.differences(before, after) == [
        "seed: 0 -> 7",
        "optim.learning_rate: 0.0001 -> 0.001",
    ]
    assert resolve.differences(before, before) == []


def test_differences_of_families_name_absent_fields():
    clip = dataclasses.replace(defaults.Config(), model=defaults.NoisedClipConfig())
    lines = resolve.differences(defaults.Config(), clip)
    assert "model.num_channels: 192 -> (absent)" in lines
    assert "model.image_width: (absent) -> 768" in lines


def test_a_key_is_a_setting_or_a_section_or_its_nearest_is_named():
    config = defaults.Config()
    for name in ("seed", "model", "model.compute_dtype", "data.sources"):
        resolve.check_key(config, name)
    with pytest.raises(UserError, match=r"did you mean data\.sources"):
        resolve.check_key(config, "data.source")
    with pytest.raises(UserError, match=r"'' is not a setting; e\.g\."):
        resolve.check_key(config, "")
