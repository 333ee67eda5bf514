"""Time a training step on this machine: one JSON row.

    glide benchmark train --config=experiments/configs/base64.py:released --batch=64
    glide benchmark train --config=experiments/configs/base64.py:tiny \\
        --compute_dtype=float32 --repeats=20 --output=rows.jsonl
    glide benchmark train --config=experiments/configs/base64.py:tiny --by_instruction

Weights, captions and images are random; this does not change the time.
"""

from __future__ import annotations

import sys
from typing import Any

from absl import flags

from glide_jax.cli import benchmark

MIN_REPEATS = 10  # equals bench.training's, whose import would slow down --help


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of the configuration, the repeats and the output."""
    meaning = "images per step; default: train.global_batch_size"
    add = benchmark.define_flags(values, MIN_REPEATS, meaning)
    meaning = "adds the measured time of each kind of instruction to the row, and "
    meaning += "prints it as a table to the standard error"
    add.switch("by_instruction", meaning)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Checks everything before the measurement, then measures."""
    from glide_jax.bench import instructions, training

    benchmark.check(values, arguments, "benchmark train", MIN_REPEATS)
    changes = {"train.global_batch_size": values.batch}
    config = benchmark.read_config(values, "config", changes)
    training.check(config)

    def measure() -> dict[str, Any]:
        row = training.benchmark(
            config, repeats=values.repeats, by_instruction=values.by_instruction
        )
        if row.get("instructions"):
            seconds = row["step_seconds"]["median"]
            print(instructions.to_text(row["instructions"], seconds), file=sys.stderr)
        return row

    return benchmark.write_row(values, measure)
