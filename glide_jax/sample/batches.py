"""Runs any number of images through one compiled program, each with its own noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from glide_jax.parallel import device_mesh, sharding
from glide_jax.sample import image_io, segments, stage_inputs
from glide_jax.sample.stage_inputs import StageInputs

# Called with 0 when a stage begins, then with the number of images finished since the
# last call, which may be a fraction. The numbers of a stage sum to its images.
Progress = Callable[[float | int], None]


class Step(NamedTuple):
    """One step of a batch.

    Attributes:
      stage: "base" or "upsampler".
      num_made, total: the steps that are made, and all of the batch.
      estimate: returns the pictures that the model predicts now, uint8 (B, H, W, 3),
        the pictures of the batch first and perhaps others that pad it. A call costs as
        much as a step, and on its first use compiles a program.
    """

    stage: str
    num_made: int
    total: int
    estimate: Callable[[], image_io.PixelBatch]


class StepProgress:
    """A `Progress` that is also called after every step; either method may raise.

    The pictures are the same. Other callbacks are called about 16 times a stage.
    """

    def __call__(self, finished: float | int) -> None:
        """See `Progress`."""

    def on_step(self, step: Step) -> None:
        """Called after each step."""


# (inputs, callback for shares of the work) -> x_start (B, H, W, 3)
Draw = Callable[[StageInputs, segments.OnShare | None], jax.Array]


def draw_in_batches(
    draw: Draw,
    inputs: StageInputs,
    batch_size: int,
    progress: Progress | None = None,
    mesh: Mesh | None = None,
) -> image_io.PixelBatch:
    """Returns all pictures as uint8, drawn at most `batch_size` at once.

    A batch is padded to `padded_size`, so that few programs serve any number of
    pictures.
    """
    count = len(inputs.keys)
    if progress is not None:
        progress(0)
    pictures = []
    for start in range(0, count, batch_size):
        wanted = min(batch_size, count - start)
        rows = np.arange(start, start + padded_size(wanted, batch_size, mesh))
        rows = np.minimum(rows, count - 1)
        own = jax.tree.map(lambda leaf, rows=rows: leaf[rows], _per_image(inputs))
        batch = inputs._replace(**own)
        if mesh is not None:
            shared = {name: getattr(inputs, name) for name in stage_inputs.SHARED}
            batch = batch._replace(
                **jax.device_put(own, sharding.batch_sharding(mesh)),
                **jax.device_put(shared, sharding.replicated(mesh)),
            )
        on_share = _scaled(progress, wanted)
        pictures.append(image_io.to_pixels(draw(batch, on_share))[:wanted])
    return np.concatenate(pictures)


def as_on_step(progress: StepProgress, stage: str) -> segments.OnStep:
    """Returns the callback of one stage."""

    def on_step(num_made: int, total: int, estimate: Callable[[], jax.Array]) -> None:
        progress.on_step(
            Step(stage, num_made, total, lambda: image_io.to_pixels(estimate()))
        )

    return on_step


def _scaled(progress: Progress | None, count: int) -> segments.OnShare | None:
    """Returns the callback of a batch of `count` images."""
    return None if progress is None else lambda share: progress(share * count)


def padded_size(count: int, batch_size: int, mesh: Mesh | None) -> int:
    """Returns the next power of two, at most `batch_size`, divisible over the mesh."""
    size = min(batch_size, 1 << (count - 1).bit_length())
    shards = 1 if mesh is None else device_mesh.num_batch_shards(mesh)
    return -(-size // shards) * shards


def spread(inputs: StageInputs, mesh: Mesh) -> StageInputs:
    """Constrains each image's arrays to the mesh of all processes, inside a program."""
    own = _per_image(inputs)
    where = sharding.batch_sharding(mesh)
    return inputs._replace(**jax.lax.with_sharding_constraint(own, where))


def _per_image(inputs: StageInputs) -> dict[str, Any]:
    """Returns the inputs whose first axis is the batch."""
    return {
        name: getattr(inputs, name)
        for name in inputs._fields
        if name not in stage_inputs.SHARED
    }
