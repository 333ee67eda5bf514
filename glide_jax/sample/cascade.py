"""The cascade: base model and upsampler for sampling, inpainting, editing, enlarging.

Image i of a run draws all of its noise from fold_in(key(seed), i), so it is the same
picture in any batch. The upsampler sees the base model's picture as 8-bit pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Unpack

import numpy as np
from jax.sharding import Mesh

from glide_jax import array_types
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
    """Models that belong together; compiled programs are kept between calls.

    A prompt is a text, or {text: weight, ...} for several blended in one picture.
    Pictures are PIL images or uint8 arrays, one or several; one picture serves several
    prompts, one prompt several pictures. `**options` of every method are the fields of
    `options.SamplingOptions`.
    """

    def __init__(
        self,
        base: restore.SampleModel | None = None,
        upsampler: restore.SampleModel | None = None,
        clip: restore.SampleModel | None = None,
        *,
        mesh: Mesh | None = None,
    ):
        """As `models.Models`; see `load` for models in bundles."""
        super().__init__(base, upsampler, clip, mesh=mesh)
        self._stages: dict[tuple[bool, stage.StageSettings], stage.Stage] = {}
        self._is_warned = False  # of guidance, once for all calls
        self._scorer: rerank.Scorer | None = None

    def sample(
        self,
        prompts: Prompts,
        *,
        num_images: int = 1,
        progress: batches.Progress | None = None,
        **options: Unpack[sampling_options.SamplingKeywords],
    ) -> request.CascadeOutput:
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
        **options: Unpack[sampling_options.SamplingKeywords],
    ) -> request.CascadeOutput:
        """Each picture with what its mask leaves unknown drawn to fit its prompt.

        Args:
          images: Pictures of any size and shape, which the results have as well. A
              square around what is unknown is drawn, see `region.around_hole`.
          masks: 0 and 1, 1 = known, of the images' size, or, where they are square,
              the base model's. Known pixels come out as they are in `images`, but
              those within the option feather_px of an unknown one.
          prompts: Captions of the finished pictures.
          num_images: As in `sample`.
          progress: As in `sample`.
          **options: As in `sample`.

        Raises:
          UserError: As in `sample`; a model that takes no mask (unless inpaint_mode
              is "implicit" or "masked"); masks of the wrong size; a mask that is 0
              or 1 everywhere; a soft edge as wide as what is known.
        """
        images = image_io.as_pixels(images)
        run = self._start(prompts, num_images, options, len(images), fills=True)
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
        """Squares filled at the models' size."""

        def conditions(px: int) -> dict[str, np.ndarray]:
            return inpaint_conditions.conditions(
                images, masks, px, run.options.feather_px
            )

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
        **options: Unpack[sampling_options.SamplingKeywords],
    ) -> request.CascadeOutput:
        """Each picture changed to fit its prompt, its layout kept (SDEdit, 2108.01073).

        The picture is noised up to a share `strength` of the timesteps and denoised
        again, by both models: 0 gives it back, 1 keeps nothing of it. Above 0 it has
        no more detail than the models' pictures have.

        Args:
          images: Pictures of any size and shape, e.g. sketches, which the results
              have as well: continued to squares by their last pixels, resized to the
              models' size, and back.
          prompts: What each is to show.
          strength: 0 to 1.
          source_prompts: What each shows now. Given, noise is not drawn but found by
              DDIM inversion, which keeps more of a real picture; both models then
              sample by ddim.
          num_images: As in `sample`.
          progress: As in `sample`.
          **options: As in `sample`.

        Raises:
          UserError: As in `sample`; a strength outside its range; inversion with a
              sampler other than ddim.
        """
        sampling_options.check_strength(strength)
        inverts = source_prompts is not None
        if inverts:
            options.setdefault("sampler", "ddim")
            if self.upsampler is not None:
                options.setdefault("upsampler_sampler", "ddim")
        images = image_io.as_pixels(images)
        run = self._start(prompts, num_images, options, len(images), inverts=inverts)
        inpaint_conditions.check_pictures(run.repeat(images), run.count)
        source = {}
        if inverts:
            source = {
                "source_prompts": prompt_tokens.as_sources(source_prompts, run.count)
            }

        size = images.shape[1:3]
        square = region.around_all(*size)
        whole = [region.cut(image, square) for image in images]

        def conditions(px: int) -> dict[str, Any]:
            pictures = run.repeat(image_io.resize(whole, px))
            picture = image_io.from_pixels(pictures)
            return {"init_image": picture, "strength": strength, **source}

        drawn = self._draw(
            run, conditions(self.base_px), self._large(conditions), progress
        )
        if strength:
            edited = [region.cut_back(one, square, size) for one in drawn.images]
        else:  # the picture itself, which may be larger than the models'
            edited = run.repeat(images)
        record = {**drawn.settings, "strength": strength, **source}
        return dataclasses.replace(drawn, images=np.stack(edited), settings=record)

    def upsample(
        self,
        images: Any,
        prompts: Prompts,
        *,
        progress: batches.Progress | None = None,
        **options: Unpack[sampling_options.SamplingKeywords],
    ) -> request.CascadeOutput:
        """Pictures enlarged by the upsampler's factor.

        Args:
          images: Pictures of any size: the base model's, or larger ones, which are
              enlarged in overlapping squares of that size, see `tiles`.
          prompts: What each shows; one serves several.
          progress: Called with 0 and with each square finished.
          **options: As in `sample`.

        Raises:
          UserError: As in `sample`; no upsampler; images that are not uint8.
        """
        if self.upsampler is None:
            raise UserError(
                "upsampling needs an upsampler and none was given; give its bundle"
            )
        images = image_io.as_pixels(images)
        run = self._start(prompts, 1, options, len(images), enlarges=True)
        images = run.repeat(images)
        inpaint_conditions.check_pictures(images, run.count)
        _, height, width, _ = images.shape
        grid = region.Tiles(height, width, self.base_px)
        indices = run.indices(run.count)
        squares = np.concatenate(list(grid.cut(images)))
        high = self._run_stage(
            run,
            self.upsampler,
            run.upsampler_static,
            run.upsampler_inputs(indices, squares, {}),
            None,
            progress,
        )
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
        images = image_io.as_pixels(images)
        run = self._start(prompts, 1, options, len(images), fills=True)
        if run.options.feather_px:
            raise UserError(
                f"feather_px={run.options.feather_px} has no effect where a picture is "
                "continued, as all of it is kept; leave it out"
            )
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

    def stage_for(
        self, model: restore.SampleModel, static: stage.StageSettings
    ) -> stage.Stage:
        """The compiled program of a model, made at its first use."""
        key = (model is self._base, static)
        if key not in self._stages:
            self._stages[key] = stage.make_stage(
                model.config,
                model.fns,
                static,
                None if self.clip is None else self.clip.fns,
            )
        return self._stages[key]

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

    def _large(self, conditions) -> dict[str, Any]:
        """Conditions of the upsampler, if there is one."""
        return {} if self.upsampler is None else conditions(self.image_px)

    def _draw(
        self,
        run: request.SamplingRequest,
        base_conditions: dict[str, Any],
        upsampler_conditions: dict[str, Any],
        progress: batches.Progress | None,
    ) -> request.CascadeOutput:
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
        run: request.SamplingRequest,
        low: np.ndarray,
        indices: np.ndarray,
        conditions: dict[str, Any],
        progress: batches.Progress | None,
    ) -> request.CascadeOutput:
        """The result, enlarged where there is an upsampler."""
        high = low
        if self.upsampler is not None:
            inputs = run.upsampler_inputs(indices, low, conditions)
            high = self._run_stage(
                run, self.upsampler, run.upsampler_static, inputs, None, progress
            )
        return _pictures(run, high, low, indices)

    def _run_stage(
        self,
        run: request.SamplingRequest,
        model: restore.SampleModel,
        static: stage.StageSettings,
        inputs: stage_inputs.StageInputs,
        clip_params: array_types.Params | None,
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


def _pictures(
    run: request.SamplingRequest, high: np.ndarray, low: np.ndarray, indices: np.ndarray
) -> request.CascadeOutput:
    seeds = tuple((run.options.seed, int(index)) for index in indices)
    return request.CascadeOutput(high, low, seeds, run.settings())
