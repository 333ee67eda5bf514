"""Sweeps of real training runs that take seconds each."""

from __future__ import annotations

import json
import pathlib

from tests.train import small_runs


def write(folder: pathlib.Path, runs: str, steps: int) -> pathlib.Path:
    """A sweep file of small runs, saved every 8 steps and logged at each."""
    tokenizer = small_runs.write_tokenizer(folder / "tokenizer")
    changes = {
        "train.num_steps": steps,
        "checkpoint.every_steps": 8,
        "log.every_steps": 1,
    }
    config = small_runs.make_config(tokenizer, changes=changes)
    experiment = small_runs.write_experiment(folder / "experiment.py", config)
    path = folder / "small.py"
    path.write_text(
        "from glide_jax.sweep import listed, product\n"
        f"COMMAND = 'train --config={experiment}'\n"
        f"def sweep(): return {runs}\n"
    )
    return path


def rows(workdir: pathlib.Path) -> list[dict]:
    """All whole rows of its metrics."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.is_file() else ""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in lines]


def steps(workdir: pathlib.Path) -> list[int]:
    """The steps of the rows of metrics, in order."""
    return [row["step"] for row in rows(workdir) if "loss" in row]
