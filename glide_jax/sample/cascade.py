"""From prompts to pictures: base model, then upsampler; filling in, editing, enlarging.

Image i of a run draws all of its noise from fold_in(key(seed), i), so it is the same
picture in any batch. The upsampler sees the base model's picture as 8-bit pixels.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from glide_jax import errors, shapes
from glide_jax.config import defaults
from glide_jax.parallel import mesh as meshes
from glide_jax.sample import (
    batches,
    compatible,
    known,
    outpaint,
    rerank,
    restore,
    settings,
    stage,
    stage_inputs,
)
from glide_jax.sample import images as images_lib
from glide_jax.sample import prompts as prompts_lib
from glide_jax.sample import run as run_lib

Prompts = prompts_lib.Prompt | Iterable[prompts_lib.Prompt]


class Glide:
    """Models that belong together; compiled programs are kept between calls.

    A prompt is a text, or {text: weight, ...} for several blended in one picture.
    Pictures are PIL images or uint8 arrays, one or several; one picture serves several
    prompts, one prompt several pictures. `**options` of every method are the fields of
    `settings.SampleOptions`.
    """

    def __init__(
        self,
        base: restore.SampleModel,
        upsampler: restore.SampleModel | None = None,
        clip: restore.SampleModel | None = None,
        *,
        mesh: Mesh | None = None,
    ):
        """Raises UserError where the models do not belong together.

        Args:
            base: As from `restore.load_bundle`, like the others placed on `mesh`.
            upsampler: None: pictures stay small.
            clip: For guidance by it and choice among candidates.
            mesh: Devices that batches are spread over; None: the default device.
        """
        compatible.check_models(base, upsampler, clip)
        self.base, self.upsampler, self.clip = base, upsampler, clip
        self._mesh = mesh
        self._stages: dict[tuple[bool, stage.StageSettings], stage.Stage] = {}
        self._scorer: rerank.Scorer | None = None

    @classmethod
    def load(
        cls,
        base: str | pathlib.Path,
        upsampler: str | pathlib.Path | None = None,
        clip: str | pathlib.Path | None = None,
        *,
        fsdp: int = 1,
        compute_dtype: str | None = None,
    ) -> Glide:
        """The models in bundles, on every device of this machine.

        Args:
            base, upsampler, clip: Folders that `glide export` or `glide convert` wrote.
            fsdp: Devices that each model's parameters are spread over, for models that
                one device cannot hold; batches are spread over all devices anyway.
            compute_dtype: "float32", "bfloat16" or "float16", in which the models
                compute and keep their matrices; None: the bundles'.

        Raises:
            UserError: A folder that is not a bundle or is damaged; bundles that do not
                belong together; devices that fsdp does not divide.
        """
        mesh = None
        if jax.device_count() > 1:
            mesh = meshes.make_mesh(defaults.MeshConfig(data=-1, fsdp=fsdp))
        elif fsdp != 1:
            raise errors.UserError(f"fsdp={fsdp}, but there is one device; leave it 1")
        models = [
            None
            if folder is None
            else restore.load_bundle(folder, mesh=mesh, compute_dtype=compute_dtype)
            for folder in (base, upsampler, clip)
        ]
        return cls(*models, mesh=mesh)

    @property
    def num_stages(self) -> int:
        """Models that each image passes: a progress total is images times this."""
        return 1 if self.upsampler is None else 2

    def sample(
        self,
        prompts: Prompts,
        *,
        num_images: int = 1,
        progress: batches.Progress | None = None,
        **options,
    ) -> run_lib.Pictures:
        """`num_images` pictures of each prompt; `progress` is a `batches.Progress`.

        Raises:
            UserError: No prompts, or an option that is unknown, out of range or
                asks for a CLIP that is not there.
        """
        run = self._start(prompts, num_images, options)
        return self._draw(run, {}, {}, progress)

    def inpaint(
        self,
        images: Any,
        masks: Any,
        prompts: Prompts,
        *,
        num_images: int = 1,
        progress: batches.Progress | None = None,
        **options,
    ) -> run_lib.Pictures:
        """Each picture with what its mask leaves unknown drawn to fit its prompt.

        Args:
            images: Square pictures; resized to both resolutions.
            masks: 0 and 1, 1 = known, at the base model's resolution or the images'
                own. Known pixels come out as they are in `images`, to the pixel where
                images and masks have the size of the result.
            prompts: Captions of the finished pictures.
            num_images: As in `sample`.
            progress: As in `sample`.
            **options: As in `sample`.

        Raises:
            UserError: As in `sample`; a model that takes no mask (unless inpaint_mode
                is "implicit" or "masked"); images or masks of the wrong size; a mask
                that is 0 or 1 everywhere.
        """
        images = images_lib.as_pixels(images)
        run = self._start(prompts, num_images, options, len(images), fills=True)
        images = run.repeat(images)
        masks = run.repeat(images_lib.as_masks(masks))
        return self._fill(run, images, masks, progress)

    def _fill(
        self,
        run: run_lib.Run,
        images: np.ndarray,
        masks: np.ndarray,
        progress: batches.Progress | None,
    ) -> run_lib.Pictures:
        masks = known.checked_masks(images, masks, run.count, self.base_px)
        feather_px = run.options.feather_px

        def conditions(px: int) -> dict[str, np.ndarray]:
            # At least a pixel of each model, where it is soft at all.
            soft = math.ceil(feather_px * px / self.image_px)
            return known.conditions(images, masks, px, soft)

        return self._draw(
            run, conditions(self.base_px), self._large(conditions), progress
        )

    def edit(
        self,
        images: Any,
        prompts: Prompts,
        *,
        strength: float | int = 0.6,
        source_prompts: Prompts | None = None,
        num_images: int = 1,
        progress: batches.Progress | None = None,
        **options,
    ) -> run_lib.Pictures:
        """Each picture changed to fit its prompt, its layout kept (SDEdit, 2108.01073).

        The picture is noised up to a share `strength` of the timesteps and denoised
        again, by both models: 0 gives it back, 1 keeps nothing of it.

        Args:
            images: Square pictures, e.g. sketches; resized to both resolutions.
            prompts: What each is to show.
            strength: 0 to 1.
            source_prompts: What each shows now. Given, noise is not drawn but found by
                DDIM inversion, which keeps more of a real picture; both models then
                sample by ddim.
            num_images: As in `sample`.
            progress: As in `sample`.
            **options: As in `sample`.

        Raises:
            UserError: As in `sample`; images that are not square; a strength outside
                its range; inversion with a sampler other than ddim.
        """
        settings.check_strength(strength)
        inverts = source_prompts is not None
        if inverts:
            options = {"sampler": "ddim", **options}
            if self.upsampler is not None:
                options = {"upsampler_sampler": "ddim", **options}
        images = images_lib.as_pixels(images)
        run = self._start(prompts, num_images, options, len(images), inverts=inverts)
        images = run.repeat(images)
        known.check_square(images, run.count)
        source = {}
        if inverts:
            source = {
                "source_prompts": prompts_lib.as_sources(source_prompts, run.count)
            }

        def conditions(px: int) -> dict[str, Any]:
            picture = images_lib.from_pixels(images_lib.resize(images, px))
            return {"init_image": picture, "strength": strength, **source}

        drawn = self._draw(
            run, conditions(self.base_px), self._large(conditions), progress
        )
        record = {**drawn.settings, "strength": strength, **source}
        return dataclasses.replace(drawn, settings=record)

    def upsample(
        self,
        images: Any,
        prompts: Prompts,
        *,
        progress: batches.Progress | None = None,
        **options,
    ) -> run_lib.Pictures:
        """Each small picture (the base model's size) enlarged.

        Raises:
            UserError: As in `sample`; no upsampler; images of another size.
        """
        images = images_lib.as_pixels(images)
        run = self._start(prompts, 1, options, len(images))
        if self.upsampler is None:
            raise errors.UserError(
                "upsampling needs an upsampler and none was given; give its bundle"
            )
        images = run.repeat(images)
        side = self.upsampler.config.model.low_res_px
        if images.shape != (run.count, side, side, 3) or images.dtype != np.uint8:
            raise errors.UserError(
                f"images are {images.dtype} {images.shape}; {run.count} prompts and "
                f"this upsampler need uint8 ({run.count}, {side}, {side}, 3)"
            )
        return self._enlarge(run, images, run.indices(run.count), {}, progress)

    def outpaint(
        self,
        images: Any,
        prompts: Prompts,
        margins: Sequence[float | int],
        *,
        progress: batches.Progress | None = None,
        **options,
    ) -> run_lib.Pictures:
        """Pictures continued beyond their sides, square by square, each by `inpaint`.

        Args:
            images: Pictures of any size; what is there stays, to the pixel.
            prompts: What the finished pictures show.
            margins: Pixels to add at the left, top, right and bottom.
            progress: As in `sample`, in every square.
            **options: As in `sample`.

        Returns:
            Pictures of the extended size; base_images are those of the last square.

        Raises:
            UserError: As in `inpaint`; a result smaller than the model's picture.
        """
        images = images_lib.as_pixels(images)
        run = self._start(prompts, 1, options, len(images), fills=True)
        canvas = outpaint.make_canvas(run.repeat(images), outpaint.as_margins(margins))
        drawn = []

        def draw(part: outpaint.Canvas) -> np.ndarray:
            masks = np.broadcast_to(part.known, (run.count, *part.known.shape))
            square = self._start(run.prompts, 1, options, fills=True, square=len(drawn))
            drawn.append(self._fill(square, part.images, masks, progress))
            return drawn[-1].images

        outpaint.fill(canvas, self.image_px, draw)
        record = {**drawn[-1].settings, "margins": list(margins)}
        return dataclasses.replace(drawn[-1], images=canvas.images, settings=record)

    @property
    def base_px(self) -> int:
        """Side of the base model's pictures."""
        return self.base.config.model.image_px

    @property
    def image_px(self) -> int:
        """Side of the finished pictures."""
        return (self.upsampler or self.base).config.model.image_px

    def stage_for(
        self, model: restore.SampleModel, static: stage.StageSettings
    ) -> stage.Stage:
        """The compiled program of a model, made at its first use."""
        key = (model is self.base, static)
        if key not in self._stages:
            self._stages[key] = stage.make_stage(
                model.config,
                model.fns,
                static,
                None if self.clip is None else self.clip.fns,
            )
        return self._stages[key]

    def _start(self, asked, num_images, options, num_pictures=1, **kind) -> run_lib.Run:
        return run_lib.Run(
            (self.base, self.upsampler, self.clip),
            asked,
            num_images,
            options,
            num_pictures=num_pictures,
            **kind,
        )

    def _large(self, conditions) -> dict[str, Any]:
        """Conditions of the upsampler, if there is one."""
        return {} if self.upsampler is None else conditions(self.image_px)

    def _draw(
        self,
        run: run_lib.Run,
        base_conditions: dict[str, Any],
        upsampler_conditions: dict[str, Any],
        progress: batches.Progress | None,
    ) -> run_lib.Pictures:
        """Base model, choice among candidates, upsampler."""
        rows = np.repeat(np.arange(run.count), run.options.candidates)
        inputs = run.base_inputs(rows, base_conditions)
        clip_params = self.clip.params if inputs.clip_caption is not None else None
        low = self._run_stage(
            run, self.base, run.base_static, inputs, clip_params, progress
        )
        indices = run.indices(len(rows))
        if run.options.candidates > 1:
            self._scorer = self._scorer or rerank.make_scorer(self.clip)
            asked = [run.prompts[row] for row in rows]
            scores = self._scorer(low, asked, run.options.batch_size)
            best = rerank.best_of(scores, run.options.candidates)
            low, indices = low[best], indices[best]
        return self._enlarge(run, low, indices, upsampler_conditions, progress)

    def _enlarge(
        self,
        run: run_lib.Run,
        low: np.ndarray,
        indices: np.ndarray,
        conditions: dict[str, Any],
        progress: batches.Progress | None,
    ) -> run_lib.Pictures:
        """The result, enlarged where there is an upsampler."""
        high = low
        if self.upsampler is not None:
            inputs = run.upsampler_inputs(indices, low, conditions)
            high = self._run_stage(
                run, self.upsampler, run.upsampler_static, inputs, None, progress
            )
        seeds = tuple((run.options.seed, int(index)) for index in indices)
        return run_lib.Pictures(high, low, seeds, run.settings())

    def _run_stage(
        self,
        run: run_lib.Run,
        model: restore.SampleModel,
        static: stage.StageSettings,
        inputs: stage_inputs.StageInputs,
        clip_params: shapes.Params | None,
        progress: batches.Progress | None,
    ) -> np.ndarray:
        program = self.stage_for(model, static)
        return batches.draw_in_batches(
            lambda *batch: program(model.params, clip_params, *batch),
            inputs,
            run.options.batch_size,
            progress,
            self._mesh,
        )
