"""A sampling stage with abstract arguments, for devices that need not exist.

It is the stage that `cascade.Glide` runs, with the shapes, dtypes and shardings of the
arrays that a loaded bundle and a batch of `batches.draw_in_batches` have. Nothing is
allocated, so `glide plan` compiles it for hardware that is not present.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from glide_jax import array_types
from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.parallel import sharding
from glide_jax.runtime import random_streams
from glide_jax.sample import (
    batches,
    models,
    options,
    restore,
    segments,
    stage,
    stage_inputs,
)


class AbstractStage(NamedTuple):
    """A stage and its arguments, as ShapeDtypeStructs with shardings.

    `stage.compile_parts(params, clip_params, inputs)` compiles it.

    Attributes:
      stage: the program of the model.
      params: of the model.
      clip_params: of the noised CLIP, or None.
      inputs: of one batch.
      num_steps: number of steps of a whole image.
    """

    stage: segments.Stage
    params: array_types.Params
    clip_params: array_types.Params | None
    inputs: stage_inputs.StageInputs
    num_steps: int

    @property
    def batch_size(self) -> int:
        """Number of images of the batch."""
        return self.inputs.keys.shape[0]


def make_settings(
    config: defaults.Config,
    guidance_mode: str,
    inpaint_mode: str | None = None,
    clip: defaults.Config | None = None,
) -> stage.StageSettings:
    """Returns the static settings of a model's stage, checked.

    Args:
      config: of the run of a base model or an upsampler.
      guidance_mode: one of `options.GUIDANCE_MODES`; "none" for an upsampler.
      inpaint_mode: one of `options.INPAINT_MODES`; None: nothing is known.
      clip: of the run of the noised CLIP, for the modes that use one.

    Raises:
      UserError: settings that do not fit each other, the model or the CLIP.
    """
    settings = stage.StageSettings.of(
        config.sample, guidance_mode, inpaint_mode=inpaint_mode
    )
    if guidance_mode != "none" and build.role_of(config.model) == "upsampler":
        raise UserError(
            f"guidance_mode={guidance_mode} is for base models and {config.name!r} is "
            "an upsampler; leave it out"
        )
    if clip is not None and "clip" not in guidance_mode:
        raise UserError(
            f"guidance_mode={guidance_mode} reads no CLIP; leave the CLIP out, or use "
            "guidance_mode=clip or cfg+clip"
        )
    if clip is not None:
        models.check_clip(config, clip, config.name, clip.name)
    stage.check(config, settings, has_clip=clip is not None)
    return settings


def make_stage(
    config: defaults.Config,
    settings: stage.StageSettings,
    mesh: Mesh,
    num_images: int,
    clip: defaults.Config | None = None,
) -> AbstractStage:
    """Returns the stage of a model and the arguments of its first batch.

    Args:
      config: of the run of a base model or an upsampler.
      settings: from `make_settings`.
      mesh: of the devices; batches are sharded over it, as by `cascade.Glide`.
      num_images: number of images asked for; a batch has at most the default of
        `options.SamplingOptions.batch_size`.
      clip: of the run of the noised CLIP, for the modes that use one.
    """
    at_once = options.SamplingOptions().batch_size
    rows = batches.padded_size(min(num_images, at_once), at_once, mesh)
    fns = restore.make_fns(config, mesh)
    clip_fns = None if clip is None else restore.make_fns(clip, mesh)
    assert isinstance(fns, build.DenoiserFns)
    assert clip_fns is None or isinstance(clip_fns, build.ClipFns)
    return AbstractStage(
        stage.make_stage(config, fns, settings, clip_fns),
        _params(config, mesh),
        None if clip is None else _params(clip, mesh),
        _inputs(config, settings, mesh, rows, clip),
        stage.num_steps(config, settings),
    )


def _params(config: defaults.Config, mesh: Mesh) -> array_types.Params:
    """Returns the parameters as `restore.load_bundle` places them."""
    params = build.abstract_params(config.model)

    def describe(
        path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct, place: Any
    ) -> jax.ShapeDtypeStruct:
        dtype = build.dtype_in_memory(path, config.model.compute_dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=place)

    places = restore.place(params, config, mesh)
    return jax.tree_util.tree_map_with_path(describe, params, places)


def _inputs(
    config: defaults.Config,
    settings: stage.StageSettings,
    mesh: Mesh,
    rows: int,
    clip: defaults.Config | None,
) -> stage_inputs.StageInputs:
    """Returns the inputs of a batch, each image with one caption."""
    own, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    model = config.model
    assert isinstance(model, defaults.Text2ImConfig)

    # Typed as Any: a ShapeDtypeStruct takes the place of an array.
    def array(*shape: int, dtype: Any = jnp.float32, place: Any = own) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    def caption(length: int) -> stage_inputs.Caption:
        return stage_inputs.Caption(
            array(rows, 1, length, dtype=jnp.int32),
            array(rows, 1, length, dtype=jnp.bool_),
        )

    given: dict[str, Any] = {}
    if "cfg" in settings.guidance_mode:
        given["empty"] = stage_inputs.Caption(
            array(1, model.text_context, dtype=jnp.int32, place=everywhere),
            array(1, model.text_context, dtype=jnp.bool_, place=everywhere),
        )
    if clip is not None:
        given["clip_caption"] = caption(clip.model.text_context)
    if model.low_res_px:
        given["low_res"] = array(rows, model.low_res_px, model.low_res_px, 3)
    if settings.inpaint_mode is not None:
        given["inpaint_image"] = array(rows, model.image_px, model.image_px, 3)
        given["inpaint_mask"] = array(rows, model.image_px, model.image_px, 1)
    keys = jax.eval_shape(
        lambda: random_streams.image_keys(0, np.arange(rows), random_streams.BASE_STAGE)
    )
    return stage_inputs.StageInputs(
        keys=array(*keys.shape, dtype=keys.dtype),
        caption=caption(model.text_context),
        weights=array(rows, 1),
        **given,
        **{name: array(place=everywhere) for name in stage_inputs.SCALARS},
    )
