"""Time a training step on this machine: one JSON row.

    glide benchmark train --config=experiments/configs/base64.py:released --batch=64
    glide benchmark train --config=experiments/configs/base64.py:tiny \\
        --compute_dtype=float32 --repeats=20 --output=rows.jsonl

Weights, captions and images are random; this does not change the time.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import benchmark

MIN_REPEATS = 10  # equals bench.training's, whose import would slow down --help


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of the configuration, the repeats and the output."""
    meaning = "images per step; default: train.global_batch_size"
    benchmark.define_flags(values, MIN_REPEATS, meaning)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Checks everything before the measurement, then measures."""
    from glide_jax.bench import training

    benchmark.check(values, arguments, "benchmark train", MIN_REPEATS)
    changes = {"train.global_batch_size": values.batch}
    config = benchmark.read_config(values, "config", changes)
    training.check(config)
    return benchmark.write_row(
        values, lambda: training.benchmark(config, repeats=values.repeats)
    )
