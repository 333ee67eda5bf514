"""Time a training step on this machine: one JSON row.

    glide benchmark train --config=experiments/configs/base64.py:released --batch=64
    glide benchmark train --config=experiments/configs/base64.py:tiny \\
        --compute_dtype=float32 --repeats=20 --output=rows.jsonl

Weights, captions and pictures are random, which does not change the time.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import benchmark

MIN_REPEATS = 10  # bench.training.MIN_REPEATS; here it keeps --help quick


def define_flags(values: flags.FlagValues) -> None:
    """What to time, how often, and where the row goes."""
    meaning = "pictures in a step; train.global_batch_size"
    benchmark.define_flags(values, MIN_REPEATS, meaning)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Refuses all that can be refused before it measures."""
    from glide_jax.bench import training

    benchmark.check(values, arguments, "benchmark train", MIN_REPEATS)
    changes = {"train.global_batch_size": values.batch}
    config = benchmark.read_config(values, "config", changes)
    training.check(config)
    return benchmark.write_row(
        values, lambda: training.benchmark(config, repeats=values.repeats)
    )
