"""How many bytes does a step take of each device, and of each host?

State is exact: shapes and shardings of the real state. What lives within a step is a
formula: activations (see there), gradients as they accumulate, and beside the block at
work its parameters gathered in the compute type and their gradients before they are
scattered.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax

from glide_jax.config.defaults import Config
from glide_jax.parallel import sharding
from glide_jax.plan import activations
from glide_jax.plan.topology import Topology
from glide_jax.train.state import TrainState

FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Placed:
    """A tree with places: bytes of all of it, on one device and in its host's memory.

    The last two are what one device holds there, or its host for it.
    """

    total: int
    on_device: int
    on_host: int


@dataclasses.dataclass(frozen=True)
class StateBytes:
    """The training state, exactly.

    Attributes:
      params, moments, ema, rest: its parts.
      gradients: float32 and placed as the parameters.
      gathered_block: numbers in the largest block's parameters, whole.
    """

    params: Placed
    moments: Placed
    ema: Placed
    rest: Placed
    gradients: Placed
    gathered_block: int

    @property
    def total(self) -> int:
        """Of a checkpoint."""
        parts = self.params, self.moments, self.ema, self.rest
        return sum(part.total for part in parts)


@dataclasses.dataclass(frozen=True)
class DeviceBytes:
    """Of one device at the fullest moment of a step.

    Attributes:
      params, moments, ema: as they lie between steps; 0 for what the host holds.
      grads: of the whole batch, cut as the parameters are.
      activations: what the forward pass keeps for the backward pass.
      other: the batch, and the block at work with its gathered parameters.
    """

    params: int
    grads: int
    moments: int
    ema: int
    activations: int
    other: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class HostBytes:
    """Of one host while a checkpoint is written, without Python and its libraries.

    Attributes:
      checkpoint: the arrays of its devices, copied before they are written.
      state: moments or averages that live there.
      activations: block inputs under the remat policy offload.
      batches: prefetched ones and the one at work.
    """

    checkpoint: int
    state: int
    activations: int
    batches: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


def measure_state(state: TrainState) -> StateBytes:
    """Bytes of a state of ShapeDtypeStructs with shardings."""
    rest = (state.step, state.updates, state.log2_loss_scale, state.resampler)
    params = _placed(state.params)
    return StateBytes(
        params=params,
        moments=_placed(state.opt_state),
        ema=_placed(state.ema_params),
        rest=_placed(rest),
        gradients=params,
        gathered_block=_largest_block(state.params),
    )


def estimate(
    config: Config, state: StateBytes, batch: dict[str, Any], examples: int
) -> DeviceBytes:
    """Bytes of one device.

    Args:
      config: of the run.
      state: measured.
      batch: the global batch, as ShapeDtypeStructs with shardings.
      examples: of one microbatch on one device.
    """
    work = activations.estimate(config, examples)
    gathered = state.gathered_block * (activations.compute_bytes(config) + FLOAT32)
    return DeviceBytes(
        params=state.params.on_device,
        grads=state.gradients.on_device,
        moments=state.moments.on_device,
        ema=state.ema.on_device,
        activations=work.kept,
        other=_placed(batch).on_device + work.work + gathered,
    )


def estimate_host(
    config: Config,
    state: StateBytes,
    batch: dict[str, Any],
    topology: Topology,
    examples: int,
) -> HostBytes:
    """Bytes of one host; arguments as of `estimate`."""
    devices = topology.devices_per_host
    parts = state.params, state.moments, state.ema, state.rest
    batches = config.data.prefetch_batches + 1
    return HostBytes(
        checkpoint=devices * sum(part.on_device + part.on_host for part in parts),
        state=devices * sum(part.on_host for part in parts),
        activations=devices * activations.estimate(config, examples).on_host,
        batches=batches * _placed(batch).total // topology.num_hosts,
    )


def _placed(tree: Any) -> Placed:
    total = on_device = on_host = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize
        part = math.prod(leaf.sharding.shard_shape(leaf.shape)) * size
        total += math.prod(leaf.shape) * size
        if leaf.sharding.memory_kind == sharding.HOST:
            on_host += part
        else:
            on_device += part
    return Placed(total, on_device, on_host)


def _largest_block(params: Any) -> int:
    """Numbers in the parameters of the largest block, or of one layer of a stack."""
    blocks = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [key.key for key in path]
        count = math.prod(leaf.shape)
        if "layers" in names:
            count //= leaf.shape[0]
        block = tuple(names[:2])
        blocks[block] = blocks.get(block, 0) + count
    return max(blocks.values())
