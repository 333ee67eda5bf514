"""Memory of a training step on each device and each host.

The size of the state is exact, from its shapes and shardings. The memory within a step
is a formula, evaluated for each block of the backward pass from the last to the first.
At each block it is the sum of the activations that earlier blocks store (see
activations), the gradients so far, the working memory of the block, its parameters
gathered in the compute dtype, and their gradients before they are scattered. The step
needs the maximum over all blocks. Blocks without recomputation keep their gathered
parameters from the forward pass; on TPUs those of the ascending half keep them until
the middle block (see activations).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax

from glide_jax.parallel import sharding
from glide_jax.plan import activations
from glide_jax.plan.problem import Problem
from glide_jax.train.train_state import AUXILIARY, COUNTERS, TrainState

FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Placed:
    """Bytes of a sharded tree.

    Attributes:
      total: of the whole tree.
      on_device: of one device's shards in device memory.
      on_host: of one device's shards in host memory.
    """

    total: int
    on_device: int
    on_host: int


class BlockParams(NamedTuple):
    """The parameters of one block or of a stack of layers.

    Attributes:
      numbers: number of parameters.
      grads: bytes of the float32 gradients on one device, sharded like the parameters.
      layers: number of layers of a stack, else 1.
    """

    numbers: int
    grads: int
    layers: int


@dataclasses.dataclass(frozen=True)
class StateBytes:
    """Exact sizes of the training state.

    Attributes:
      params, moments, ema, rest: its parts.
      blocks: parameters by the first two names of their path; by three in the network
        that trains beside a student.
      cut: number of fsdp shards.
    """

    params: Placed
    moments: Placed
    ema: Placed
    rest: Placed
    blocks: dict[str, BlockParams]
    cut: int

    @property
    def total(self) -> int:
        """Bytes of a checkpoint."""
        parts = self.params, self.moments, self.ema, self.rest
        return sum(part.total for part in parts)


@dataclasses.dataclass(frozen=True)
class DeviceBytes:
    """Bytes of one device.

    Attributes:
      params, moments, ema: between steps; 0 if in host memory.
      teacher: parameters of a student's teacher.
      batch: of a step.
      grads: of the whole batch, sharded like the parameters.
      activations: stored by the forward pass for the backward pass.
      work: other memory at the peak of the backward pass.
      step: gradients, activations and work at the peak; less than their sum, since
        activations are freed while gradients are added.
    """

    params: int
    moments: int
    ema: int
    teacher: int
    batch: int
    grads: int
    activations: int
    work: int
    step: int

    @property
    def total(self) -> int:
        """Bytes at the peak of a step."""
        between = self.params + self.moments + self.ema + self.teacher
        return between + self.batch + self.step


@dataclasses.dataclass(frozen=True)
class HostBytes:
    """Bytes of one host while a checkpoint is written, without Python and libraries.

    Attributes:
      checkpoint: copies of the arrays of its devices.
      local_checkpoint: the copy that checkpoint.local_every_steps keeps of the distinct
        shards; at most, for one process a host.
      state: moments or averages in host memory.
      activations: block inputs under the remat policy offload.
      batches: the current batch and the prefetched ones.
    """

    checkpoint: int
    local_checkpoint: int
    state: int
    activations: int
    batches: int

    @property
    def total(self) -> int:
        """Sum of all fields."""
        return sum(dataclasses.astuple(self))


def measure_state(state: TrainState) -> StateBytes:
    """Returns the sizes of a state of ShapeDtypeStructs with NamedShardings."""
    rest = ([getattr(state, name) for name in COUNTERS], state.resampler)
    step: Any = state.step
    return StateBytes(
        params=_placed(state.params),
        moments=_placed(state.opt_state),
        ema=_placed(state.ema_params),
        rest=_placed(rest),
        blocks=_blocks(state.params),
        cut=step.sharding.mesh.shape["fsdp"],
    )


def estimate(given: Problem, state: StateBytes) -> DeviceBytes:
    """Estimates the bytes of one device.

    Args:
      given: the run and its devices.
      state: sizes of the run's state.
    """
    config, examples = given.config, given.examples
    parts = _activations(given)
    size = activations.compute_bytes(config)
    grads = state.params.on_device
    kept = sum(_kept(part, state, examples, size) for part in parts)
    # With microbatches the accumulated gradients exist from the start.
    done = grads if config.train.microbatches > 1 else 0
    left, peak, work_at_peak, waiting = kept, grads, 0, 0
    for part in reversed(parts):
        block = state.blocks.get(part.name, BlockParams(0, 0, 1))
        done += block.grads
        work = examples * size * part.work + _gathered(part, block, state.cut, size)
        needed = left + waiting + done + work
        if needed > peak:
            peak, work_at_peak = needed, waiting + work
        freed = _kept(part, state, examples, size)
        left -= freed
        if part.name.endswith("unet/middle"):
            waiting = 0
        elif part.late:
            waiting += freed * part.keeps_late + examples * size * part.late
    return DeviceBytes(
        params=state.params.on_device,
        moments=state.moments.on_device,
        ema=state.ema.on_device,
        teacher=_placed(given.teacher).on_device,
        batch=_placed(given.batch).on_device,
        grads=grads,
        activations=kept,
        work=work_at_peak,
        step=peak,
    )


def _kept(part: activations.Part, state: StateBytes, examples: int, size: int) -> int:
    """Returns the bytes that a part stores: activations and gathered parameters."""
    kept = examples * size * part.kept
    block = state.blocks.get(part.name)
    if part.policy == "none" and block is not None and size < FLOAT32:
        # Parameters of a stack stay sharded: each layer is gathered within the loop.
        kept += block.numbers * size // (1 if block.layers == 1 else state.cut)
    return kept


def _gathered(part: activations.Part, block: BlockParams, cut: int, size: int) -> int:
    """Returns the bytes of a block's gathered parameters and unsharded gradients."""
    if cut == 1:
        return 0
    again = 0 if part.policy == "none" and block.layers == 1 else size
    return block.numbers // block.layers * (again + FLOAT32)


def estimate_host(given: Problem, state: StateBytes) -> HostBytes:
    """Estimates the bytes of one host.

    Args:
      given: the run and its devices.
      state: sizes of the run's state.
    """
    config, topology = given.config, given.topology
    devices = topology.devices_per_host
    parts = state.params, state.moments, state.ema, state.rest
    batches = config.data.prefetch_batches + 1
    offloaded = activations.compute_bytes(config) * sum(
        part.on_host for part in _activations(given)
    )
    checkpoint = devices * sum(part.on_device + part.on_host for part in parts)
    is_local = config.checkpoint.local_every_steps > 0
    return HostBytes(
        checkpoint=checkpoint,
        local_checkpoint=min(checkpoint, sum(p.total for p in parts)) * is_local,
        state=devices * sum(part.on_host for part in parts),
        activations=devices * given.examples * offloaded,
        batches=batches * _placed(given.batch).total // topology.num_hosts,
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
    """Groups parameters by block or stack of layers, as `activations.parts` does."""
    leaves: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        keys = [str(key.key) for key in path]
        name = "/".join(keys[: 3 if keys[0] == AUXILIARY else 2])
        leaves.setdefault(name, []).append(leaf)
    return {
        name: BlockParams(
            numbers=sum(math.prod(leaf.shape) for leaf in group),
            grads=_placed(group).on_device,
            layers=group[0].shape[0] if name.endswith("/layers") else 1,
        )
        for name, group in leaves.items()
    }


def _activations(given: Problem) -> list[activations.Part]:
    return activations.parts(
        given.config,
        given.examples,
        tensor=given.mesh.shape["tensor"],
        is_tpu=given.topology.machine.is_tpu,
    )
