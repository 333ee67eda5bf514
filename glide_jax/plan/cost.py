"""Operations, time and chip-hours of a training phase, and of sampling.

A training step of B images takes 3 B F operations, where F is the forward pass of one
image (models/flops.py): the backward pass costs two forward passes. Recomputation by
rematerialisation is not counted, as usual for MFU (PaLM, arXiv 2204.02311, appendix B):
MFU is 3 B F / (seconds * chips * peak). A student's step adds B T, the passes of its
teacher; where two networks of one size train, F is that of both. So

    seconds per step = max(B (3 F + T) / (chips * peak * MFU),
                           seconds on either network)

The networks' seconds are a lower bound at published bandwidths. They count only if they
exceed the computation, which overlaps them.

Sampling an image takes one pass of the text transformer and, at each step that
sample.respacing keeps, one pass of the U-Net (two with Heun's sampler), twice that with
classifier-free guidance. A noised CLIP that guides adds one pass of its text tower and,
at each call, one of its image tower, and as much again for the gradient of its input.

Processes share images out by index, see parallel/sharing.py. Judging n of them takes a
pass of InceptionV3 an image on the chips; then process 0 compares d = 2,048 features of
each with those of n real images, in float64 on its cores, while the chips wait: 8 n^2 d
operations for the kernel distance and 6 n^2 d for precision and recall.
"""

from __future__ import annotations

import dataclasses
import math

from glide_jax.config.defaults import Config, Text2ImConfig
from glide_jax.diffusion import respacing, samplers
from glide_jax.models import build
from glide_jax.plan.device_topology import Topology
from glide_jax.train import teachers

BACKWARD_AND_FORWARD = 3
DEFAULT_MFU = 0.4
# Of an image of 299 px, as XLA counts the operations of models/inception.py.
JUDGE_FLOPS = 11.0e9
FEATURES = 2048
COMPARISONS = 14
# Assumed of float64 on the cores of process 0: eight of them at 12.5 GFLOP/s.
HOST_FLOPS = 1e11


@dataclasses.dataclass(frozen=True)
class Cost:
    """The estimated cost of a training phase.

    Attributes:
      forward_flops: of one image, by part; of one network where two train.
      teacher_flops: of one image, T; 0 without a teacher.
      flops_per_step: B (3 F + T).
      seconds_per_step: expected.
      limited_by: "compute", or the network that takes longer.
      days: duration of train.num_steps steps.
      chip_hours: over all chips.
      price: of the chip-hours, in the currency of the price given; None without one.
    """

    forward_flops: dict[str, float]
    teacher_flops: float
    flops_per_step: float
    seconds_per_step: float
    limited_by: str
    days: float
    chip_hours: float
    price: float | None


@dataclasses.dataclass(frozen=True)
class Judging:
    """The estimated cost of judging images by Inception's features.

    Attributes:
      flops_per_picture: operations per image, on the chips.
      comparison_flops: operations of all comparisons, on the cores of process 0.
      hours: for both, one after the other.
      chip_hours: over all chips, which wait while process 0 compares.
      price: of the chip-hours; None without a price of a chip-hour.
    """

    flops_per_picture: float
    comparison_flops: float
    hours: float
    chip_hours: float
    price: float | None


@dataclasses.dataclass(frozen=True)
class Drawing:
    """The estimated cost of sampling images with one model.

    Attributes:
      pictures: number of images.
      guidance_mode: one of `options.GUIDANCE_MODES`.
      passes: of the U-Net per image.
      flops_per_picture: operations per image.
      hosts: number of hosts that share the images out.
      pictures_per_host: most images of a host.
      hours: for all images.
      chip_hours: over all chips.
      price: of the chip-hours; None without a price of a chip-hour.
      judging: the cost of judging the images, the same for every model of a cascade.
    """

    pictures: int
    guidance_mode: str
    passes: int
    flops_per_picture: float
    hosts: int
    pictures_per_host: int
    hours: float
    chip_hours: float
    price: float | None
    judging: Judging


def estimate_drawing(
    config: Config,
    topology: Topology,
    pictures: int,
    *,
    mfu: float = DEFAULT_MFU,
    price: float | None = None,
    guidance_mode: str | None = None,
    clip: Config | None = None,
) -> Drawing | None:
    """Estimates the cost of sampling; None for a noised CLIP.

    Args:
      config: of the run.
      topology: of the chips.
      pictures: number of images.
      mfu: share of the peak that the model's own operations reach.
      price: of a chip-hour.
      guidance_mode: one of `options.GUIDANCE_MODES`; None: see `default_guidance`.
      clip: of the run of the noised CLIP, for the modes that use one.
    """
    if build.role_of(config.model) == "noised_clip":
        return None
    guidance_mode = guidance_mode or default_guidance(config)
    chain = config.diffusion
    kept = respacing.kept_timesteps(
        chain.num_timesteps, config.sample.respacing, chain.schedule
    )
    parts = build.forward_flops(config.model)
    calls = len(kept) * samplers.SAMPLERS[config.sample.sampler].calls_per_step
    is_doubled = "cfg" in guidance_mode and not _reads_guidance(config)
    passes = calls * (2 if is_doubled else 1)
    each = parts["text"] + parts["text_keys_values"] + passes * parts["unet"]
    if clip is not None:
        towers = build.forward_flops(clip.model)
        each += towers["text"] + 2 * calls * towers["image"]
    peak = topology.num_chips * topology.machine.peak_flops
    hours = pictures * each / (peak * mfu) / 3600
    chip_hours = hours * topology.num_chips
    return Drawing(
        pictures=pictures,
        guidance_mode=guidance_mode,
        passes=passes,
        flops_per_picture=each,
        hosts=topology.num_hosts,
        pictures_per_host=math.ceil(pictures / topology.num_hosts),
        hours=hours,
        chip_hours=chip_hours,
        price=None if price is None else price * chip_hours,
        judging=_judging(topology, pictures, peak * mfu, price),
    )


def _judging(
    topology: Topology, pictures: int, flops_per_second: float, price: float | None
) -> Judging:
    compared = float(COMPARISONS * pictures**2 * FEATURES)
    seconds = pictures * JUDGE_FLOPS / flops_per_second + compared / HOST_FLOPS
    chip_hours = seconds / 3600 * topology.num_chips
    return Judging(
        flops_per_picture=JUDGE_FLOPS,
        comparison_flops=compared,
        hours=seconds / 3600,
        chip_hours=chip_hours,
        price=None if price is None else price * chip_hours,
    )


def _reads_guidance(config: Config) -> bool:
    """Whether one row of the model is guided."""
    return isinstance(config.model, Text2ImConfig) and bool(config.model.guidance_range)


def default_guidance(config: Config) -> str:
    """Returns "cfg" for a base model that was trained on empty captions, else "none".

    These are models with train.caption_drop_prob above 0; others read no empty caption.
    """
    is_guided = (
        build.role_of(config.model) == "base" and config.train.caption_drop_prob > 0
    )
    return "cfg" if is_guided else "none"


def estimate(
    config: Config,
    topology: Topology,
    *,
    network_seconds: dict[str, float],
    mfu: float = DEFAULT_MFU,
    price: float | None = None,
) -> Cost:
    """Estimates the cost of a training phase.

    Args:
      config: of the run.
      topology: of the chips.
      network_seconds: per step on each network by name, see `traffic.seconds`.
      mfu: share of the peak that the model's own operations reach.
      price: of a chip-hour.
    """
    forward = build.forward_flops(config.model)
    teacher = teachers.forward_flops(config)
    own = teachers.trained_networks(config) * sum(forward.values())
    per_image = BACKWARD_AND_FORWARD * own + teacher
    per_step = config.train.global_batch_size * per_image
    peak = topology.num_chips * topology.machine.peak_flops
    seconds = {"compute": per_step / (peak * mfu), **network_seconds}
    slowest = max(seconds, key=seconds.__getitem__)
    hours = seconds[slowest] * config.train.num_steps / 3600
    chip_hours = hours * topology.num_chips
    return Cost(
        forward_flops=forward,
        teacher_flops=teacher,
        flops_per_step=per_step,
        seconds_per_step=seconds[slowest],
        limited_by=slowest,
        days=hours / 24,
        chip_hours=chip_hours,
        price=None if price is None else price * chip_hours,
    )
