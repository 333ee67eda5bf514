"""What is kept is what any policy wants, and asking again changes nothing."""

from __future__ import annotations

import datetime
import random

import pytest

from glide_jax.checkpoint import folders, manifest, store
from glide_jax.config.defaults import CheckpointConfig
from tests.checkpoint import states

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def record(step, hours=None, **metrics):
    hours = step if hours is None else hours
    return folders.Record(step, START + datetime.timedelta(hours=hours), metrics)


def kept(records, bad_from=None, **policy):
    policy = CheckpointConfig(**policy)
    gone = folders.to_delete(records, policy, bad_from)
    return [r.step for r in records if r.step not in gone]


RECORDS = [record(step) for step in range(1, 13)]


@pytest.mark.parametrize(
    ("policy", "steps"),
    [
        ({"keep": 3}, [10, 11, 12]),
        ({"keep": 1, "keep_every_steps": 5}, [5, 10, 12]),
        ({"keep": 1, "keep_every_hours": 4.0}, [1, 5, 9, 12]),
        ({"keep": 1, "keep_every_hours": 1e12}, [1, 12]),
        (
            {"keep": 2, "keep_every_steps": 6, "keep_every_hours": 9.0},
            [1, 6, 10, 11, 12],
        ),
        ({"keep": 20}, list(range(1, 13))),
    ],
)
def test_a_step_stays_that_any_policy_wants(policy, steps):
    assert kept(RECORDS, **policy) == steps


def test_the_best_are_those_of_the_lowest_finite_metric():
    values = {1: 0.5, 2: 0.2, 3: float("nan"), 4: 0.2, 5: 0.1, 6: float("-inf")}
    records = [record(step, **{"validation/loss": v}) for step, v in values.items()]
    records += [record(7), record(8)]
    assert kept(records, keep=1, keep_best=2) == [2, 5, 8]
    assert kept(records, keep=1, keep_best=2, best_metric="other") == [8]


def test_the_newest_stays_whatever_the_policy():
    assert kept([record(1), record(2)], keep=0) == [2]


def test_the_step_to_go_back_to_stays_whatever_the_policy():
    assert kept(RECORDS, bad_from=4, keep=2) == [3, 11, 12]
    assert kept(RECORDS, bad_from=1, keep=2) == [11, 12]


def test_deleting_at_every_save_keeps_what_deleting_once_at_the_end_would():
    rng = random.Random(0)
    for _ in range(50):
        policy = {
            "keep": rng.randint(1, 4),
            "keep_every_steps": rng.choice([0, 3, 10]),
            "keep_every_hours": rng.choice([0.0, 2.5, 7.0]),
            "keep_best": rng.randint(0, 3),
        }
        records = [
            record(step, hours=step * 0.7, **{"validation/loss": rng.random()})
            for step in range(1, 40)
        ]
        left = []
        for new in records:
            left = [r for r in [*left, new] if r.step in kept([*left, new], **policy)]
        assert [r.step for r in left] == kept(records, **policy)


def test_a_store_deletes_what_its_policy_does_not_keep(tmp_path):
    policy = CheckpointConfig(keep=1, keep_best=1, best_metric="loss")
    with store.CheckpointStore(tmp_path, policy) as writer:
        for step, loss in ((1, 0.5), (2, 0.1), (3, 0.3), (4, 0.4)):
            writer.save(step, states.make_items(step), {}, {"loss": loss})
            writer.wait()
    assert writer.steps() == [2, 4]
    assert manifest.read(tmp_path / "2").metrics == {"loss": 0.1}


def test_a_write_that_fails_deletes_nothing(tmp_path):
    states.write(tmp_path, 1)
    writer = store.CheckpointStore(tmp_path, CheckpointConfig(keep=1))
    (tmp_path / "2.unfinished").write_text("a file where a folder has to be")
    assert not writer.save(2, states.make_items(2), {})
    assert "was not written" in writer.poll()
    assert writer.steps() == [1]
