"""A flag or a setting that is given twice is refused; some flags may be repeated."""

from __future__ import annotations

import pytest

from glide_jax.cli import main, sample, train
from glide_jax.errors import UserError
from tests import fake_devices

BASE64 = fake_devices.ROOT / "experiments" / "configs" / "base64.py"


def values_of(verb) -> main.flags.FlagValues:
    values = main.flags.FlagValues()
    verb.define_flags(values)
    return values


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed=1", "--seed=2"], "--seed is given twice, as '1' and '2'"),
        (["--seed=1", "x", "--seed", "1"], "--seed is given twice, as '1' and '1'"),
        (["-seed=1", "--seed=-2"], "--seed is given twice, as '1' and '-2'"),
        (["--append", "--noappend"], "--append is given twice, as 'True' and 'False'"),
    ],
)
def test_a_flag_that_is_given_twice_is_named_with_both_values(words, told):
    with pytest.raises(UserError, match=told):
        main.refuse_repeats(values_of(sample), ["glide", *words])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config.seed=1", "--config.seed=2"], "--config.seed .* '1' and '2'"),
        (["--config.ema.warmup=True", "--noconfig.ema.warmup"], "'True' and 'False'"),
        (["--config.mesh.data", "2", "--config.mesh.data=4"], "'2' and '4'"),
        (["--config=a.py", "--config=b.py"], "--config .* 'a.py' and 'b.py'"),
    ],
)
def test_so_is_a_setting(words, told):
    with pytest.raises(UserError, match=told):
        main.refuse_repeats(values_of(train), ["glide", *words])


@pytest.mark.parametrize(
    "words",
    [
        ["--prompt=a corgi", "--prompt=a cat"],
        ["--prompt", "--seed=1", "--seed=2"],  # the first --seed=1 is the prompt
        ["--seed=1", "--", "--seed=2"],
        ["--num_images=1", "--seed=2"],
    ],
)
def test_flags_that_may_be_repeated_and_other_words_are_let_through(words):
    main.refuse_repeats(values_of(sample), ["glide", *words])


def test_the_command_ends_with_one_line(refused):
    line = refused(
        "train",
        f"--config={BASE64}:tiny",
        "--config.train.num_steps=10",
        "--config.train.num_steps=20",
    )
    assert line.startswith("glide train: --config.train.num_steps is given twice")
