"""Compares a student's pictures with its first teacher's, from the same noise.

Both draw the same held-out captions with the same seed. The first teacher samples by
DDIM without fresh noise, so that the noise determines its picture.

1. mse = mean (student - teacher)^2, of pixels in [-1, 1]
2. edges = mean |difference of neighbouring pixels| where the original picture has an
   edge, over that of the original: of an upsampler
3. colour, shape, background: shares of pictures in which `eval.shapes_checker` reads
   the caption, for the embedded data set
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np

from glide_jax.config.defaults import Config
from glide_jax.data import pipeline, shapes_world
from glide_jax.errors import UserError
from glide_jax.eval import shapes_checker
from glide_jax.models import build
from glide_jax.runtime import progress
from glide_jax.sample import cascade, image_io, restore
from glide_jax.train import batches

# The first teacher's steps; the noise and 50 steps give the picture of 100 to 1e-4.
TEACHER_STEPS = {"base": "50", "upsampler": "fast27"}
# Difference of neighbouring pixels, of 255, above which they are an edge.
EDGE = 64
BATCH_SIZE = {"base": 64, "upsampler": 16}


@dataclasses.dataclass(frozen=True)
class Task:
    """The pictures to draw.

    Attributes:
      captions: held-out captions.
      images: their pictures, uint8 (N, px, px, 3).
      small: pictures to enlarge, uint8 (N, h, w, 3); None for a base model.
      masks: (N, px, px), 1 = known, for inpainting base models; None for others. An
        inpainting upsampler is compared where it enlarges a picture without known part.
      is_shapes: whether the checker can read the pictures.
    """

    captions: list[str]
    images: np.ndarray
    small: np.ndarray | None
    masks: np.ndarray | None
    is_shapes: bool


def make_task(config: Config, model: restore.SampleModel, count: int) -> Task:
    """Reads the first `count` held-out examples of a stage.

    Args:
      config: settings of the stage.
      model: the first teacher.
      count: number of examples; at most those that there are.

    Raises:
      UserError: data.validation_sources is empty.
    """
    _, source = batches.open_sources(config)
    if source is None:
        raise UserError(
            f"{config.name} has no data.validation_sources, whose captions compare the "
            "student with its teacher; name some"
        )
    count = min(count, len(source))
    clean = dataclasses.replace(config.data, low_res_corruption="none")
    config = dataclasses.replace(config, data=clean)
    batch = pipeline.fixed_batch(
        source,
        model.tokenizer,
        batches.row_settings(config),
        range(count),
        on_bad=lambda bad: None,
    )
    low_res, mask = batch.get("low_res"), batch.get("inpaint_mask")
    captions = [model.tokenizer.decode(tokens) for tokens in batch["tokens"]]
    return Task(
        captions=captions,
        images=image_io.to_pixels(batch["image"]),
        small=None if low_res is None else image_io.to_pixels(low_res),
        masks=None if mask is None else np.asarray(mask)[..., 0],
        is_shapes=_is_readable(config, captions),
    )


def _is_readable(config: Config, captions: list[str]) -> bool:
    """Whether the checker can compare pictures with these captions."""
    named = config.data.validation_sources
    if not all(name.startswith("shapes:quickstart") for name in named):
        return False
    try:
        for caption in captions:
            shapes_world.parse_caption(caption)
    except UserError:
        logging.warning(
            "colours and shapes are not read: model.text_context=%d cuts the captions",
            config.model.text_context,
        )
        return False
    return True


def draw(
    model: restore.SampleModel,
    task: Task,
    title: str,
    *,
    scale: float | None = None,
    is_reference: bool = False,
) -> np.ndarray:
    """Draws the pictures of a task, uint8 (N, px, px, 3).

    Args:
      model: a base model or an upsampler.
      task: see `make_task`.
      title: of the progress bar.
      scale: guidance scale of a base model; None: no guidance.
      is_reference: whether the model is the first teacher.
    """
    role = build.role_of(model.config.model)
    options: dict[str, Any] = {"batch_size": BATCH_SIZE[role]}
    prefix = "" if role == "base" else "upsampler_"
    if is_reference:
        options |= {
            f"{prefix}sampler": "ddim",
            f"{prefix}respacing": TEACHER_STEPS[role],
        }
    if role == "base":
        options["guidance_mode"] = "none" if scale is None else "cfg"
        options["guidance_scale"] = scale
    with progress.ProgressBar(len(task.captions), title) as bar:
        options["progress"] = bar.update
        if role == "upsampler":
            assert task.small is not None
            models = cascade.Glide(None, model)
            return models.upsample(task.small, task.captions, **options).images
        models = cascade.Glide(model)
        if task.masks is None:
            return models.sample(task.captions, **options).images
        return models.inpaint(task.images, task.masks, task.captions, **options).images


def figures(drawn: np.ndarray, teacher: np.ndarray, task: Task) -> dict[str, float]:
    """Returns mse, eq. 1, edges of an upsampler, eq. 2, and for shapes eq. 3."""
    error = drawn.astype(np.float64) / 127.5 - teacher.astype(np.float64) / 127.5
    found = {"mse": float(np.mean(np.square(error)))}
    if task.small is not None:
        found["edges"] = _edges(drawn, task.images)
    if task.is_shapes:
        shares = shapes_checker.score(drawn, task.captions)
        found |= {
            name: float(shares[name]) for name in ("colour", "shape", "background")
        }
    return found


def _edges(drawn: np.ndarray, originals: np.ndarray) -> float:
    """Returns eq. 2; 1 if no original has an edge."""
    steps = total = 0.0
    for axis in (1, 2):
        real = np.abs(np.diff(originals.astype(np.float64), axis=axis))
        made = np.abs(np.diff(drawn.astype(np.float64), axis=axis))
        is_edge = real > EDGE
        steps, total = steps + made[is_edge].sum(), total + real[is_edge].sum()
    return float(steps / total) if total else 1.0
