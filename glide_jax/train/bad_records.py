"""Counts unusable records over all processes of a run."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from glide_jax.data import fault


def log_path(workdir: pathlib.Path) -> pathlib.Path:
    """The file in which this process logs unusable records."""
    process = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
    return workdir / f"bad_records{process}.jsonl"


def total(faults: fault.FaultCounter, part: tuple[int, int]) -> dict[str, Any]:
    """The run's total so far, each record counted once; all processes must call it.

    Args:
      faults: counter of this process's batches.
      part: (i, n): this process reads the i-th of n slices of the rows.
    """
    state = faults.state()
    if jax.process_count() == 1:
        return state
    rows = fault.to_rows(state)
    facts = _gather(np.array([part[0], state[fault.SEEN], len(rows)], np.int64))
    # Processes that read the same slice count the same draws.
    _, firsts = np.unique(facts[:, 0], return_index=True)
    seen = int(facts[firsts, 1].sum())
    most = int(facts[:, 2].max())
    if most == 0:
        return fault.to_state(seen, {})
    # Padded to a power of two, since each shape is compiled once.
    padded = np.zeros((1 << (most - 1).bit_length(), 2), np.int64)
    padded[: len(rows)] = rows
    found = [
        each[:count]
        for each, count in zip(_gather(padded), facts[:, 2].tolist(), strict=True)
    ]
    return fault.from_rows(seen, np.concatenate(found))


def _gather(mine: np.ndarray) -> np.ndarray:
    """Stacks the int64 arrays of all processes; JAX transfers 32 bits at a time."""
    return multihost_utils.process_allgather(mine.view(np.int32)).view(np.int64)


def share_of(counted: Mapping[str, Any], part: tuple[int, int]) -> Mapping[str, Any]:
    """The initial counts of this process, so that `total` returns `counted` again."""
    return counted if part[0] == 0 else {}
