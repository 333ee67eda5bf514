"""What two runs of the same settings left that is not the same, bit for bit.

All that a run leaves is compared but what a clock, the machine or the number of starts
says: speeds and memory in the metrics, TensorBoard's events, logs, stacks.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from glide_jax.config import resolve
from glide_jax.config.defaults import Config
from glide_jax.runtime import metric_writers
from glide_jax.train import setup

MEASURED = ("speed/", "memory/")
# As they lie there, in runs that have them.
FILES = ("skipped.jsonl", "bad_records*.jsonl", "grids/*")


class Saved(NamedTuple):
    """The state of a checkpoint, and the files beside it."""

    state: Any
    past: dict[str, Any]


def check_same(
    config: Config, left: pathlib.Path, right: pathlib.Path
) -> dict[str, int]:
    """Raises unless they are the same; returns how many arrays, rows and files are.

    Raises:
      AssertionError: naming all that is not.
    """
    states = last_state(config, left), last_state(config, right)
    told = list(differences(left, right, *states))
    assert not told, "\n".join(told)
    counts = {
        "arrays": len(jax.tree.leaves(states[1].state)),
        "rows of metrics.jsonl": len(rows(right)),
    }
    for name in FILES:
        counts[name] = len(list(right.glob(name)))
    return counts


def differences(
    left: pathlib.Path, right: pathlib.Path, last: Saved, other_last: Saved
) -> Iterator[str]:
    """A line for each thing that differs, of two runs and their newest checkpoints."""
    (state, past), (other, other_past) = last, other_last
    if jax.tree.structure(state) != jax.tree.structure(other):
        yield "the states are of other trees"
        return
    for (path, leaf), twin in zip(
        jax.tree.leaves_with_path(state), jax.tree.leaves(other), strict=True
    ):
        if not _is_same_array(leaf, twin):
            yield f"state{jax.tree_util.keystr(path)}"
    if past != other_past:
        yield f"beside the state: {past} and {other_past}"
    yield from _of_lines("metrics.jsonl", rows(left), rows(right))
    for pattern in FILES:
        files, others = _contents(left, pattern), _contents(right, pattern)
        for name in sorted(files.keys() | others.keys()):
            if files.get(name) != others.get(name):
                yield f"{name}: {_size(files, name)} and {_size(others, name)} bytes"


def last_state(config: Config, workdir: pathlib.Path) -> Saved:
    """Reads the newest checkpoint of a run, onto one device."""
    alone = {"mesh.data": -1, "mesh.fsdp": 1, "mesh.tensor": 1}
    run, state = setup.prepare(resolve.override(config, alone), workdir)
    run.checkpoints.close()
    # The settings tell of the mesh, and of train.num_steps.
    return Saved(state, {n: v for n, v in run.past.items() if n != "config"})


def rows(workdir: pathlib.Path) -> list[str]:
    """metrics.jsonl in order, without what was measured."""
    return [
        json.dumps({n: v for n, v in row.items() if not n.startswith(MEASURED)})
        for row in metric_writers.read_metrics(workdir / "metrics.jsonl")
    ]


def _is_same_array(left: jax.Array, right: jax.Array) -> bool:
    left, right = np.asarray(left), np.asarray(right)
    return left.dtype == right.dtype and left.tobytes() == right.tobytes()


def _of_lines(name: str, left: list[str], right: list[str]) -> Iterator[str]:
    if len(left) != len(right):
        yield f"{name}: {len(left)} and {len(right)} rows"
    for one, other in zip(left, right, strict=False):
        if one != other:
            yield f"{name}: {one} and {other}"
            return


def _contents(workdir: pathlib.Path, pattern: str) -> dict[str, bytes]:
    return {
        path.relative_to(workdir).as_posix(): path.read_bytes()
        for path in workdir.glob(pattern)
    }


def _size(contents: dict[str, bytes], name: str) -> str:
    return str(len(contents[name])) if name in contents else "no"
