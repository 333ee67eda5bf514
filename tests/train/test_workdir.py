"""A folder belongs to one run: what may change between starts, and what may not."""

from __future__ import annotations

import pytest

from glide_jax.config import resolve
from glide_jax.errors import UserError
from glide_jax.train import workdir as workdirs
from tests.train.small_runs import CLIP


@pytest.fixture
def folder(make_config, tmp_path):
    """A workdir that holds the settings of a small run."""
    workdirs.save_config(tmp_path, make_config())
    return tmp_path


def test_the_settings_come_back(folder, make_config):
    assert workdirs.load_config(folder) == make_config()
    workdirs.save_config(folder, make_config())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model.text_layers": 2}, r"model\.text_layers: 1 -> 2"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"data.sources": ("shapes:full",)}, r"data\.sources"),
        ({"diffusion.schedule": "linear"}, r"diffusion\.schedule"),
        ({"ema.decays": (0.9,)}, r"ema\.decays"),
        ({"train.timestep_sampling": "loss_second_moment"}, "timestep_sampling"),
    ],
)
def test_a_change_of_what_is_trained_is_refused_and_named(
    folder, make_config, changes, named
):
    before = (folder / "config.json").read_text()
    with pytest.raises(UserError, match=named):
        workdirs.save_config(folder, make_config(changes=changes))
    assert (folder / "config.json").read_text() == before


def test_a_model_of_another_family_is_refused(folder, make_config):
    with pytest.raises(UserError, match="text2im -> noised_clip"):
        workdirs.save_config(folder, make_config(CLIP))


@pytest.mark.parametrize(
    "changes",
    [
        {"train.num_steps": 9},
        {"optim.learning_rate": 1e-5},
        {"log.every_steps": 7, "checkpoint.every_steps": 3},
    ],
)
def test_a_change_of_how_long_or_how_fast_is_taken_over(folder, make_config, changes):
    changed = make_config(changes=changes)
    workdirs.save_config(folder, changed)
    assert workdirs.load_config(folder) == changed
    assert resolve.differences(make_config(), changed)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as error:
        workdirs.prepare(tmp_path / "file" / "run")
    assert "\n" not in str(error.value)


def test_trying_a_folder_leaves_no_trace(tmp_path):
    workdirs.prepare(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_of_something_else_is_no_workdir(tmp_path):
    with pytest.raises(UserError, match="no workdir"):
        workdirs.load_config(tmp_path)
