"""The cascade: base model and upsampler for sampling, inpainting, editing, enlarging.

All noise of image i is drawn from fold_in(key(seed), i), so it is the same picture in
any batch. The upsampler reads the base model's picture as 8-bit pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Unpack

import numpy as np
from jax.sharding import Mesh

from glide_jax.errors import UserError
from glide_jax.sample import (
    batches,
    image_io,
    inpaint_conditions,
    models,
    outpaint,
    prompt_tokens,
    region,
    request,
    rerank,
    restore,
    stage,
    stage_inputs,
)
from glide_jax.sample import options as sampling_options

Prompts = prompt_tokens.Prompt | Iterable[prompt_tokens.Prompt]


class Glide(models.Models):
    """A cascade of models; compiled programs are kept between calls.

    In every method, a prompt is a text, or {text: weight, ...} for several blended in
    one picture. Pictures are PIL images or uint8 arrays, one or several; one picture
    serves several prompts, one prompt several pictures. `num_images` is the number of
    pictures of each prompt, `progress` a `batches.Progress`, and `**options` are the
    fields of `options.SamplingOptions`. `seeds` are (seed, index) of each picture, in
    place of the options seed and first_index, for pictures of several seeds.
    """

    def __init__(
        self,
        base: restore.SampleModel | None = None,
        upsampler: restore.SampleModel | None = None,
        clip: restore.SampleModel | None = None,
        *,
        mesh: Mesh | None = None,
    ):
        """See `models.Models`; `load` reads the models from bundles."""
        super().__init__(base, upsampler, clip, mesh=mesh)
        self._stages: dict[tuple[bool, stage.StageSettings], stage.Stage] = {}
        self._is_warned = False  # about guidance, once for all calls
        self._scorer: rerank.Scorer | None = None

    def sample(
        self,
        prompts: Prompts,
        *,
        num_images: int = 1,
        seeds: request.Seeds | None = None,
        progress: batches.Progress | None = None,
        **options: Unpack[sampling_options.SamplingKeywords],
    ) -> request.CascadeOutput:
        """Draws pictures of prompts.

        Raises:
          UserError: no prompts, an option that is unknown or out of range, or one that
            needs a CLIP without a CLIP.
        """
        run = self._start(prompts, num_images, options, seeds=seeds)
        return self._draw(run, lambda px: {}, progress)

    def inpaint(
        self,
        images: Any,
        masks: Any,
        prompts: Prompts,
        *,
        num_images: int = 1,
        seeds: request.Seeds | None = None,
        progress: batches.Progress | None = None,
        **options: Unpack[sampling_options.SamplingKeywords],
    ) -> request.CascadeOutput:
        """Draws the unknown part of each picture to fit its prompt.

        Args:
          images: pictures of any size, which the results have as well. The models draw
            a square around the unknown part, see `region.around_hole`.
          masks: 0 and 1, 1 = known, of the images' size, or, if they are square, the
            base model's. Known pixels are unchanged, except those within the option
            feather_px of an unknown one.
          prompts: captions of the finished pictures.
          num_images: see the class.
          seeds: see the class.
          progress: see the class.
          **options: see the class.

        Raises:
          UserError: as `sample`; a model that takes no mask (unless inpaint_mode is
            "implicit" or "masked"), masks of another size, a mask that is 0 or 1
            everywhere, or a soft edge as wide as the known part.
        """
        images = image_io.as_pixels(images)
        run = self._start(
            prompts, num_images, options, len(images), seeds=seeds, fills=True
        )
        images = run.repeat(images)
        inpaint_conditions.check_pictures(images, run.count)
        size, feather_px = images.shape[1:3], run.options.feather_px
        masks = inpaint_conditions.checked_masks(
            image_io.as_masks(masks), size, self.base_px, feather_px
        )
        holes = inpaint_conditions.Holes(
            images, run.repeat(masks), self.image_px, feather_px
        )
        drawn = self._fill(run, holes.images, holes.masks, progress)
        return dataclasses.replace(
            drawn,
            images=holes.paste(drawn.images),
            settings={**drawn.settings, "squares": holes.record()},
        )

    def _fill(
        self,
        run: request.SamplingRequest,
        images: Sequence[np.ndarray] | np.ndarray,
        masks: Sequence[np.ndarray] | np.ndarray,
        progress: batches.Progress | None,
    ) -> request.CascadeOutput:
        """Fills squares at the models' size."""

        def conditions(px: int) -> dict[str, np.ndarray]:
            return inpaint_conditions.conditions(
                images, masks, px, run.options.feather_px
            )

        return self._draw(run, conditions, progress)

    def edit(
        self,
        images: Any,
        prompts: Prompts,
        *,
        strength: float | int = 0.6,
        source_prompts: Prompts | None = None,
        num_images: int = 1,
        seeds: request.Seeds | None = None,
        progress: batches.Progress | None = None,
        **options: Unpack[sampling_options.SamplingKeywords],
    ) -> request.CascadeOutput:
        """Changes each picture to fit its prompt and keeps its layout (2108.01073).

        Both models noise the picture up to a share `strength` of the timesteps and
        denoise it again. Above 0 the result has the models' resolution.

        Args:
          images: pictures of any size, which the results have as well. They are padded
            to squares with their border pixels and resized to the models' size.
          prompts: captions of the results.
          strength: 0, which returns the picture, to 1, which keeps nothing of it.
          source_prompts: captions of the pictures. If given, the noise is computed by
            DDIM inversion, which keeps more of a real picture, and both models sample
            by ddim.
          num_images: see the class.
          seeds: see the class.
          progress: see the class.
          **options: see the class.

        Raises:
          UserError: as `sample`; a strength out of range, or inversion with a sampler
            other than ddim.
        """
        sampling_options.check_strength(strength)
        source: dict[str, Any] = {}
        if source_prompts is not None:
            options.setdefault("sampler", "ddim")
            if self.upsampler is not None:
                options.setdefault("upsampler_sampler", "ddim")
        images = image_io.as_pixels(images)
        run = self._start(
            prompts,
            num_images,
            options,
            len(images),
            seeds=seeds,
            inverts=source_prompts is not None,
        )
        inpaint_conditions.check_pictures(run.repeat(images), run.count)
        if source_prompts is not None:
            found = prompt_tokens.as_sources(source_prompts, run.count)
            source["source_prompts"] = found
        return self._edit(run, images, strength, source, progress)

    def _edit(
        self,
        run: request.SamplingRequest,
        images: np.ndarray,
        strength: float | int,
        source: dict[str, Any],
        progress: batches.Progress | None,
    ) -> request.CascadeOutput:
        """Edits pictures as squares at the models' size."""
        steps = run.edited_steps(strength)
        size = images.shape[1], images.shape[2]
        square = region.around_all(*size)
        whole = [region.cut(image, square) for image in images]

        def conditions(px: int) -> dict[str, Any]:
            pictures = run.repeat(image_io.resize(whole, px))
            picture = image_io.from_pixels(pictures)
            return {"init_image": picture, "strength": strength, **source}

        drawn = self._draw(run, conditions, progress)
        if strength:
            parts = [region.cut_back(one, square, size) for one in drawn.images]
            edited = np.stack(parts)
        else:  # the picture itself, which may be larger than the models'
            edited = np.array(run.repeat(images))
        record = {**drawn.settings, "strength": strength, "steps": steps, **source}
        return dataclasses.replace(drawn, images=edited, settings=record)

    def upsample(
        self,
        images: Any,
        prompts: Prompts,
        *,
        progress: batches.Progress | None = None,
        **options: Unpack[sampling_options.SamplingKeywords],
    ) -> request.CascadeOutput:
        """Enlarges pictures by the upsampler's factor.

        Args:
          images: pictures of any size. Those larger than the base model's are enlarged
            in overlapping squares of that size, see `region.Tiles`.
          prompts: captions of the pictures; one serves all.
          progress: see the class; a square counts as a picture.
          **options: see the class.

        Raises:
          UserError: as `sample`; no upsampler, or images that are not uint8.
        """
        images = image_io.as_pixels(images)
        if self.upsampler is None:
            raise UserError(
                "upsampling needs an upsampler and none was given; give its bundle"
            )
        run = self._start(prompts, 1, options, len(images), enlarges=True)
        images = run.repeat(images)
        inpaint_conditions.check_pictures(images, run.count)
        _, height, width, _ = images.shape
        grid = region.Tiles(height, width, self.base_px)
        indices = run.indices(run.count)
        squares = np.concatenate(list(grid.cut(images)))
        assert run.upsampler is not None
        inputs = run.upsampler_inputs(indices, squares, {})
        high = self._run_stage(run, run.upsampler, inputs, progress)
        joined = [grid.join(high[i :: run.count]) for i in range(run.count)]
        return _pictures(run, np.stack(joined), images, indices)

    def outpaint(
        self,
        images: Any,
        prompts: Prompts,
        margins: Sequence[float | int],
        *,
        progress: batches.Progress | None = None,
        **options: Unpack[sampling_options.SamplingKeywords],
    ) -> request.CascadeOutput:
        """Continues pictures beyond their sides, square by square, as `inpaint` does.

        Args:
          images: pictures of any size; their pixels are unchanged.
          prompts: captions of the finished pictures.
          margins: pixels to add at the left, top, right and bottom.
          progress: see the class; called for every square.
          **options: see the class.

        Returns:
          Pictures of the extended size; base_images are those of the last square.

        Raises:
          UserError: as `inpaint`; a result smaller than the models' picture.
        """
        images = image_io.as_pixels(images)
        run = self._start(prompts, 1, options, len(images), fills=True)
        if run.options.feather_px:
            raise UserError(
                f"feather_px={run.options.feather_px} has no effect on a picture that "
                "is continued, which is kept to the pixel; leave it out"
            )
        images = run.repeat(images)
        inpaint_conditions.check_pictures(images, run.count)
        canvas = outpaint.make_canvas(images, outpaint.as_margins(margins))
        drawn = []

        def draw(part: outpaint.Canvas) -> np.ndarray:
            masks = np.broadcast_to(part.known, (run.count, *part.known.shape))
            square = self._start(run.prompts, 1, options, fills=True, square=len(drawn))
            drawn.append(self._fill(square, part.images, masks, progress))
            return drawn[-1].images

        outpaint.fill(canvas, self.image_px, draw)
        record = {**drawn[-1].settings, "margins": list(margins)}
        return dataclasses.replace(drawn[-1], images=canvas.images, settings=record)

    def _start(
        self, asked, num_images, options, num_pictures=1, *, enlarges=False, **kind
    ) -> request.SamplingRequest:
        run = request.SamplingRequest(
            (self._base if enlarges else self.base, self.upsampler, self.clip),
            asked,
            num_images,
            options,
            num_pictures=num_pictures,
            **kind,
        )
        if not enlarges and not self._is_warned:
            self._is_warned = True
            run.warn_of_guidance()
        return run

    def _draw(
        self,
        run: request.SamplingRequest,
        conditions: Callable[[int], dict[str, Any]],
        progress: batches.Progress | None,
    ) -> request.CascadeOutput:
        """Runs the base model, the choice among candidates, and the upsampler.

        `conditions` returns the conditions of a stage from the side of its pictures.
        """
        rows = np.repeat(np.arange(run.count), run.options.candidates)
        inputs = run.base_inputs(rows, conditions(self.base_px))
        low = self._run_stage(run, run.base, inputs, progress)
        indices = run.indices(len(rows))
        if run.options.candidates > 1 and self.clip is not None:
            self._scorer = self._scorer or rerank.make_scorer(self.clip)
            asked = [run.prompts[row] for row in rows]
            scores = self._scorer(low, asked, run.options.batch_size)
            best = rerank.best_of(scores, run.options.candidates)
            low, indices = low[best], indices[best]
        high = low
        if run.upsampler is not None:
            large = conditions(self.image_px)
            inputs = run.upsampler_inputs(indices, low, large)
            high = self._run_stage(run, run.upsampler, inputs, progress)
        return _pictures(run, high, low, indices)

    def _run_stage(
        self,
        run: request.SamplingRequest,
        asked: request.StageRequest,
        inputs: stage_inputs.StageInputs,
        progress: batches.Progress | None,
    ) -> np.ndarray:
        """Draws the pictures of one stage; its program is made on the first use."""
        model, _, static = asked
        clip_params = None
        if self.clip is not None and inputs.clip_caption is not None:
            clip_params = self.clip.params
        key = (model is self._base, static)
        if key not in self._stages:
            clip_fns = None if self.clip is None else self.clip.clip
            self._stages[key] = stage.make_stage(
                model.config, model.denoiser, static, clip_fns
            )
        program = self._stages[key]
        on_step = None
        if isinstance(progress, batches.StepProgress):
            name = "base" if model is self._base else "upsampler"
            on_step = batches.as_on_step(progress, name)
        return batches.draw_in_batches(
            lambda *batch: program(model.params, clip_params, *batch, on_step=on_step),
            inputs,
            run.options.batch_size,
            progress,
            self._mesh,
        )


def _pictures(
    run: request.SamplingRequest, high: np.ndarray, low: np.ndarray, indices: np.ndarray
) -> request.CascadeOutput:
    seeds = tuple(zip(run.seeds.tolist(), indices.tolist(), strict=True))
    return request.CascadeOutput(high, low, seeds, run.settings())
