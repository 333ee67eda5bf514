"""What is derived from the declaration of the sampling options."""

import dataclasses
import pathlib
import typing

import pytest

from glide_jax import errors
from glide_jax.cli import define, sampling
from glide_jax.cli.main import flags
from glide_jax.config import defaults
from glide_jax.sample import options, stage, stage_inputs

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "sampling.md"


def test_the_typed_keywords_are_the_fields():
    fields = typing.get_type_hints(options.SamplingOptions)
    assert typing.get_type_hints(options.SamplingKeywords) == fields


def test_the_table_of_the_page_is_current():
    assert options.to_markdown() in PAGE.read_text(), (
        "run docs/_ext/generated_pages.py, which writes the tables of docs/sampling.md"
    )


def test_every_option_is_a_flag_of_its_group():
    values = flags.FlagValues()
    for group in ("guidance", "inpaint", "output", "pictures", "steps", "upsampler"):
        sampling.define_options(define.Define(values), group)
    assert set(options.names()) <= set(values)
    values(["glide"])
    assert options.make_options(sampling.read_options(values)) == (
        options.SamplingOptions()
    )


@pytest.mark.parametrize("model", ["base", "upsampler"])
def test_traced_options_are_scalars_of_a_stage(model):
    resolved = options.SamplingOptions().resolve("base", defaults.SampleConfig())
    traced = options.SamplingOptions().traced(model, resolved)
    assert traced.keys() <= set(stage_inputs.SCALARS)
    if model == "base":
        rest = {"strength", "threshold_quantile"}
        assert traced.keys() == set(stage_inputs.SCALARS) - rest


def test_static_options_are_fields_of_the_stages_settings():
    static = {field.name for field in dataclasses.fields(stage.StageSettings)}
    for name in options.names():
        if options.about(name).is_static:
            assert (options.about(name).setting or name) in static


# Without texts and switches: the type checker of the tests refuses other types first.
RANGED = [
    name
    for name in options.names()
    if options.about(name).kind not in ("text", "switch")
]


@pytest.mark.parametrize("name", RANGED)
def test_a_value_outside_its_range_is_refused_by_name(name):
    wrong = {"interval": (5, 1), "choice": "unknown"}
    known = options.about(name)
    value = wrong.get(known.kind, known.least - 1)
    with pytest.raises(errors.UserError, match=name):
        options.make_options({name: value})
