"""The driver of the comparison with the reference implementation."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from tests import fake_devices

FOLDER = fake_devices.ROOT / "experiments" / "benchmarks"


@pytest.fixture(scope="module")
def side_by_side():
    spec = importlib.util.spec_from_file_location(
        "side_by_side", FOLDER / "side_by_side.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_row(image: float, base: float) -> dict:
    return {
        "benchmark": "sample",
        "seconds_per_image": {"median": image},
        "stages": {"base": {"seconds_per_pass": {"median": base}}},
    }


def test_a_ratio_is_our_time_over_theirs_round_by_round(side_by_side):
    ours = [make_row(2.0, 1.0), make_row(6.0, 1.0), make_row(3.0, 1.0)]
    theirs = [make_row(2.0, 2.0), make_row(3.0, 2.0), make_row(2.0, 4.0)]
    assert side_by_side.ratios(ours, theirs) == {
        "image": {"median": 1.5, "min": 1.0, "max": 2.0},
        "base": {"median": 0.5, "min": 0.25, "max": 0.5},
    }


def test_training_steps_have_one_ratio(side_by_side):
    def rows(*seconds):
        return [
            {"benchmark": "train", "step_seconds": {"median": median}}
            for median in seconds
        ]

    found = side_by_side.ratios(rows(3.0, 2.0), rows(2.0, 4.0))
    assert found == {"step": {"median": 1.0, "min": 0.5, "max": 1.5}}


def test_both_sides_train_the_same_batch(side_by_side, monkeypatch):
    given = ["--checkout=c", "--torch_python=python", "--output=o", "--train"]
    monkeypatch.setattr(sys, "argv", ["side_by_side.py", *given, "--batch=2"])
    ours, theirs = side_by_side.make_commands(side_by_side.read_arguments()).values()
    shared = {"--batch=2", "--compute_dtype=float32", "--repeats=10"}
    assert {flag for flag in set(ours) & set(theirs) if flag[:2] == "--"} == shared
    assert "train" in ours
    assert {"--train", "--stages=base"} <= set(theirs)


@pytest.mark.parametrize("flag", ["--passes=2", "--base_only", "--guidance_mode=cfg"])
def test_flags_of_sampling_are_refused_in_training(
    side_by_side, monkeypatch, capsys, flag
):
    given = ["--checkout=c", "--torch_python=python", "--output=o", "--train", flag]
    monkeypatch.setattr(sys, "argv", ["side_by_side.py", *given])
    with pytest.raises(SystemExit):
        side_by_side.read_arguments()
    assert flag.partition("=")[0] in capsys.readouterr().err


def test_the_sides_take_turns_and_their_last_line_counts(side_by_side, tmp_path):
    log = tmp_path / "log"

    def command(name: str) -> list[str]:
        row = json.dumps({"name": name})
        code = f"open({str(log)!r}, 'a').write({name!r}); print('x'); print({row!r})"
        return [sys.executable, "-c", code]

    rows = side_by_side.alternate({"a": command("a"), "b": command("b")}, rounds=2)
    assert rows == {"a": [{"name": "a"}] * 2, "b": [{"name": "b"}] * 2}
    assert log.read_text() == "abab"


def test_a_side_that_fails_ends_the_comparison(side_by_side):
    failing = {"a": [sys.executable, "-c", "raise SystemExit(3)"]}
    with pytest.raises(SystemExit, match="a failed"):
        side_by_side.alternate(failing, rounds=1)


@pytest.mark.parametrize("flags", [[], ["--passes=2", "--base_only", "--batch=3"]])
def test_both_sides_are_asked_for_the_same(side_by_side, monkeypatch, flags):
    given = ["--checkout=c", "--torch_python=python", "--output=o", *flags]
    monkeypatch.setattr(sys, "argv", ["side_by_side.py", *given])
    commands = side_by_side.make_commands(side_by_side.read_arguments())
    ours, theirs = (
        {flag for flag in command if flag.startswith("--")}
        for command in commands.values()
    )
    shared = {"--guidance_mode=cfg", "--compute_dtype=float32"}
    shared |= {"--passes=2", "--batch=3"} if flags else {"--batch=1"}
    assert ours & theirs == shared
    with_upsampler = any(flag.startswith("--upsampler_config") for flag in ours)
    assert with_upsampler == ("--stages=base" not in theirs) == (not flags)


def test_a_single_pass_is_refused_because_the_other_side_has_no_such_chain(
    side_by_side, monkeypatch, capsys
):
    given = ["--checkout=c", "--torch_python=python", "--output=o", "--passes=1"]
    monkeypatch.setattr(sys, "argv", ["side_by_side.py", *given])
    with pytest.raises(SystemExit):
        side_by_side.read_arguments()
    assert "at least 2 timesteps" in capsys.readouterr().err


def test_students_draw_in_their_own_steps_and_the_checkout_in_passes(
    side_by_side, monkeypatch
):
    given = ["--checkout=c", "--torch_python=python", "--output=o", "--students"]
    monkeypatch.setattr(sys, "argv", ["side_by_side.py", *given, "--passes=2"])
    ours, theirs = side_by_side.make_commands(side_by_side.read_arguments()).values()
    assert any("base64_halve.py:released" in word for word in ours)
    assert "--passes=2" in theirs
    assert "--passes=2" not in ours
