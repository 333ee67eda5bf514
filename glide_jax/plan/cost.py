"""How many operations, seconds, days and chip-hours does a phase take?

A training step of B images takes 3 B F operations, F those of a forward pass of one
image (models/flops.py): the backward pass costs two forward passes. What rematerial-
isation computes again is not counted, by the custom of MFU (PaLM, arXiv 2204.02311,
appendix B): MFU is 3 B F / (seconds * chips * peak). So

    seconds a step = max(3 B F / (chips * peak * MFU), seconds on either network)

The networks' seconds are a lower bound by published bandwidths; they count only where
they exceed the computation, which overlaps them.

A drawn picture takes a pass of the text transformer and then, at each step kept by
sample.respacing, one of the U-Net, or two under classifier-free guidance.
"""

from __future__ import annotations

import dataclasses

from glide_jax.config.defaults import Config
from glide_jax.diffusion import respacing, samplers
from glide_jax.models import flops
from glide_jax.plan.device_topology import Topology

BACKWARD_AND_FORWARD = 3
DEFAULT_MFU = 0.4


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one phase.

    Attributes:
      forward_flops: of one image, by part.
      flops_per_step: 3 B F.
      seconds_per_step: expected.
      limited_by: "compute", or the network that takes longer.
      days: of train.num_steps.
      chip_hours: the same over all chips.
      price: of those, in the currency of the price given; None without one.
    """

    forward_flops: dict[str, float]
    flops_per_step: float
    seconds_per_step: float
    limited_by: str
    days: float
    chip_hours: float
    price: float | None


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Of drawing pictures with one model.

    Attributes:
      pictures: how many.
      passes: of the U-Net for each.
      flops_per_picture: as above.
      hours: of all of them.
      chip_hours: the same over all chips.
      price: of those; None without a price of a chip-hour.
    """

    pictures: int
    passes: int
    flops_per_picture: float
    hours: float
    chip_hours: float
    price: float | None


def estimate_drawing(
    config: Config,
    topology: Topology,
    pictures: int,
    *,
    mfu: float = DEFAULT_MFU,
    price: float | None = None,
) -> Drawing | None:
    """What `pictures` of them take; None of a CLIP, which draws none.

    Guided where the model has seen empty captions (train.caption_drop_prob).
    """
    if config.model.family != "text2im":
        return None
    chain = config.diffusion
    kept = respacing.kept_timesteps(
        chain.num_timesteps, config.sample.respacing, chain.schedule
    )
    is_guided = config.train.caption_drop_prob > 0
    parts = flops.forward_flops(config.model)
    calls = len(kept) * samplers.SAMPLERS[config.sample.sampler].calls_per_step
    passes = calls * (2 if is_guided else 1)
    each = parts["text"] + parts["text_keys_values"] + passes * parts["unet"]
    peak = topology.num_chips * topology.machine.peak_flops
    hours = pictures * each / (peak * mfu) / 3600
    chip_hours = hours * topology.num_chips
    return Drawing(
        pictures=pictures,
        passes=passes,
        flops_per_picture=each,
        hours=hours,
        chip_hours=chip_hours,
        price=None if price is None else price * chip_hours,
    )


def estimate(
    config: Config,
    topology: Topology,
    *,
    network_seconds: dict[str, float],
    mfu: float = DEFAULT_MFU,
    price: float | None = None,
) -> Cost:
    """The cost of the whole phase.

    Args:
      config: of the run.
      topology: where it runs.
      network_seconds: on each network by name, see `traffic.seconds`.
      mfu: share of the peak that the model's own operations reach.
      price: of a chip-hour.
    """
    forward = flops.forward_flops(config.model)
    per_step = (
        BACKWARD_AND_FORWARD * config.train.global_batch_size * sum(forward.values())
    )
    peak = topology.num_chips * topology.machine.peak_flops
    seconds = {"compute": per_step / (peak * mfu), **network_seconds}
    slowest = max(seconds, key=seconds.__getitem__)
    hours = seconds[slowest] * config.train.num_steps / 3600
    chip_hours = hours * topology.num_chips
    return Cost(
        forward_flops=forward,
        flops_per_step=per_step,
        seconds_per_step=seconds[slowest],
        limited_by=slowest,
        days=hours / 24,
        chip_hours=chip_hours,
        price=None if price is None else price * chip_hours,
    )
