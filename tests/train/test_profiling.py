"""Steps to trace are read as Python counts, and those alone are traced."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from glide_jax.errors import UserError
from glide_jax.train import profiling


def test_steps_are_counted_as_python_does():
    assert list(profiling.read_steps("100:103")) == [100, 101, 102]
    assert list(profiling.read_steps(None)) == []


@pytest.mark.parametrize("text", ["5", "5:5", "6:5", "0:2", "a:b", "-1:2", "1:2:3"])
def test_what_names_no_steps_is_refused_in_one_line(text):
    with pytest.raises(UserError, match=f"--profile_steps={text}") as error:
        profiling.read_steps(text)
    assert "\n" not in str(error.value)


def trace(folder, asked, made):
    step_once = jax.jit(lambda x: x + 1)
    state = jnp.zeros(())
    with profiling.Profiler(folder, asked) as profiler:
        for step in made:
            with profiler.step(step, state):
                state = step_once(state)


def test_the_steps_asked_for_are_in_the_trace_and_no_others(tmp_path):
    trace(tmp_path / "profile", asked=range(11, 13), made=range(10, 15))
    (path,) = (tmp_path / "profile").rglob("*.xplane.pb")
    steps = [
        dict(event.stats)["step_num"]
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    assert sorted(steps) == [11, 12]


def test_a_run_that_ends_or_resumes_within_the_steps_traces_the_rest(tmp_path):
    trace(tmp_path / "end", asked=range(2, 9), made=range(1, 4))
    trace(tmp_path / "begin", asked=range(2, 9), made=range(8, 12))
    for name in ("begin", "end"):
        assert list((tmp_path / name).rglob("*.xplane.pb"))


def test_steps_that_are_not_made_leave_no_folder_but_a_line(tmp_path, caplog):
    trace(tmp_path / "profile", asked=range(2, 4), made=range(5, 7))
    assert not (tmp_path / "profile").exists()
    assert "none of steps 2 to 3" in caplog.text
