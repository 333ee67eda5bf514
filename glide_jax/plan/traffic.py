"""Which collectives does a step make, and how many bytes do they move?

With parameters cut over fsdp and examples over data and fsdp, each microbatch

    gathers the parameters over fsdp, once forward and once backward,
    scatters the sums of their gradients over fsdp,
    sums what is left of the gradients over data (uncut tensors: over data and fsdp),
    and with tensor parallelism sums activations over tensor.

Bytes are what one device receives a step, by the ring algorithms: of an array of G
bytes over p devices, a gather or a scatter moves G (p - 1) / p, a sum twice that. An
axis over both networks does its slow part on what the fast part leaves, 1/p_fast.
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

FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of collective over a whole step.

    Attributes:
      what: is moved, e.g. "parameters, forward".
      operation: all-gather, reduce-scatter or all-reduce.
      axis: of the mesh.
      tensors: moved by it in a microbatch.
      fast_bytes: received by a device in a step over ICI or NVLink.
      slow_bytes: the same over the data-centre network.
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
    """All collectives of a step that move anything.

    Args:
      config: of the run.
      params: ShapeDtypeStructs with a NamedSharding each.
      spans: how far each axis of the mesh reaches.
    """
    cut, whole = _sorted_by_cut(params, spans)
    repeats = config.train.microbatches
    gathered = sum(cut, 0.0) * activations.compute_bytes(config)
    fsdp, data = spans["fsdp"], spans["data"]
    gradients = sum(cut, 0.0) * FLOAT32
    both = Span(data.fast * fsdp.fast, data.slow * fsdp.slow)
    rows = [
        _gather("parameters, forward", gathered, len(cut), fsdp),
        _gather("parameters, backward", gathered, len(cut), fsdp),
        dataclasses.replace(
            _gather("gradients", gradients, len(cut), fsdp),
            operation="reduce-scatter",
        ),
        _sum("gradients", "data", gradients / fsdp.size, len(cut), data),
        _sum(
            "gradients of uncut tensors",
            "data, fsdp",
            sum(whole, 0.0) * FLOAT32,
            len(whole),
            both,
        ),
        *_activation_sums(config, spans),
    ]
    if isinstance(config.model, NoisedClipConfig):
        rows += _feature_gathers(config, both)
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
    """Seconds of a step on each network, by the published bandwidths."""
    rows, machine = list(rows), topology.machine
    fast = machine.fast_bytes / machine.chip.devices
    slow = machine.slow_bytes / machine.chip.devices
    return {
        machine.fast_network: sum(row.fast_bytes for row in rows) / fast,
        "DCN": sum(row.slow_bytes for row in rows) / slow,
    }


def _sorted_by_cut(params, spans):
    """Numbers in each tensor, on one tensor part: those cut over fsdp, the others."""
    cut, whole = [], []
    for leaf in jax.tree.leaves(params):
        axes = tuple(leaf.sharding.spec)
        count = float(math.prod(leaf.shape))
        if "tensor" in axes:
            count /= spans["tensor"].size
        is_cut = "fsdp" in axes and spans["fsdp"].size > 1
        (cut if is_cut else whole).append(count)
    return cut, whole


def _gather(what: str, size: float, tensors: int, span: Span) -> Collective:
    slow = size / span.fast * (span.slow - 1) / span.slow
    # The slow part fetches the other slices' pieces of this device's piece.
    fast = size * (span.fast - 1) / span.fast
    return Collective(what, "all-gather", "fsdp", tensors, fast, slow)


def _sum(what: str, axis: str, size: float, tensors: int, span: Span) -> Collective:
    fast = 2 * size * (span.fast - 1) / span.fast
    slow = 2 * size / span.fast * (span.slow - 1) / span.slow
    return Collective(what, "all-reduce", axis, tensors, fast, slow)


def _activation_sums(config: Config, spans: dict[str, Span]) -> list[Collective]:
    """Of each attention and perceptron, forward and backward."""
    tensor = spans["tensor"]
    if tensor.size == 1:
        return []
    shards = spans["data"].size * spans["fsdp"].size
    examples = config.train.global_batch_size / shards / config.train.microbatches
    sizes = list(_summed_activations(config.model))
    total = 2 * examples * sum(sizes) * activations.compute_bytes(config)
    return [_sum("activations", "tensor", total, 2 * len(sizes), tensor)]


def _summed_activations(model: Text2ImConfig | NoisedClipConfig) -> Iterable[int]:
    """Numbers in each activation of one example that tensor parallelism sums."""
    yield from (model.text_context * model.text_width,) * (2 * model.text_layers)
    if isinstance(model, NoisedClipConfig):
        patches = (model.image_px // model.patch_px) ** 2 + 1
        yield from (patches * model.image_width,) * (2 * model.image_layers)
        return
    for block in layout.make_layout(model).blocks():
        if block.attention:
            yield block.px**2 * block.channels


def _feature_gathers(config: Config, both: Span) -> list[Collective]:
    """CLIP's loss compares each picture with the captions of all devices."""
    model = config.model
    size = 2.0 * config.train.global_batch_size * model.embed_dim * FLOAT32
    forward = dataclasses.replace(
        _gather("features of the batch", size, 2, both), axis="data, fsdp"
    )
    return [forward]
