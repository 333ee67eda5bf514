"""Records that could not be used, over all processes of a run."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from glide_jax.data import fault


def log_path(workdir: pathlib.Path) -> pathlib.Path:
    """Where this process names them."""
    process = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
    return workdir / f"bad_records{process}.jsonl"


def total(faults: fault.FaultCounter, part: tuple[int, int]) -> dict[str, int]:
    """What the run has counted until now; every process has to ask.

    Args:
      faults: of this process's batches.
      part: (i, n), which of n slices of the rows this process reads.
    """
    if jax.process_count() == 1:
        return faults.state()
    # Processes that read the same slice count the same records.
    mine = np.append(fault.to_vector(faults.state()), part[0])
    all_processes = multihost_utils.process_allgather(mine)
    _, firsts = np.unique(all_processes[:, -1], return_index=True)
    return fault.from_vector(all_processes[firsts, :-1].sum(axis=0))


def share_of(counted: Mapping[str, int], part: tuple[int, int]) -> Mapping[str, int]:
    """What a process goes on counting from, so that `total` is `counted` again."""
    return counted if part[0] == 0 else {}
