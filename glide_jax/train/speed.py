"""Measures the speed and memory of a run, and the slowest host.

Model FLOPs utilisation, as reported in papers (PaLM, appendix B):

    MFU = 3 * forward FLOPs of an image * images/s / (chips * peak FLOP/s of a chip)

The backward pass costs two forward passes; recomputation by rematerialisation is not
counted. Peaks are those of parallel/chips.py: a device that is not listed there, such
as a CPU, has TFLOP/s but no MFU. Rates exclude pauses for checkpoints and evaluation
and the compilation of the step, which are reported separately.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import sys
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from glide_jax.config.defaults import Config, ModelConfig
from glide_jax.models import flops
from glide_jax.parallel import chips
from glide_jax.train import clock

TRAIN_TO_FORWARD = 3
# A run is input-bound if its steps wait for data for more than this fraction.
INPUT_BOUND_FRAC = 0.5
FORMULA = "3 * forward FLOPs of an image * images/s / (chips * peak FLOP/s of a chip)"


def train_flops(model: ModelConfig) -> float:
    """FLOPs of one image in one training step."""
    return TRAIN_TO_FORWARD * sum(flops.forward_flops(model).values())


def count_chips() -> float:
    """Chips of all hosts; some kinds appear as two devices each."""
    chip = chips.find(jax.devices()[0].device_kind)
    return jax.device_count() / (chip.devices if chip else 1)


def rates(
    model: ModelConfig, images_per_second: float, num_chips: float
) -> dict[str, float]:
    """Images/s, TFLOP/s and, if the peak is known, the MFU, per chip."""
    images = images_per_second / num_chips
    tflops = train_flops(model) * images / 1e12
    found = {"images_per_second_per_chip": images, "tflops_per_second_per_chip": tflops}
    chip = chips.find(jax.devices()[0].device_kind)
    return found | ({"mfu": tflops / chip.bf16_tflops} if chip else {})


@dataclasses.dataclass(frozen=True)
class Meter:
    """Converts laps of the clock to the `speed/...` and `memory/...` of a row.

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
          lap: seconds by part, from `Clock.lap`.
          steps: number of steps; at least one.
          elapsed: seconds since this process started.
        """
        parts = {
            name: seconds / steps for name, seconds in lap.items() if name != "compile"
        }
        whole = sum(parts.values())
        training = whole - sum(parts[name] for name in clock.PAUSES)
        batch, devices = self.config.train.global_batch_size, jax.device_count()
        found = {"step_seconds": whole, "training_seconds": training}
        found |= {f"{name}_seconds": seconds for name, seconds in parts.items()}
        if lap["compile"]:
            found["compile_seconds"] = lap["compile"]
        found |= {"images_per_second": batch / training}
        found |= rates(self.config.model, batch / training, count_chips())
        found |= host_skew(parts)
        found |= {
            "examples_seen": step * batch,
            "device_hours": self.device_hours + elapsed * devices / 3600,
        }
        return {f"speed/{name}": value for name, value in found.items()} | memory()


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
        if name != "device" and name not in clock.PAUSES
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
    peaks = [
        (device.memory_stats() or {}).get("peak_bytes_in_use")
        for device in jax.local_devices()
    ]
    told = [peak for peak in peaks if peak is not None]
    found = {"memory/device_peak_bytes": max(told)} if told else {}
    return found | {"memory/host_peak_bytes": host_peak_bytes()}


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
    # Batches that are passed over have no loss.
    return f"step {step}: {', '.join(parts)}, loss {row.get('loss', math.nan):.4g}"
