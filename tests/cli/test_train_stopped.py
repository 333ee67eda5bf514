"""Ctrl-C while a training starts ends it in good order, with nothing left behind."""

from __future__ import annotations

import os
import signal

import pytest

from glide_jax.cli import main, train
from glide_jax.runtime import lifecycle
from glide_jax.train import batches, loop, setup
from tests.train import small_runs


@pytest.fixture
def experiment(make_config, tmp_path):
    """A small run."""
    config = make_config(small_runs.CLIP)
    return small_runs.write_experiment(tmp_path / "experiment.py", config)


def interrupt_before(monkeypatch, module, name):
    """Sends one Ctrl-C when this function is called."""
    real = getattr(module, name)

    def interrupted(*args, **settings):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **settings)

    monkeypatch.setattr(module, name, interrupted)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (train, "define_flags"),
        (loop.setup, "prepare"),
        (batches, "open_sources"),
        (setup, "_first_state"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_ctrl_c_in_a_start_ends_it_with_a_line(
    experiment, tmp_path, monkeypatch, capsys, module, name
):
    interrupt_before(monkeypatch, module, name)
    run = tmp_path / "run"
    code = main.run(["train", f"--config={experiment}", f"--workdir={run}"])
    assert code == lifecycle.ExitCode.PREEMPTED
    told = capsys.readouterr().err
    assert "glide train: stopped by SIGINT before the first step" in told
    assert "Traceback" not in told
    assert not run.exists() or list(run.iterdir()) == []


def test_a_second_ctrl_c_in_a_start_does_not_wait(
    experiment, tmp_path, monkeypatch, capsys
):
    interrupt_before(monkeypatch, loop.setup, "prepare")
    interrupt_before(monkeypatch, setup.validate, "validate")
    code = main.run(["train", f"--config={experiment}", f"--workdir={tmp_path / 'r'}"])
    assert code == lifecycle.ExitCode.INTERRUPTED
    assert "glide train: interrupted" in capsys.readouterr().err


def test_a_stop_before_the_first_step_names_no_checkpoint(
    experiment, tmp_path, monkeypatch, caplog
):
    interrupt_before(monkeypatch, loop.periodic_eval.PeriodicEval, "missing")
    run = tmp_path / "run"
    code = main.run(["train", f"--config={experiment}", f"--workdir={run}"])
    assert code == lifecycle.ExitCode.PREEMPTED
    assert "stopped by a signal; before the first step" in caplog.messages
    assert not (run / "checkpoints").exists()
