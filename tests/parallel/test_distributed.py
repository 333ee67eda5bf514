"""Coordination of processes, in a single process; tests/train runs several."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import jax
import pytest

from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.parallel import distributed
from glide_jax.runtime import lifecycle

CONFIG = defaults.Config()


@pytest.fixture
def process_0(monkeypatch):
    """process_0(change): what process 0 shares is what this one would, changed."""

    def set_up(change):
        def from_first(name, make):
            value = json.loads(make())
            change(value)
            return json.dumps(value).encode()

        monkeypatch.setattr(distributed, "from_first", from_first)

    return set_up


GLOO = (
    "UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:538] "
    "Read error [127.0.0.1]:39314: Connection reset by peer"
)


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (jax.errors.JaxRuntimeError(GLOO), True),
        (ValueError(GLOO), True),  # of a program that JAX itself starts
        (jax.errors.JaxRuntimeError("INTERNAL: a bug"), False),
        (ValueError("UNKNOWN: a bug"), False),
        (ValueError("--socket=3: connection refused"), False),  # somebody else's
    ],
)
def test_is_peer_lost_distinguishes_other_errors(error, is_lost):
    assert distributed.is_peer_lost(error) == is_lost


def test_a_single_process_does_not_wait(monkeypatch):
    monkeypatch.delenv("GLIDE_JAX_NUM_PROCESSES", raising=False)
    with distributed.Together(CONFIG):
        assert not distributed.is_joined()
        assert distributed.from_first("x", lambda: b"mine") == b"mine"
        distributed.check_equal("x", 1, "")
        distributed.wait_for_all("x")
        with lifecycle.StopRequest() as stop:
            poll = distributed.StopPoll(stop)
            assert not poll()
            os.kill(os.getpid(), signal.SIGTERM)
            assert poll()
            assert poll.is_stopping


def test_equal_facts_are_accepted(process_0):
    process_0(lambda facts: None)
    distributed.check_facts(CONFIG)


@pytest.mark.parametrize("name", ["glide_jax", "jax", "jaxlib", "python"])
def test_a_different_version_is_an_error_with_both(process_0, name):
    process_0(lambda facts: facts[1].update({name: "0.0.0"}))
    with pytest.raises(UserError, match=rf"{name} .*process 0 \(.*\) 0\.0\.0; install"):
        distributed.check_facts(CONFIG)


def test_different_settings_are_an_error_with_both(process_0):
    def change(facts):
        settings = json.loads(facts[2])
        settings["seed"] = 7
        facts[2] = json.dumps(settings)

    process_0(change)
    with pytest.raises(
        UserError, match=r"than process 0 \(.*\): seed: 7 -> 1;"
    ) as error:
        distributed.check_facts(dataclasses.replace(CONFIG, seed=1))
    assert "\n" not in str(error.value)


def test_an_edited_file_changes_the_code_digest(tmp_path):
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "b.py"
    file.write_text("x = 1\n")
    before = distributed.code_digest(tmp_path)
    assert distributed.code_digest(tmp_path) == before
    file.write_text("x = 2\n")
    assert distributed.code_digest(tmp_path) != before
