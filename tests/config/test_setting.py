"""Every setting declares its values and its part in a resumed run."""

import dataclasses

import pytest

from glide_jax.config import defaults
from glide_jax.config.setting import ARRAYS, FREE, HISTORY, IDENTITY, Rule, rules_of

CLASSES = [
    defaults.Config,
    *defaults.MODEL_FAMILIES.values(),
    *defaults.SECTIONS.values(),
]
SECTION_NAMES = {"model", *defaults.SECTIONS}


@pytest.mark.parametrize("section", CLASSES, ids=lambda section: section.__name__)
def test_every_setting_is_classified(section):
    names = {field.name for field in dataclasses.fields(section)}
    if section is defaults.Config:
        names -= SECTION_NAMES
    assert rules_of(section).keys() == names, "declare it with setting(...)"


@pytest.mark.parametrize("section", CLASSES, ids=lambda section: section.__name__)
def test_every_default_is_allowed_by_its_rule(section):
    values = section()
    for name, rule in rules_of(section).items():
        assert rule.allows(getattr(values, name)), name


def test_families_agree_on_the_settings_that_they_share():
    text2im, clip = map(rules_of, defaults.MODEL_FAMILIES.values())
    for name in text2im.keys() & clip.keys():
        assert text2im[name].on_resume == clip[name].on_resume, name


# What a resumed run may change is a promise to its users, so it is stated here as well.
NOT_FREE = {
    "seed": IDENTITY,
    "diffusion.schedule": IDENTITY,
    "diffusion.num_timesteps": HISTORY,
    "diffusion.prediction": IDENTITY,
    "data.sources": IDENTITY,
    "data.weights": IDENTITY,
    "data.tokenizer": IDENTITY,
    "data.low_res_corruption": IDENTITY,
    "data.low_res_corruption_strength": IDENTITY,
    "data.flip_prob": IDENTITY,
    "train.global_batch_size": IDENTITY,
    "train.caption_drop_prob": IDENTITY,
    "train.loss_type": IDENTITY,
    "train.loss_weighting": IDENTITY,
    "train.loss_weighting_snr": IDENTITY,
    "train.low_pass_factors": IDENTITY,
    "train.timestep_sampling": HISTORY,
    "train.timestep_power": IDENTITY,
    "train.init_from": IDENTITY,
    "train.student_steps": IDENTITY,
    "train.student_loss": ARRAYS,
    "optim.name": ARRAYS,
    "optim.moments_dtype": IDENTITY,
    "ema.decays": ARRAYS,
}


def test_the_settings_that_identify_a_run():
    rules = defaults.rules()
    model = {path for path in rules if path.startswith("model.")}
    found = {
        path: rule.on_resume
        for path, rule in rules.items()
        if rule.on_resume != FREE and path not in model
    }
    assert found == NOT_FREE
    not_arrays = {path for path in model if rules[path].on_resume != ARRAYS}
    assert not_arrays == {
        "model.dropout_prob",
        "model.compute_dtype",
        "model.residual_low_res",
    }
    assert all(rules[path].on_resume == IDENTITY for path in not_arrays)


@pytest.mark.parametrize(
    ("rule", "allowed", "refused", "described"),
    [
        (Rule(FREE), ["any", 3, ()], [], ""),
        (Rule(FREE, low=1), [1, 2.5, (1, 2)], [0, (1, 0)], "1 or more"),
        (Rule(FREE, above=0), [0.1], [0.0, -1], "more than 0"),
        (Rule(FREE, low=0, high=1), [0, 1], [-0.1, 1.1], "0 to 1"),
        (Rule(FREE, low=0, below=1), [0], [1], "0 or more, less than 1"),
        (Rule(FREE, choices=("a", "b")), ["a", ("b",)], ["c", ("a", "c")], "a, b"),
        (Rule(FREE, choices=lambda: ("a",)), ["a"], ["b"], "a"),
    ],
)
def test_a_rule_allows_its_values(rule, allowed, refused, described):
    assert all(map(rule.allows, allowed))
    assert not any(map(rule.allows, refused))
    assert rule.describe() == described
