"""Searches for the remat policies and microbatches of the fastest step that fits.

The time of each option is estimated by formula: its operations with recomputation, or
the networks if they take longer. Options that leave a tenth of the memory free, for the
formula's error, are ranked first, by time; of equally fast ones the simplest is first:
fewer microbatches, then a weaker policy.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from glide_jax.config.defaults import Config, NoisedClipConfig
from glide_jax.models import build, flops, layout
from glide_jax.parallel import device_mesh
from glide_jax.plan import activations, cost, memory, problem, traffic
from glide_jax.train import teachers

FREE_SHARE = 0.1
SHOWN = 8  # options in a report
# From the weakest. `offload` is excluded: its transfers are not modelled.
POLICIES = ("none", "dots", "blocks", "full")
MAX_MICROBATCHES = 64


@dataclasses.dataclass(frozen=True)
class Option:
    """Settings and their estimated memory and time.

    Attributes:
      remat, remat_text, microbatches: as in the configuration.
      bytes_per_device: by formula.
      seconds: per step, with recomputation.
      fits: whether the free share of the memory is left.
    """

    remat: tuple[str, ...]
    remat_text: str
    microbatches: int
    bytes_per_device: int
    seconds: float
    fits: bool

    def settings(self) -> dict[str, Any]:
        """Returns the values of the training section."""
        return {
            "remat": self.remat,
            "remat_text": self.remat_text,
            "microbatches": self.microbatches,
        }

    def flags(self) -> str:
        """Returns the flags of `glide train`."""
        remat = ",".join(f"'{name}'" for name in self.remat)
        comma = "," if len(self.remat) == 1 else ""
        return (
            f'--config.train.remat="({remat}{comma})" '
            f"--config.train.remat_text={self.remat_text} "
            f"--config.train.microbatches={self.microbatches}"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the option as JSON values."""
        return dataclasses.asdict(self) | {"flags": self.flags()}


def rank(given: problem.Problem, *, mfu: float = cost.DEFAULT_MFU) -> list[Option]:
    """Returns the SHOWN best options, best first."""
    state = memory.measure_state(given.state)
    options = [_evaluate(changed, state, mfu) for changed in _choices(given)]
    best = sorted(options, key=_order)
    return best[:SHOWN]


def advise(given: problem.Problem) -> str:
    """Returns a line that says how to make the step fit."""
    best = rank(given)[0]
    if best.fits:
        return f"add {best.flags()}: {best.bytes_per_device / 2**30:.1f} GiB by formula"
    return (
        "no remat policy and number of microbatches fits (the smallest needs "
        f"{best.bytes_per_device / 2**30:.1f} GiB); raise mesh.fsdp, or use more chips"
    )


def recomputed_flops(config: Config) -> float:
    """Returns the operations of one image that the backward pass recomputes.

    `dots` counts as none: it recomputes no product with a kernel, 1% of the operations.
    """
    model, train = config.model, config.train
    forward = build.forward_flops(model)
    again = {"none": 0, "dots": 0, "blocks": 1, "offload": 1, "full": 1}
    total = again[train.remat_text] * forward["text"]
    if isinstance(model, NoisedClipConfig):
        # With microbatches the towers run twice: for all features, then for gradients.
        total += sum(forward.values()) * (train.microbatches > 1)
        return total + again[train.remat[0]] * forward["image"]
    plan = layout.make_layout(model)
    ascending = len(plan.inputs) + 1
    for index, (spec, cost_of_block) in enumerate(
        zip(plan.blocks(), flops.unet_block_flops(model), strict=True)
    ):
        policy = activations.policy_of(config, spec.px)
        repeats = again[policy] + (policy == "full" and index >= ascending)
        total += repeats * cost_of_block
    return total


def _choices(given: problem.Problem) -> Iterator[problem.Problem]:
    train = given.config.train
    shards = device_mesh.num_batch_shards(given.mesh)
    rows = train.global_batch_size // shards
    parts = [n for n in range(1, MAX_MICROBATCHES + 1) if rows % n == 0]
    for remat, text, n in itertools.product(
        _remats(given.config), POLICIES[:3], [n for n in parts if n & (n - 1) == 0]
    ):
        yield given.with_train(remat=remat, remat_text=text, microbatches=n)


def _remats(config: Config) -> Iterator[tuple[str, ...]]:
    """Yields one policy for all levels, or a stronger one for the finest levels."""
    if isinstance(config.model, NoisedClipConfig):
        yield from ((policy,) for policy in POLICIES[:3])
        return
    levels = len(config.model.channel_mult)
    yield from ((policy,) for policy in POLICIES)
    for weak, strong in itertools.combinations(POLICIES, 2):
        for fine in range(1, levels):
            yield (strong,) * fine + (weak,) * (levels - fine)


def _evaluate(given: problem.Problem, state: memory.StateBytes, mfu: float) -> Option:
    config, where = given.config, given.topology
    device = memory.estimate(given, state)
    rows = traffic.collectives(config, given.state.params, given.spans)
    plain = cost.estimate(config, where, network_seconds={}, mfu=mfu)
    networks = teachers.trained_networks(config)
    again = config.train.global_batch_size * networks * recomputed_flops(config)
    computing = plain.seconds_per_step * (1 + again / plain.flops_per_step)
    train = config.train
    return Option(
        remat=train.remat,
        remat_text=train.remat_text,
        microbatches=train.microbatches,
        bytes_per_device=device.total,
        seconds=max(computing, *traffic.seconds(rows, where).values()),
        fits=device.total <= (1 - FREE_SHARE) * where.machine.memory_bytes,
    )


def _order(option: Option) -> tuple:
    strength = sum(map(POLICIES.index, option.remat)) / len(option.remat)
    if not option.fits:
        return (True, option.bytes_per_device)
    text = POLICIES.index(option.remat_text)
    return (False, option.seconds, option.microbatches, strength + text)
