"""How many bytes does a step take of each device, and of each host?

State is exact: shapes and shardings of the real state. What lives within a step is a
formula, a walk through the backward pass from the last block to the first: at each
block there live what earlier blocks keep (see activations), the gradients so far, the
block at work, its parameters gathered in the compute type and their gradients before
they are scattered. The step needs what the fullest of these moments does. Blocks that
compute nothing again keep their parameters as the forward pass gathered them, and those
of the ascending half wait for the middle block (see activations).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax

from glide_jax.config.defaults import Config
from glide_jax.parallel import sharding
from glide_jax.plan import activations
from glide_jax.plan.device_topology import Topology
from glide_jax.train.train_state import COUNTERS, TrainState

FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Placed:
    """A tree with places: bytes of all of it, on one device and in its host's memory.

    The last two are what one device holds there, or its host for it.
    """

    total: int
    on_device: int
    on_host: int


class BlockParams(NamedTuple):
    """The parameters of one block or of a stack of layers.

    Attributes:
      numbers: of all of it.
      grads: bytes of its gradients on one device, float32 and placed as they are.
      layers: in a stack, else 1.
    """

    numbers: int
    grads: int
    layers: int


@dataclasses.dataclass(frozen=True)
class StateBytes:
    """The training state, exactly.

    Attributes:
      params, moments, ema, rest: its parts.
      blocks: parameters by the first two names of their path.
      cut: into how many parts fsdp cuts them.
    """

    params: Placed
    moments: Placed
    ema: Placed
    rest: Placed
    blocks: dict[str, BlockParams]
    cut: int

    @property
    def total(self) -> int:
        """Of a checkpoint."""
        parts = self.params, self.moments, self.ema, self.rest
        return sum(part.total for part in parts)


@dataclasses.dataclass(frozen=True)
class DeviceBytes:
    """Of one device.

    Attributes:
      params, moments, ema: as they lie between steps; 0 for what the host holds.
      batch: of a step.
      grads: of the whole batch, cut as the parameters are.
      activations: what the forward pass keeps for the backward pass.
      work: beside those two, at the fullest moment of the backward pass.
      step: of gradients, activations and work, at the fullest moment: activations go
        while gradients come.
    """

    params: int
    moments: int
    ema: int
    batch: int
    grads: int
    activations: int
    work: int
    step: int

    @property
    def total(self) -> int:
        """At the fullest moment."""
        return self.params + self.moments + self.ema + self.batch + self.step


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
    rest = ([getattr(state, name) for name in COUNTERS], state.resampler)
    return StateBytes(
        params=_placed(state.params),
        moments=_placed(state.opt_state),
        ema=_placed(state.ema_params),
        rest=_placed(rest),
        blocks=_blocks(state.params),
        cut=state.step.sharding.mesh.shape["fsdp"],
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
    parts = activations.parts(config, examples)
    size = activations.compute_bytes(config)
    grads = state.params.on_device
    kept = sum(_kept(part, state, examples, size) for part in parts)
    # The sum of all microbatches is there from the first one on.
    done = grads if config.train.microbatches > 1 else 0
    left, fullest, work_then, waiting = kept, grads, 0, 0
    for part in reversed(parts):
        block = state.blocks.get(part.name, BlockParams(0, 0, 1))
        done += block.grads
        work = examples * size * part.work + _gathered(part, block, state.cut, size)
        needed = left + waiting + done + work
        if needed > fullest:
            fullest, work_then = needed, waiting + work
        gone = _kept(part, state, examples, size)
        left -= gone
        if part.name == "unet/middle":
            waiting = 0
        elif part.late:
            waiting += gone + examples * size * part.late
    return DeviceBytes(
        params=state.params.on_device,
        moments=state.moments.on_device,
        ema=state.ema.on_device,
        batch=_placed(batch).on_device,
        grads=grads,
        activations=kept,
        work=work_then,
        step=fullest,
    )


def _kept(part: activations.Part, state: StateBytes, examples: int, size: int) -> int:
    """Bytes that a part keeps: activations, and parameters in the compute type."""
    kept = examples * size * part.kept
    block = state.blocks.get(part.name)
    if part.policy == "none" and block is not None and size < FLOAT32:
        # A stack's lie as they were cut: each layer is gathered within the loop.
        kept += block.numbers * size // (1 if block.layers == 1 else state.cut)
    return kept


def _gathered(part: activations.Part, block: BlockParams, cut: int, size: int) -> int:
    """Bytes of a block's parameters and gradients while they are whole."""
    if cut == 1:
        return 0
    again = 0 if part.policy == "none" and block.layers == 1 else size
    return block.numbers // block.layers * (again + FLOAT32)


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
    offloaded = activations.compute_bytes(config) * sum(
        part.on_host for part in activations.parts(config, examples)
    )
    return HostBytes(
        checkpoint=devices * sum(part.on_device + part.on_host for part in parts),
        state=devices * sum(part.on_host for part in parts),
        activations=devices * examples * offloaded,
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


def _blocks(params: Any) -> dict[str, BlockParams]:
    """Parameters by block, or by stack of layers."""
    leaves: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(str(key.key) for key in path[:2])
        leaves.setdefault(name, []).append(leaf)
    return {
        name: BlockParams(
            numbers=sum(math.prod(leaf.shape) for leaf in group),
            grads=_placed(group).on_device,
            layers=group[0].shape[0] if name.endswith("/layers") else 1,
        )
        for name, group in leaves.items()
    }
