"""Going back to the last good checkpoint, and past the batches that led astray.

Every checkpoint says which steps had been passed over when it was made. A run cut
off after it went back, before it has saved again, comes to the same place again.
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
    """Steps that consume their batch and change nothing; how often a run went back."""

    steps: frozenset[int] = frozenset()
    rewinds: int = 0

    def as_json(self) -> dict[str, Any]:
        """As `load` finds it in what a checkpoint says."""
        return {"rewinds": self.rewinds, "steps": sorted(self.steps)}


def load(past: Mapping[str, Any], workdir: pathlib.Path) -> PassedOver:
    """What was passed over until the checkpoint that says this `past`; {}: nothing.

    Raises:
      UserError: an older version wrote it beside the checkpoints, and it is damaged.
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
    logging.warning("%s; going back to step %d and past their batches", told, good[-1])
    return now
