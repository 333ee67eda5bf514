"""Times the training step and measures the utilisation of the machine.

The step is the program that `glide train` runs on this mesh, with random weights and
images. Neither data nor a workdir is needed.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from glide_jax import array_types
from glide_jax.bench import instructions, machine, timing, weights
from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.parallel import device_mesh, sharding
from glide_jax.train import (
    objectives,
    optimizer,
    placement,
    run_log,
    teachers,
    train_state,
)

MIN_REPEATS = 10
WARM_UP_STEPS = 2


def benchmark(
    config: defaults.Config,
    *,
    repeats: int = MIN_REPEATS,
    by_instruction: bool = False,
) -> dict[str, Any]:
    """Returns one row of JSON values: step times, FLOPs, bytes and measured peaks.

    Args:
      config: of the run.
      repeats: number of timed steps.
      by_instruction: whether to trace further steps for the field "instructions".

    Raises:
      UserError: the step does not fit into a device's memory.
    """
    mesh = device_mesh.make_mesh(config.mesh)
    parts = placement.abstract_step(config, mesh)
    try:
        start = time.perf_counter()
        # Without it a program from JAX's cache may name lines of an older source.
        with _lines_in_cache_key(by_instruction):
            program = parts.step.lower(*parts.arguments).compile()
        compile_seconds = time.perf_counter() - start
        state = make_state(config, parts.state)
        batch = sharding.to_global(make_batch(config, parts.batch), mesh)
        seed = sharding.replicate(np.int32(config.seed), mesh)
        fixed: list[Any] = [seed]
        if parts.teacher is not None:
            fixed.append(make_teacher(config, parts.teacher))
        step = Step(program, state, batch, fixed)
        del state  # its buffers are donated to the first step
        seconds, skipped = time_steps(step, repeats)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"train.global_batch_size={config.train.global_batch_size} does not fit "
            "into a device's memory; give a smaller --batch, more train.microbatches, "
            "train.remat, or a larger mesh.fsdp"
        ) from error
    row = {
        "benchmark": "train",
        "machine": machine.describe(),
        **describe(config, mesh),
        "repeats": repeats,
        "compile_seconds": timing.rounded(compile_seconds),
        "step_seconds": timing.spread(seconds).to_json(),
        "skipped_updates": skipped,
        **utilisation(config, timing.spread(seconds).median),
        "bytes": count_bytes(program),
    }
    if by_instruction:
        row["instructions"] = trace(step, program)
    return row


@contextlib.contextmanager
def _lines_in_cache_key(are_needed: bool) -> Iterator[None]:
    name = "jax_compilation_cache_include_metadata_in_key"
    before = getattr(jax.config, name)
    jax.config.update(name, before or are_needed)
    try:
        yield
    finally:
        jax.config.update(name, before)


def trace(step: Step, program: jax.stages.Compiled) -> list[dict[str, Any]]:
    """Returns the rows of `instructions.measure`; empty if the trace has none.

    A row of times that took minutes is not lost when tracing fails.
    """
    try:
        rows = instructions.measure(step, program.as_text() or "")
    except (RuntimeError, ValueError, OSError) as error:
        logging.warning("no time by instruction: the trace failed (%s)", error)
        return []
    if not rows:
        logging.warning("no time by instruction: the profiler named none")
    return rows


def check(config: defaults.Config) -> None:
    """Raises UserError if the devices do not fit the mesh, or the run does not."""
    placement.check_fits(config, device_mesh.make_mesh(config.mesh))


def describe(config: defaults.Config, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Returns the settings that determine a step's time and memory."""
    return {
        "config": config.name,
        "batch": config.train.global_batch_size,
        "microbatches": config.train.microbatches,
        "mesh": dict(mesh.shape),
        "remat": list(config.train.remat),
        "remat_text": config.train.remat_text,
        "compute_dtype": config.model.compute_dtype,
        "optimizer": config.optim.name,
        "moments_dtype": config.optim.moments_dtype,
        "ema_decays": list(config.ema.decays),
        "ema_every_steps": config.ema.every_steps,
    }


def utilisation(config: defaults.Config, step_seconds: float) -> dict[str, Any]:
    """Returns rates per chip, and their share of the measured and published peaks."""
    images_per_second = config.train.global_batch_size / step_seconds
    rates = run_log.rates(config, images_per_second, run_log.count_chips())
    peak = machine.matmul_peak(config.model.compute_dtype)  # of one device
    flops = run_log.train_flops(config) * images_per_second / jax.device_count()
    values = {
        "images_per_second_per_chip": rates["images_per_second_per_chip"],
        "model_tflops_per_second_per_chip": rates["tflops_per_second_per_chip"],
        "matmul_peak_tflops": peak / 1e12,
        "mfu_of_measured_peak": flops / peak,
    }
    if "mfu" in rates:
        values["mfu_of_published_peak"] = rates["mfu"]
    rounded = {name: timing.rounded(value) for name, value in values.items()}
    return {**rounded, "flops_formula": run_log.FORMULA}


def count_bytes(program: jax.stages.Compiled) -> dict[str, int | None]:
    """Returns the bytes of one device that the compiler planned, and the peak use.

    "arguments" are state and batch, "temporaries" the further buffers of a step; the
    new state reuses the buffers of the old one. Values that are not reported are None.
    """
    planned = program.memory_analysis()
    return {
        "arguments": getattr(planned, "argument_size_in_bytes", None),
        "temporaries": getattr(planned, "temp_size_in_bytes", None),
        "peak": getattr(planned, "peak_memory_in_bytes", None),
        "device_peak": machine.peak_memory_bytes(),
        "host_peak": run_log.host_peak_bytes(),
    }


def make_state(
    config: defaults.Config, like: train_state.TrainState
) -> train_state.TrainState:
    """Makes an initial state with random weights and the shardings of `like`."""
    where = jax.tree.map(lambda leaf: leaf.sharding, like)
    optim = optimizer.make_optimizer(config.optim)
    begin = jax.jit(
        lambda params: train_state.make_state(config, params, optim),
        out_shardings=where,
    )
    params = weights.random_params(config.model)
    if teachers.matches_moments(config):
        params = train_state.with_auxiliary(params, params)
    return begin(jax.device_put(params, where.params))


def make_teacher(config: defaults.Config, like: Any) -> array_types.Params:
    """Makes a teacher with random weights and the shardings of `like`."""
    params = weights.random_params(teachers.model_of(config))
    return jax.tree.map(
        lambda leaf, target: jax.device_put(
            jnp.asarray(leaf, target.dtype), target.sharding
        ),
        params,
        like,
    )


def make_batch(config: defaults.Config, like: dict[str, Any]) -> dict[str, np.ndarray]:
    """Makes noise images, random masks, and captions that fill half of the context."""
    rng = np.random.default_rng(0)
    shapes = {name: leaf.shape for name, leaf in like.items()}
    rows, context = shapes["tokens"]
    filled = np.arange(context) < context // 2
    known = {
        "tokens": rng.integers(
            0, config.model.vocab_size, (rows, context), dtype=np.int32
        ),
        "text_mask": np.broadcast_to(filled, (rows, context)),
        "example_index": np.arange(rows, dtype=np.int32),
    }
    if "inpaint_mask" in shapes:
        known["inpaint_mask"] = np.float32(rng.random(shapes["inpaint_mask"]) < 0.5)
    images = {
        name: rng.uniform(-1, 1, shape).astype(np.float32)
        for name, shape in shapes.items()
        if name not in known
    }
    return known | images


class Step:
    """Runs a training step on one batch, each time from the state of the last one."""

    def __init__(
        self, program: jax.stages.Compiled, state: Any, batch: Any, fixed: Sequence[Any]
    ) -> None:
        """`fixed` has the arguments after the batch."""
        self._program, self._state = program, state
        self._after_state = (batch, *fixed)

    def __call__(self) -> objectives.Metrics:
        """Returns the metrics when the step has run; the old state is donated."""
        done = jax.block_until_ready(self._program(self._state, *self._after_state))
        self._state, metrics, _ = done
        return metrics


def time_steps(step: Step, repeats: int) -> tuple[list[float], int]:
    """Returns the seconds of `repeats` steps, and the number of skipped updates.

    A few untimed steps come first.
    """
    seconds, skipped = [], 0
    for number in range(WARM_UP_STEPS + repeats):
        start = time.perf_counter()
        metrics = step()
        if number >= WARM_UP_STEPS:
            seconds.append(time.perf_counter() - start)
            skipped += int(metrics["skipped_updates"][0])
    return seconds, skipped
