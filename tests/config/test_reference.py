"""The reference of settings is complete, and docs/settings.md is current."""

from __future__ import annotations

import dataclasses

import pytest

from glide_jax.cli import main
from glide_jax.config import defaults, reference
from glide_jax.errors import UserError
from tests import fake_devices


def test_the_page_is_what_the_command_prints(capsys):
    assert main.run(["settings", "--markdown"]) == 0
    page = (fake_devices.ROOT / "docs" / "settings.md").read_text()
    assert page == capsys.readouterr().out, (
        "write it again: glide settings --markdown > docs/settings.md"
    )


def test_every_setting_is_there_with_a_meaning():
    settings = [s for section in reference.sections() for s in section.settings]
    names = {setting.name for setting in settings}
    for family in defaults.MODEL_FAMILIES.values():
        config = dataclasses.asdict(defaults.Config(model=family()))
        for section, values in config.items():
            if not isinstance(values, dict):
                assert section in names
                continue
            assert {f"{section}.{name}" for name in values} <= names
    assert [setting.name for setting in settings if not setting.meaning] == []


def test_a_comment_of_several_lines_and_one_beside_the_field_are_read():
    (section,) = reference.sections("ema.")
    meanings = {setting.name: setting.meaning for setting in section.settings}
    assert meanings["ema.warmup"].startswith("decay at step k is min(")
    assert meanings["ema.warmup"].endswith("forgets its initialisation (ours)")
    assert meanings["ema.every_steps"].startswith("updates between EMA updates")


@pytest.mark.parametrize("argv", [["help", "settings"], ["settings"]])
def test_the_command_prints_all(argv, capsys):
    assert main.run(argv) == 0
    assert "--config.train.num_steps=1000\n" in capsys.readouterr().out


def test_the_command_prints_one_section(capsys):
    assert main.run(["settings", "data"]) == 0
    shown = capsys.readouterr().out
    assert "--config.data.flip_prob=0.0" in shown
    assert "--config.train." not in shown


def test_an_unknown_section_is_refused():
    with pytest.raises(UserError, match="'trian'; did you mean train"):
        reference.sections("trian")
