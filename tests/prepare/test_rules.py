"""Each rule drops what its threshold says, and is off at the value of its comment."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest

from glide_jax.cli import main
from glide_jax.config import preparation
from glide_jax.prepare import facts, rules

GOOD = facts.Facts(0, "key", width=100, height=80, caption="a red circle")
OFF = {
    "picture": {"min_px": 0, "max_px": 0, "max_aspect": 0.0, "drop_animated": False},
    "caption": {"min_words": 0, "boilerplate": (), "languages": ()},
}


def config(**changes) -> preparation.PrepareConfig:
    """The defaults, or with changes such as picture={"min_px": 0}."""
    whole = preparation.PrepareConfig()
    for section, values in changes.items():
        changed = dataclasses.replace(getattr(whole, section), **values)
        whole = dataclasses.replace(whole, **{section: changed})
    return whole


CASES = {
    rules.SMALL: ({"height": 63}, {}),
    rules.LARGE: ({"width": 151, "height": 150}, {"picture": {"max_px": 150}}),
    rules.ASPECT: ({"width": 161}, {}),
    rules.ANIMATED: ({"animated": True}, {}),
    rules.SHORT: ({"caption": "circle"}, {}),
    rules.BOILERPLATE: ({"caption": "Image may contain: a dog"}, {}),
    rules.LANGUAGE: (
        {"language": "de", "confidence": 0.95},
        {"caption": {"languages": ("en",)}},
    ),
}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_drops_and_can_be_off(rule):
    fields, changes = CASES[rule]
    bad = dataclasses.replace(GOOD, **fields)
    assert rules.PairRules(config(**changes)).check(GOOD) is None
    assert rules.PairRules(config(**changes)).check(bad).rule == rule
    assert rules.PairRules(config(**OFF)).check(bad) is None


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"height": 50}, None),  # the ratio is 2 exactly, and min_px is off
        ({"height": 49}, rules.ASPECT),
        ({"width": 40, "height": 80}, None),
        ({"width": 39, "height": 80}, rules.ASPECT),
    ],
)
def test_the_aspect_may_be_two_in_both_directions(fields, rule):
    bad = dataclasses.replace(GOOD, **fields)
    found = rules.PairRules(config(picture={"min_px": 0})).check(bad)
    assert (found and found.rule) == rule


@pytest.mark.parametrize(
    "caption", ["IMG_2041.JPG", "see http://a.example/b", "photo 12", "www.a.example x"]
)
def test_boilerplate_is_recognised(caption):
    found = rules.PairRules(config(caption={"min_words": 0})).check(
        dataclasses.replace(GOOD, caption=caption)
    )
    assert found.rule == rules.BOILERPLATE


def test_a_language_is_dropped_only_if_it_is_certain():
    check = rules.PairRules(config(caption={"languages": ("en",)})).check
    unsure = dataclasses.replace(GOOD, language="de", confidence=0.89)
    assert check(unsure) is None
    assert check(dataclasses.replace(GOOD, language="en", confidence=1.0)) is None


def test_a_classifier_drops_from_its_threshold_on():
    check = rules.PairRules(config(), [("people", 0.5), ("nice", None)]).check
    assert check(dataclasses.replace(GOOD, scores=(0.49, 9.0))) is None
    found = check(dataclasses.replace(GOOD, scores=(0.5, 9.0)))
    assert found.rule == "classifier:people"


CONFIG = "--config=experiments/data/prepare.py"
SHAPES = "--config.data.sources=shapes:quickstart"
DATAFLOW = "--project=p --region=r --temp_location=t --sdk_container_image=i"
READY = ["--output=o", CONFIG, SHAPES]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([CONFIG, SHAPES], "--output is missing"),
        (["--output=o"], "--config is missing"),
        (["--output=o", CONFIG], "data.sources is empty"),
        (
            ["--output=o", CONFIG, "--config.data.sources=folder:absent"],
            "folder:absent is not a folder",
        ),
        ([*READY, "--config.duplicates.max_distance=5"], "use -1 to 4"),
        ([*READY, "--config.picture.min_pix=5"], "min_pix is not a setting"),
        (
            [*READY, "--config.caption.boilerplate=('(',)"],
            "is not a regular expression",
        ),
        ([*READY, "--config.caption.languages=('english',)"], "ISO 639-1"),
        (
            [*READY, "--config.classifiers.examples=('absent/people',)"],
            "absent/people has no folder positives",
        ),
        ([*READY, "--runner=storm"], "local, dask, flink, spark or dataflow"),
        ([*READY, "--runner=dataflow"], "needs project, region"),
        ([*READY, "--runner=dask", "--processes=2"], "is of --runner=local"),
        (
            [*READY, "--runner=dataflow", f"--runner_options={DATAFLOW}"],
            'pip install "apache-beam[gcp]"',
        ),
        ([*READY, "--runner_options=--no_such"], "--no_such is not an option of Beam"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason='needs pip install -e ".[prepare]"')
    monkeypatch.chdir(tmp_path)
    assert main.run(["data", "prepare", *words]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "o").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is not None,
    reason="the extra [prepare] is installed",
)
def test_without_the_extra_the_line_names_it(capsys):
    assert main.run(["data", "prepare", *READY]) == 2
    assert 'pip install -e ".[prepare]"' in capsys.readouterr().err
