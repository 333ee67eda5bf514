"""A log row: means of metrics, times of the steps, speed, memory, bad records."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.experimental import multihost_utils

from glide_jax.config.defaults import Config
from glide_jax.data import bad_records
from glide_jax.models import build
from glide_jax.parallel import chips
from glide_jax.train import objectives, teachers
from glide_jax.train import step as steps

# Called for each skipped update: its step, and the step's details as JSON values.
OnSkipped = Callable[[int, dict[str, Any]], None]


class MetricAccumulator:
    """Metrics since the last log row, as sums and counts, and seconds by part.

    Attributes:
      skipped: steps whose updates were skipped since the last one applied, as far as
        their results were read.
    """

    def __init__(
        self,
        clock: StepTimer,
        meter: Throughput,
        on_skipped: OnSkipped = lambda step, record: None,
    ) -> None:
        self._clock, self._meter, self._on_skipped = clock, meter, on_skipped
        self.rewind({})

    def rewind(self, sums: Mapping[str, Sequence[float]]) -> None:
        """Resets to these sums, which `sums` returned at a checkpoint."""
        self._clock.lap()  # the time is reset as well
        self._pending: collections.deque = collections.deque()
        self.skipped = range(0)
        self._begin(sums)

    def _begin(self, sums: Mapping[str, Sequence[float]]) -> None:
        self._sums = {name: np.asarray(pair, float) for name, pair in sums.items()}
        self._steps = 0

    @property
    def skipped_in_a_row(self) -> int:
        """The length of `skipped`."""
        return len(self.skipped)

    def sums(self) -> dict[str, list[float]]:
        """(sum, count) of every metric since the last row, as JSON values."""
        self._drain()
        return {name: pair.tolist() for name, pair in self._sums.items()}

    def part(self, name: PartName) -> contextlib.AbstractContextManager[None]:
        """Measures the `with` block as this part of the step's time."""
        return self._clock.measure(name)

    @contextlib.contextmanager
    def pause(self, name: PartName) -> Iterator[None]:
        """Measures the `with` block as a pause, after the devices finish the step."""
        self._drain()
        with self.part(name):
            yield

    def add(
        self, step: int, metrics: objectives.Metrics, details: steps.Details
    ) -> None:
        """Adds one step's results, and reads those of the previous step.

        The delay lets the next step be dispatched while this one runs.
        """
        self._pending.append((step, metrics, details))
        if len(self._pending) > 1:
            self._read(*self._pending.popleft())

    def skip_batch(self) -> None:
        """Counts a batch that was consumed without an update."""
        self._drain()
        self._steps += 1
        self.skipped = range(0)

    def row(self, step: int) -> dict[str, float | int]:
        """Means over the steps since the last row up to `step`, and their speed.

        The learning rate is that of the last step, which a mean would blur.
        """
        self._drain()
        means = {
            name: float(total / count)
            for name, (total, count) in self._sums.items()
            if count > 0
        }
        lap, elapsed = self._clock.lap(), self._clock.elapsed()
        means |= self._meter.row(step, lap, self._steps, elapsed)
        self._begin({})
        return means

    def _drain(self) -> None:
        while self._pending:
            self._read(*self._pending.popleft())

    def _read(
        self, step: int, metrics: objectives.Metrics, details: steps.Details
    ) -> None:
        skipped_in_a_row = details["skipped_in_a_row"]
        with self.part("device"):
            read, skipped_in_a_row = jax.device_get((metrics, skipped_in_a_row))
        for name, pair in read.items():
            before = 0.0 if name == "learning_rate" else self._sums.get(name, 0.0)
            self._sums[name] = before + np.asarray(pair, np.float64)
        self._steps += 1
        self.skipped = range(step + 1 - int(skipped_in_a_row), step + 1)
        if self.skipped:
            details = jax.device_get(details)
            self._on_skipped(step, {n: v.tolist() for n, v in details.items()})


# Waiting for the next batch; dispatching a step to the devices; waiting for its result;
# pauses of the training; and, once per process, compiling the step.
PartName = Literal[
    "input_wait", "dispatch", "device", "checkpoint", "evaluation", "compile"
]
PARTS: tuple[PartName, ...] = get_args(PartName)
PAUSES: tuple[PartName, ...] = ("checkpoint", "evaluation")


class StepTimer:
    """Measures where the time of a run is spent, by named parts.

    Parts must not be nested. The parts of a lap add up to its duration: unmeasured time
    is "other".
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start = now()
        self._begin_lap()

    def _begin_lap(self) -> None:
        self._lap_start = self._now()
        self._parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def measure(self, part: PartName) -> Iterator[None]:
        """Adds the duration of the `with` block to a part."""
        start = self._now()
        try:
            yield
        finally:
            self._parts[part] += self._now() - start

    def lap(self) -> dict[str, float]:
        """Seconds since the last lap by part, including "other"; starts a new lap."""
        parts = self._parts
        parts["other"] = self._now() - self._lap_start - sum(parts.values())
        self._begin_lap()
        return parts

    def elapsed(self) -> float:
        """Seconds since the timer was created."""
        return self._now() - self._start


TRAIN_TO_FORWARD = 3
# A run is input-bound if its steps wait for data for more than this fraction.
INPUT_BOUND_FRAC = 0.5
FORMULA = (
    "(3 * forward FLOPs of an image, of each trained network, + those of a teacher) * "
    "images/s / (chips * peak FLOP/s of a chip)"
)


def train_flops(config: Config) -> float:
    """FLOPs of one image in one training step, with those of a student's teacher."""
    own = TRAIN_TO_FORWARD * sum(build.forward_flops(config.model).values())
    return teachers.trained_networks(config) * own + teachers.forward_flops(config)


def count_chips() -> float:
    """Chips of all hosts; some kinds appear as two devices each."""
    chip = chips.find(jax.devices()[0].device_kind)
    return jax.device_count() / (chip.devices if chip else 1)


def rates(
    config: Config, images_per_second: float, num_chips: float
) -> dict[str, float]:
    """Images/s, TFLOP/s and, if the peak is known, the MFU, per chip."""
    images = images_per_second / num_chips
    tflops = train_flops(config) * images / 1e12
    chip = chips.find(jax.devices()[0].device_kind)
    mfu = {"mfu": tflops / chip.bf16_tflops} if chip else {}
    return {
        "images_per_second_per_chip": images,
        "tflops_per_second_per_chip": tflops,
        **mfu,
    }


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Converts laps of the timer to the `speed/...` and `memory/...` of a row.

    Model FLOPs utilisation, as reported in papers (PaLM, arXiv 2204.02311, appendix B):

        MFU = 3 * forward FLOPs of an image * images/s / (chips * peak FLOP/s of a chip)

    The backward pass costs two forward passes; recomputation by rematerialisation is
    not counted. Peaks are those of parallel/chips.py: a device that is not listed
    there, such as a CPU, has TFLOP/s but no MFU. Rates exclude pauses for checkpoints
    and evaluation and the compilation of the step, which are reported separately.

    Attributes:
      config: configuration of the run.
      device_hours: device hours of this run before this process started.
    """

    config: Config
    device_hours: float = 0.0

    def row(
        self, step: int, lap: Mapping[str, float], steps: int, elapsed: float
    ) -> dict[str, float | int]:
        """The values of a row for the `steps` steps of this lap, ending with `step`.

        Args:
          step: counted over all starts.
          lap: seconds by part, from `StepTimer.lap`.
          steps: number of steps; at least one.
          elapsed: seconds since this process started.
        """
        parts = {
            name: seconds / steps for name, seconds in lap.items() if name != "compile"
        }
        whole = sum(parts.values())
        training = whole - sum(parts[name] for name in PAUSES)
        batch, devices = self.config.train.global_batch_size, jax.device_count()
        compile_seconds = lap["compile"]
        speeds = {
            "step_seconds": whole,
            "training_seconds": training,
            **{f"{name}_seconds": seconds for name, seconds in parts.items()},
            **({"compile_seconds": compile_seconds} if compile_seconds else {}),
            "images_per_second": batch / training,
            **rates(self.config, batch / training, count_chips()),
            **host_skew(parts),
            "examples_seen": step * batch,
            "device_hours": self.device_hours + elapsed * devices / 3600,
        }
        return {f"speed/{name}": value for name, value in speeds.items()} | memory()


def host_skew(parts: Mapping[str, float]) -> dict[str, float | int]:
    """Slowest and fastest host of several; {} for a single host.

    In a synchronous step every host takes as long as the slowest, because the others
    wait for it at the device. So this compares the time of each before it dispatches
    its step: all parts of a step except the device's. Every process must call it.
    """
    if jax.process_count() == 1:
        return {}
    here = sum(
        seconds
        for name, seconds in parts.items()
        if name != "device" and name not in PAUSES
    )
    hosts = multihost_utils.process_allgather(np.float32(here))
    return {
        "slowest_host_seconds": float(np.max(hosts)),
        "fastest_host_seconds": float(np.min(hosts)),
        "slowest_host": int(np.argmax(hosts)),
    }


def memory() -> dict[str, int]:
    """High-water marks of this process in bytes: its fullest device, and the host's.

    A platform without memory statistics (the CPU) has no value for the device.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
    device = {"memory/device_peak_bytes": max(peaks)} if peaks else {}
    return device | {"memory/host_peak_bytes": host_peak_bytes()}


def input_warning(config: Config, row: Mapping[str, float | int]) -> str:
    """Advice for a run whose steps mostly wait for their batch, or ""."""
    wait, whole = row["speed/input_wait_seconds"], row["speed/training_seconds"]
    # The first row mostly measures the start of the reader threads.
    if "speed/compile_seconds" in row or wait < INPUT_BOUND_FRAC * whole:
        return ""
    cache = "keep decoded pictures (--config.data.cache_dir=FOLDER), "
    return (
        f"the run is bound by its input: {wait:.3g} s of a step of {whole:.3g} s wait "
        f"for the next batch; store smaller pictures (glide data build "
        f"--px={2 * config.model.image_px}), {'' if config.data.cache_dir else cache}"
        f"or raise data.num_threads, now {config.data.num_threads}"
    )


def host_peak_bytes() -> int:
    """The peak memory of this process on its host."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def line(step: int, row: Mapping[str, float | int]) -> str:
    """One line of a log row for people and grep.

    Seconds per step, like images/s, exclude pauses and compilation.
    """
    parts = [
        f"{row['speed/training_seconds']:.3g} s",
        f"{row['speed/images_per_second_per_chip']:.3g} images/s/chip",
        f"{row['speed/tflops_per_second_per_chip']:.3g} TFLOP/s/chip",
    ]
    if "speed/mfu" in row:
        parts.append(f"MFU {100 * row['speed/mfu']:.1f}%")
    # Skipped batches have no loss.
    loss = f"loss {row.get('loss', math.nan):.4g}"
    # The vb term dominates the loss of a batch that draws the noisiest timestep.
    if "mse" in row:
        loss += f" (mse {row['mse']:.4g}"
        # A student's loss has no bound on the likelihood.
        loss += f", vb {row['vb']:.4g})" if "vb" in row else f", x {row['x_mse']:.4g})"
    return f"step {step}: {', '.join(parts)}, {loss}"


def log_path(workdir: pathlib.Path) -> pathlib.Path:
    """The file in which this process logs unusable records."""
    process = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
    return workdir / f"bad_records{process}.jsonl"


def total(faults: bad_records.FaultCounter, part: tuple[int, int]) -> dict[str, Any]:
    """The run's total so far, each record counted once; all processes must call it.

    Args:
      faults: counter of this process's batches.
      part: (i, n): this process reads the i-th of n slices of the rows.
    """
    state = faults.state()
    if jax.process_count() == 1:
        return state
    rows = bad_records.to_rows(state)
    facts = _gather(np.array([part[0], state[bad_records.SEEN], len(rows)], np.int64))
    # Processes that read the same slice count the same draws.
    _, firsts = np.unique(facts[:, 0], return_index=True)
    seen = int(facts[firsts, 1].sum())
    most = int(facts[:, 2].max())
    if most == 0:
        return bad_records.to_state(seen, {})
    # Padded to a power of two, since each shape is compiled once.
    padded = np.zeros((1 << (most - 1).bit_length(), 2), np.int64)
    padded[: len(rows)] = rows
    all_rows = [
        each[:count]
        for each, count in zip(_gather(padded), facts[:, 2].tolist(), strict=True)
    ]
    return bad_records.from_rows(seen, np.concatenate(all_rows))


def _gather(mine: np.ndarray) -> np.ndarray:
    """Stacks the int64 arrays of all processes; JAX transfers 32 bits at a time."""
    return multihost_utils.process_allgather(mine.view(np.int32)).view(np.int64)
