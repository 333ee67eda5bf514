"""Going back to the last good checkpoint, and past the batches that led astray.

passed_over.json in the workdir holds the steps whose batches no update is made from
any more. It is written after the later checkpoints are gone: a run cut off between the
two comes to the same place again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib

import jax

from glide_jax.errors import DivergedError
from glide_jax.train import setup


@dataclasses.dataclass(frozen=True)
class PassedOver:
    """Steps that consume their batch and change nothing; how often a run went back."""

    steps: frozenset[int] = frozenset()
    rewinds: int = 0


def load(workdir: pathlib.Path) -> PassedOver:
    """What the runs of this folder have passed over so far."""
    path = _path(workdir)
    if not path.exists():
        return PassedOver()
    stored = json.loads(path.read_text())
    return PassedOver(frozenset(stored["steps"]), stored["rewinds"])


def save(workdir: pathlib.Path, passed_over: PassedOver) -> None:
    """Writes it whole or not at all; one process does so for all."""
    if jax.process_index() == 0:
        scratch = _path(workdir).with_suffix(".tmp")
        steps = sorted(passed_over.steps)
        text = json.dumps({"rewinds": passed_over.rewinds, "steps": steps})
        scratch.write_text(text + "\n")
        os.replace(scratch, _path(workdir))


def go_back(run: setup.Run, passed_over: PassedOver, bad: range) -> PassedOver:
    """Removes the checkpoints made since the `bad` steps began, and marks these.

    Args:
      run: its newest checkpoint is then the one to go on from.
      passed_over: until now.
      bad: the steps in a row whose updates were skipped.

    Raises:
      DivergedError: there is no checkpoint to go back to, or it was done too often.
    """
    config, workdir, checkpoints = run.config, run.workdir, run.checkpoints
    told = (
        f"no update of steps {bad[0]} to {bad[-1]} could be made (their losses and "
        f"gradients are described in {workdir / 'skipped.jsonl'})"
    )
    remedy = (
        f"go on with an optim.learning_rate lower than {config.optim.learning_rate:g}"
    )
    if passed_over.rewinds >= config.train.max_rewinds:
        raise DivergedError(
            f"the run has diverged: {told}, after going back "
            f"train.max_rewinds={config.train.max_rewinds} times; {remedy}"
        )
    checkpoints.settle()
    good = [step for step in checkpoints.steps() if step < bad[0]]
    if not good:
        raise DivergedError(
            f"the run has diverged: {told}, and no checkpoint is older; start anew "
            f"with an optim.learning_rate lower than {config.optim.learning_rate:g}"
        )
    checkpoints.discard_after(good[-1])
    now = PassedOver(passed_over.steps | set(bad), passed_over.rewinds + 1)
    save(workdir, now)
    logging.warning("%s; going back to step %d and past their batches", told, good[-1])
    return now


def _path(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / "passed_over.json"
