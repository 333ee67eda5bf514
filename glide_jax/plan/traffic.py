"""Collectives of a training step, and the bytes that they move.

With parameters sharded over fsdp, and examples over data and fsdp, each microbatch

    gathers the parameters over fsdp, once forward and once backward,
    reduce-scatters their gradients over fsdp,
    all-reduces the gradient shards over data (replicated tensors: over data and fsdp),
    and with tensor parallelism all-reduces activations over tensor.

A student's step also gathers the parameters of its teacher, in each of its passes; the
sums of its activations are not counted.

Bytes are those that one device receives per step with ring algorithms: for an array of
G bytes over p devices, a gather or a scatter moves G (p - 1) / p, an all-reduce twice
that. If an axis spans both networks, the slow part operates on the 1/p_fast share that
the fast part leaves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import jax

from glide_jax import array_types
from glide_jax.config.defaults import Config, NoisedClipConfig, Text2ImConfig
from glide_jax.models import layout
from glide_jax.plan import activations
from glide_jax.plan.device_topology import Span, Topology
from glide_jax.train import teachers

FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind in a step.

    Attributes:
      what: the operand, e.g. "parameters, forward".
      operation: all-gather, reduce-scatter or all-reduce.
      axis: of the mesh.
      tensors: number of tensors per microbatch.
      fast_bytes: received by a device per step over ICI or NVLink.
      slow_bytes: received by a device per step over the data-centre network.
    """

    what: str
    operation: str
    axis: str
    tensors: int
    fast_bytes: float
    slow_bytes: float


def collectives(
    config: Config, params: array_types.Params, spans: dict[str, Span]
) -> list[Collective]:
    """Returns all collectives of a step that move data.

    Args:
      config: of the run.
      params: ShapeDtypeStructs with NamedShardings.
      spans: extent of each axis of the mesh over both networks.
    """
    sharded, whole = _split_by_sharding(params, spans)
    repeats = config.train.microbatches
    gathered = sum(sharded, 0.0) * activations.compute_bytes(config)
    fsdp, data = spans["fsdp"], spans["data"]
    gradients = sum(sharded, 0.0) * FLOAT32
    both = Span(data.fast * fsdp.fast, data.slow * fsdp.slow)
    rows = [
        _gather("parameters, forward", gathered, len(sharded), fsdp),
        _gather("parameters, backward", gathered, len(sharded), fsdp),
        dataclasses.replace(
            _gather("gradients", gradients, len(sharded), fsdp),
            operation="reduce-scatter",
        ),
        _sum("gradients", "data", gradients / fsdp.size, len(sharded), data),
        _sum(
            "gradients of unsharded tensors",
            "data, fsdp",
            sum(whole, 0.0) * FLOAT32,
            len(whole),
            both,
        ),
        *_activation_sums(config, spans),
    ]
    if config.train.teacher:
        # Sharded like the student. Only halving makes two passes: a fold passes both
        # rows at once. Where two networks train, their teacher has the size of one.
        halves = not teachers.is_fold(config) and not teachers.matches_moments(config)
        networks = teachers.trained_networks(config)
        size = (2 if halves else 1) * gathered / networks
        rows.append(
            _gather("teacher's parameters", size, len(sharded) // networks, fsdp)
        )
    if isinstance(config.model, NoisedClipConfig):
        rows.append(_feature_gather(config, config.model, both))
    return [
        dataclasses.replace(
            row,
            fast_bytes=repeats * row.fast_bytes,
            slow_bytes=repeats * row.slow_bytes,
        )
        for row in rows
        if row.fast_bytes or row.slow_bytes
    ]


def seconds(rows: Iterable[Collective], topology: Topology) -> dict[str, float]:
    """Returns the seconds per step on each network, at published bandwidths."""
    rows, machine = list(rows), topology.machine
    fast = machine.fast_bytes / machine.chip.devices
    slow = machine.slow_bytes / machine.chip.devices
    return {
        machine.fast_network: sum(row.fast_bytes for row in rows) / fast,
        "DCN": sum(row.slow_bytes for row in rows) / slow,
    }


def _split_by_sharding(
    params: array_types.Params, spans: dict[str, Span]
) -> tuple[list[float], list[float]]:
    """Returns sizes of the tensors sharded over fsdp, and sizes of the others.

    A size is the number of elements in one shard of the tensor axis.
    """
    sharded, whole = [], []
    for leaf in jax.tree.leaves(params):
        axes = tuple(leaf.sharding.spec)
        count = float(math.prod(leaf.shape))
        if "tensor" in axes:
            count /= spans["tensor"].size
        is_sharded = "fsdp" in axes and spans["fsdp"].size > 1
        (sharded if is_sharded else whole).append(count)
    return sharded, whole


def _gather(what: str, size: float, tensors: int, span: Span) -> Collective:
    slow = size / span.fast * (span.slow - 1) / span.slow
    # The slow part gathers this device's share from the other slices.
    fast = size * (span.fast - 1) / span.fast
    return Collective(what, "all-gather", "fsdp", tensors, fast, slow)


def _sum(what: str, axis: str, size: float, tensors: int, span: Span) -> Collective:
    fast = 2 * size * (span.fast - 1) / span.fast
    slow = 2 * size / span.fast * (span.slow - 1) / span.slow
    return Collective(what, "all-reduce", axis, tensors, fast, slow)


def _activation_sums(config: Config, spans: dict[str, Span]) -> list[Collective]:
    """Returns the sums of each attention and perceptron, forward and backward."""
    tensor = spans["tensor"]
    if tensor.size == 1:
        return []
    shards = spans["data"].size * spans["fsdp"].size
    examples = config.train.global_batch_size / shards / config.train.microbatches
    networks = teachers.trained_networks(config)
    sizes = networks * list(_summed_activations(config.model))
    total = 2 * examples * sum(sizes) * activations.compute_bytes(config)
    return [_sum("activations", "tensor", total, 2 * len(sizes), tensor)]


def _summed_activations(model: Text2ImConfig | NoisedClipConfig) -> Iterable[int]:
    """Yields the size of each activation that tensor parallelism sums, one example."""
    yield from (model.text_context * model.text_width,) * (2 * model.text_layers)
    if isinstance(model, NoisedClipConfig):
        patches = (model.image_px // model.patch_px) ** 2 + 1
        yield from (patches * model.image_width,) * (2 * model.image_layers)
        return
    for block in layout.make_layout(model).blocks():
        if block.attention:
            yield block.px**2 * block.channels


def _feature_gather(config: Config, model: NoisedClipConfig, both: Span) -> Collective:
    """Returns the gather of CLIP's loss, which compares all images and captions."""
    size = 2.0 * config.train.global_batch_size * model.embed_dim * FLOAT32
    gather = _gather("features of the batch", size, 2, both)
    return dataclasses.replace(gather, axis="data, fsdp")
