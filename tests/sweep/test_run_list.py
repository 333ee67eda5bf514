"""Plans of sweeps: ids, command lines, and plan.json."""

from __future__ import annotations

import json
import pathlib

import pytest

from glide_jax.errors import UserError
from glide_jax.sweep import run_list

PAIRS = "product(listed('optim.learning_rate', [1e-4, 3e-3]), seeds(2))"
TRAIN = "train --config=experiments/configs/base64.py:tiny"


def ids(plan) -> list[str]:
    return [run.id for run in plan.runs]


def test_an_id_is_the_same_in_every_process_and_version(make_plan):
    # Folders exist that are called by it. `sha256sum` of this text begins so:
    # {"command":["evaluate","--base=bundle"],"overrides":{"seed":0}}
    assert ids(make_plan("seeds(1)")) == ["c8406d6d83"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[{'a': 1, 'b': 2}]", "[{'b': 2, 'a': 1}]"),
        ("[{'a': (1, 2)}]", "[{'a': [1, 2]}]"),
        ("[{'a': 3}]", "[{'a': 3.0}]"),
    ],
)
def test_the_same_settings_have_one_id(make_plan, one, other):
    assert ids(make_plan(one)) == ids(make_plan(other))


@pytest.mark.parametrize("other", ["{'a': 2}", "{'b': 1}", "{'a': '1'}", "{'a': True}"])
def test_other_settings_have_another_id(make_plan, other):
    assert ids(make_plan("[{'a': 1}]")) != ids(make_plan(f"[{other}]"))


def test_command_and_shared_flags_take_part_in_the_id(make_plan):
    made = [
        make_plan("seeds(1)"),
        make_plan("seeds(1)", "--num_images=8"),
        make_plan("seeds(1)", command=TRAIN),
    ]
    assert len({run for plan in made for run in ids(plan)}) == 3


def test_two_runs_with_one_id_are_refused(make_plan):
    with pytest.raises(UserError, match=r"runs 0 and 2 of small are the same.*one id"):
        make_plan("[{'a': 1}, {'a': 2}, {'a': 1.0}]")


@pytest.mark.parametrize(
    "runs",
    [
        "[{'respacing': 27}, {'respacing': '27'}]",
        "[{'a': True, 'b': 1}, {'b': 1, 'a': 'True'}]",
        "[{'a': [1, 2]}, {'a': '1,2'}]",
    ],
)
def test_two_runs_with_one_command_line_are_refused(make_plan, runs):
    with pytest.raises(UserError, match=r"runs 0 and 1 of small.*one command line;"):
        make_plan(runs)


def test_a_label_shows_what_varies_and_no_more(make_plan):
    plan = make_plan(f"product({PAIRS}, listed('model.image_px', [8]))")
    assert plan.runs[1].label == "learning_rate=0.0001,seed=1"
    both = make_plan(
        "product(listed('a.x', [1, 2]), listed('b.x', [(0.9, 0.5), (1,)]))"
    )
    assert both.runs[0].label == "a.x=1,b.x=0.9+0.5"
    assert make_plan("[{'ema.every_steps': 2}]").runs[0].label == "every_steps=2"


def test_a_training_run_gets_settings_and_a_workdir(make_plan):
    runs = "[{'ema.decays': (0.9,), 'optim.learning_rate': 1e-5, 'ema.warmup': False}]"
    plan = make_plan(runs, "--config.seed=3", command=TRAIN)
    assert run_list.arguments(plan, plan.runs[0], pathlib.Path("root")) == [
        *TRAIN.split(),
        "--config.seed=3",
        "--config.ema.decays=(0.9,)",
        "--config.optim.learning_rate=1e-05",
        "--config.ema.warmup=False",
        f"--workdir=root/runs/{plan.runs[0].id}",
    ]


def test_another_verb_gets_flags_and_an_output(make_plan):
    plan = make_plan("[{'sampler': 'ddim', 'guidance_interval': [200, 800]}]")
    words = run_list.arguments(plan, plan.runs[0], pathlib.Path("root"))
    assert words[2:] == [
        "--sampler=ddim",
        "--guidance_interval=200,800",
        f"--output=root/runs/{plan.runs[0].id}",
    ]


def test_a_plan_that_was_kept_is_read_back(make_plan, root):
    plan = make_plan(PAIRS, "--num_images=8")
    run_list.keep(plan, root)
    assert run_list.read(root) == plan


def test_runs_may_be_added_and_not_taken_away(make_plan, root):
    run_list.keep(make_plan("seeds(2)"), root)
    run_list.keep(make_plan("seeds(3)"), root)
    assert len(run_list.read(root).runs) == 3
    with pytest.raises(UserError, match="1 of its runs are missing, seed=2"):
        run_list.keep(make_plan("seeds(2)"), root)


def test_a_folder_of_another_sweep_is_refused_with_the_difference(make_plan, root):
    run_list.keep(make_plan("seeds(2)"), root)
    before = (root / "plan.json").read_text()
    with pytest.raises(UserError) as refused:
        run_list.keep(make_plan("seeds(2)", "--num_images=8", command=TRAIN), root)
    assert f"its command was 'evaluate --base=bundle' and is '{TRAIN}'" in str(
        refused.value
    )
    assert "what follows -- was '' and is '--num_images=8'" in str(refused.value)
    assert (root / "plan.json").read_text() == before


PLAN = (
    '{"schema": 1, "name": "small", "command": ["train"], "shared": [], "runs": '
    '[{"id": "ab", "label": "", "overrides": {"seed": 0}}]}'
)


def test_the_plan_that_others_are_made_of_can_be_read(root):
    root.mkdir()
    (root / "plan.json").write_text(PLAN)
    assert run_list.read(root).runs == (run_list.SweepRun("ab", "", {"seed": 0}),)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "is not a sweep.s plan"),
        ("[]", "is not a sweep.s plan"),
        ('{"schema": 0}', "has schema 0, and this version reads 1"),
        ('{"schema": 1, "runs": [{"id": 1}]}', "is not a sweep.s plan"),
        (PLAN.replace('"train"', "7"), "its command is not a list of words"),
        (PLAN.replace('{"seed": 0}', "[]"), r"'overrides' is \[\], not dict"),
        (PLAN.replace('"ab"', "5"), "'id' is 5, not str"),
    ],
)
def test_a_plan_that_cannot_be_read_is_named(root, text, named):
    root.mkdir()
    (root / "plan.json").write_text(text)
    with pytest.raises(UserError, match=named):
        run_list.read(root)


def test_plan_json_is_json_of_one_schema(make_plan, root):
    run_list.keep(make_plan("listed('ema.decays', [(0.9,), (0.5,)])"), root)
    fields = json.loads((root / "plan.json").read_text())
    assert fields["schema"] == run_list.SCHEMA
    assert [run["overrides"] for run in fields["runs"]] == [
        {"ema.decays": [0.9]},
        {"ema.decays": [0.5]},
    ]


def test_a_later_group_of_flags_replaces_an_earlier_one(make_plan):
    plan = make_plan(
        "[{'optim.eps': 3}]",
        "--config.seed=2",
        "--config.optim.eps=2",
        command=f"{TRAIN} --config.seed 1 --config.train.num_steps=4",
    )
    assert run_list.arguments(plan, plan.runs[0], pathlib.Path("root")) == [
        *TRAIN.split(),
        "--config.train.num_steps=4",
        "--config.seed=2",
        "--config.optim.eps=3",
        f"--workdir=root/runs/{plan.runs[0].id}",
    ]
