"""Reports skipped updates, and ends a run that has diverged."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from glide_jax import metrics
from glide_jax.config.defaults import Config
from glide_jax.errors import DivergedError
from glide_jax.parallel import digests
from glide_jax.runtime import counts
from glide_jax.train import state as states
from glide_jax.train import window as windows

# A run has diverged if this many consecutive updates are skipped.
MAX_SKIPPED_AT_END = 10


def make_on_skipped(writer: metrics.MetricsWriter) -> windows.OnSkipped:
    """Reports every skipped update: one log line, and details in skipped.jsonl."""

    def on_skipped(step: int, details: dict[str, Any]) -> None:
        logging.warning(
            "update %d skipped, number %d in a row: %s; examples %s at timesteps %s",
            step,
            details["skipped_in_a_row"],
            "a loss spike" if details["loss_spike"] else "not finite",
            _first_few(details["example_index"]),
            _first_few(details["timestep"]),
        )
        writer.skipped(step, details)

    return on_skipped


def _first_few(values: list[int]) -> str:
    few = ", ".join(map(str, values[:4]))
    return f"{few}, ..." if len(values) > 4 else few


def check_replicas(state: states.TrainState, step: int) -> None:
    """Raises if replicas of an array differ between devices."""
    differing = digests.differing_replicas(states.to_items(state))
    if differing:
        path, devices = differing[0]
        arrays = counts.counted(len(differing), "array")
        raise DivergedError(
            f"at step {step} not all devices hold the same {arrays}, {path} first: "
            f"{', '.join(map(str, devices))} compute or remember wrongly; "
            "leave them out, and the same command goes on from the last checkpoint"
        )


def check_loss_scale(config: Config, row: Mapping[str, float], step: int) -> None:
    """Raises if a gradient overflowed at the minimum loss scale."""
    if row.get("overflows_at_floor"):
        floor = config.train.min_log2_loss_scale
        raise DivergedError(
            f"at step {step} float16 gradients overflow with the loss scale at its "
            f"floor, train.min_log2_loss_scale={floor:g}; go on with a lower "
            "optim.learning_rate, or start anew with model.compute_dtype=bfloat16"
        )


def check_end(config: Config, skipped_in_a_row: int) -> None:
    """Raises if the last updates of a run were all skipped."""
    if skipped_in_a_row >= MAX_SKIPPED_AT_END:
        raise DivergedError(
            f"the run has diverged: the last {skipped_in_a_row} updates were skipped, "
            "no gradient was finite; go on from an older checkpoint with a lower "
            f"optim.learning_rate than {config.optim.learning_rate:g}"
        )
