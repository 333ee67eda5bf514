"""Rewinds to the last good checkpoint and skips the batches that caused divergence.

Every checkpoint records the steps passed over so far. A run that is interrupted after
a rewind, before its next save, rewinds in the same way again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from glide_jax.errors import DivergedError, UserError
from glide_jax.parallel import distributed
from glide_jax.train import setup


@dataclasses.dataclass(frozen=True)
class PassedOver:
    """Steps that only consume their batch, and the number of rewinds of a run."""

    steps: frozenset[int] = frozenset()
    rewinds: int = 0

    def as_json(self) -> dict[str, Any]:
        """The JSON value in a checkpoint's metadata, for `load`."""
        return {"rewinds": self.rewinds, "steps": sorted(self.steps)}


def load(past: Mapping[str, Any], workdir: pathlib.Path) -> PassedOver:
    """Steps passed over according to a checkpoint's `past`; {}: none.

    Raises:
      UserError: the file that older versions wrote beside checkpoints is damaged.
    """
    if not past:
        return PassedOver()
    stored = past.get("passed_over")
    if stored is None:
        path = workdir / "passed_over.json"
        stored = distributed.from_first("passed_over", lambda: _read_older(path))
        stored = json.loads(stored)
    return PassedOver(frozenset(stored["steps"]), stored["rewinds"])


def _read_older(path: pathlib.Path) -> bytes:
    nothing = b'{"rewinds": 0, "steps": []}'
    found = path.read_bytes() if path.exists() else nothing
    try:
        if json.loads(found).keys() == json.loads(nothing).keys():
            return found
    except (ValueError, AttributeError):
        pass
    raise UserError(f"{path} is not what was written; put it back, or remove it")


def go_back(run: setup.Run, passed_over: PassedOver, bad: range) -> PassedOver:
    """Removes checkpoints made since the `bad` steps began, and marks these steps.

    Args:
      run: afterwards, its newest checkpoint is the one to resume from.
      passed_over: steps passed over so far.
      bad: the consecutive steps whose updates were skipped.

    Raises:
      DivergedError: no checkpoint to rewind to, or too many rewinds.
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
    logging.warning("%s; going back to step %d and past their batches", told, good[-1])
    return now
