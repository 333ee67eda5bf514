"""From prompts to pictures: base model, then upsampler; also filling in and enlarging.

Image i of a run draws all of its noise from fold_in(key(seed), i), so it is the same
picture in any batch. The upsampler sees the base model's picture as 8-bit pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from glide_jax import errors, shapes
from glide_jax.config import defaults
from glide_jax.sample import batches, compatible, known, restore, settings, stage
from glide_jax.sample import images as images_lib
from glide_jax.text import tokenizers


@dataclasses.dataclass(frozen=True)
class CascadeResult:
    """Pictures in the order of the prompts.

    Attributes:
        base_images: uint8 (N, h, w, 3) from the base model.
        images: uint8 (N, H, W, 3) from the upsampler, or None without one.
        settings: Every choice made, as JSON values, to repeat the run.
    """

    base_images: images_lib.PixelBatch
    images: images_lib.ResizedBatch | None
    settings: dict[str, Any]


class Cascade:
    """Models that belong together; compiled programs are kept between calls.

    Options of every method are the fields of `settings.SampleOptions`.
    """

    def __init__(
        self,
        base: restore.SampleModel,
        upsampler: restore.SampleModel | None = None,
        clip: restore.SampleModel | None = None,
    ):
        """Raises UserError where the models do not belong together."""
        compatible.check_models(base, upsampler, clip)
        self.base, self.upsampler, self.clip = base, upsampler, clip
        self._stages: dict[tuple, stage.Stage] = {}

    @property
    def num_stages(self) -> int:
        """Models that each image passes: a progress total is images times this."""
        return 1 if self.upsampler is None else 2

    def sample(
        self,
        prompts: Sequence[str],
        *,
        progress: batches.Progress | None = None,
        **options,
    ) -> CascadeResult:
        """One picture a prompt.

        Raises:
            UserError: No prompts, or an option that is unknown, out of range or
                asks for a CLIP that is not there.
        """
        run = self._start(prompts, options)
        low = self._draw_base(run, {}, progress)
        return self._finish(run, low, {}, progress)

    def inpaint(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        prompts: Sequence[str],
        *,
        progress: batches.Progress | None = None,
        **options,
    ) -> CascadeResult:
        """Each picture with what its mask leaves unknown drawn to fit its prompt.

        Args:
            images: uint8 (N, H, W, 3), square; resized to both resolutions.
            masks: (N, h, w) of 0 and 1, 1 = known, at the base model's resolution or
                the images' own. Known pixels come out as they are in `images`, to the
                pixel where images and masks have the size of the result.
            prompts: N captions of the finished pictures.
            progress: As in `sample`.
            **options: As in `sample`.

        Raises:
            UserError: As in `sample`; a model that takes no mask; images or masks of
                the wrong size.
        """
        run = self._start(prompts, options, inpaint=True)
        base_px = self.base.config.model.image_px
        masks = known.checked_masks(images, masks, len(prompts), base_px)
        low = self._draw_base(run, known.conditions(images, masks, base_px), progress)
        conditions = {}
        if self.upsampler is not None:
            image_px = self.upsampler.config.model.image_px
            conditions = known.conditions(images, masks, image_px)
        return self._finish(run, low, conditions, progress)

    def upsample(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        *,
        progress: batches.Progress | None = None,
        **options,
    ) -> CascadeResult:
        """Each small picture (uint8, the base model's size) enlarged.

        Raises:
            UserError: As in `sample`; no upsampler; images of another size.
        """
        run = self._start(prompts, options)
        if self.upsampler is None:
            raise errors.UserError(
                "upsampling needs an upsampler and none was given; give its bundle"
            )
        side = self.upsampler.config.model.low_res_px
        if images.shape != (len(prompts), side, side, 3):
            raise errors.UserError(
                f"images have shape {images.shape}; {len(prompts)} prompts and this "
                f"upsampler need ({len(prompts)}, {side}, {side}, 3)"
            )
        return self._finish(run, images, {}, progress)

    def _start(
        self, prompts: Sequence[str], options: dict[str, Any], *, inpaint: bool = False
    ) -> _Run:
        """Everything that can be refused is refused here, before any drawing."""
        if isinstance(prompts, str) or not prompts:
            raise errors.UserError("no prompts given; give a list of at least one")
        chosen = settings.make_options(options)
        base = chosen.base(self.base.config.sample)
        base_stage = self._stage(self.base, base, chosen.guidance_mode, inpaint)
        upsampler = upsampler_stage = None
        if self.upsampler is not None:
            upsampler = chosen.upsampler(self.upsampler.config.sample)
            upsampler_stage = self._stage(self.upsampler, upsampler, "none", inpaint)
        return _Run(list(prompts), chosen, base, base_stage, upsampler, upsampler_stage)

    def _stage(
        self,
        model: restore.SampleModel,
        config: defaults.SampleConfig,
        guidance_mode: str,
        inpaint: bool,
    ) -> stage.Stage:
        is_base = model is self.base
        static = (
            is_base,
            guidance_mode,
            config.sampler,
            config.respacing,
            config.match_low_res,
            inpaint,
        )
        if static not in self._stages:
            self._stages[static] = stage.make_stage(
                model.config,
                model.fns,
                guidance_mode=guidance_mode,
                sampler=config.sampler,
                respacing=config.respacing,
                clip_fns=None if self.clip is None else self.clip.fns,
                inpaint=inpaint,
                match_low_res=config.match_low_res,
            )
        return self._stages[static]

    def _draw_base(
        self,
        run: _Run,
        conditions: dict[str, np.ndarray],
        progress: batches.Progress | None,
    ) -> images_lib.PixelBatch:
        mode, count = run.options.guidance_mode, len(run.prompts)
        empty = clip_caption = clip_params = None
        if "cfg" in mode:
            context = self.base.config.model.text_context
            empty = stage.Caption(
                *tokenizers.empty_batch(self.base.tokenizer, count, context)
            )
        if "clip" in mode:
            clip_caption = _encode(self.clip, run.prompts)
            clip_params = self.clip.params
        inputs = stage.StageInputs(
            keys=run.keys(batches.BASE_STREAM),
            caption=_encode(self.base, run.prompts),
            empty=empty,
            clip_caption=clip_caption,
            guidance_scale=run.base.guidance_scale,
            clip_guidance_scale=run.base.clip_guidance_scale,
            eta=run.base.eta,
            noise_temperature=run.base.noise_temperature,
            **conditions,
        )
        draw = _bind(run.base_stage, self.base.params, clip_params)
        return batches.draw_in_batches(draw, inputs, run.options.batch_size, progress)

    def _finish(
        self,
        run: _Run,
        low: images_lib.PixelBatch,
        conditions: dict[str, np.ndarray],
        progress: batches.Progress | None,
    ) -> CascadeResult:
        """The result with its large pictures, where there is an upsampler."""
        if self.upsampler is None:
            return CascadeResult(low, None, run.settings())
        inputs = stage.StageInputs(
            keys=run.keys(batches.UPSAMPLER_STREAM),
            caption=_encode(self.upsampler, run.prompts),
            eta=run.upsampler.eta,
            noise_temperature=run.upsampler.noise_temperature,
            # By way of 8-bit pixels: a picture read back from its PNG file is
            # enlarged to the same result.
            low_res=images_lib.from_pixels(low),
            **conditions,
        )
        draw = _bind(run.upsampler_stage, self.upsampler.params, None)
        high = batches.draw_in_batches(draw, inputs, run.options.batch_size, progress)
        return CascadeResult(low, high, run.settings())


@dataclasses.dataclass(frozen=True)
class _Run:
    """One call, resolved and checked."""

    prompts: list[str]
    options: settings.SampleOptions
    base: defaults.SampleConfig
    base_stage: stage.Stage
    upsampler: defaults.SampleConfig | None
    upsampler_stage: stage.Stage | None

    def keys(self, stream: int) -> shapes.PRNGKeys:
        """One key per image."""
        options = self.options
        return batches.image_keys(
            options.seed, options.first_index, len(self.prompts), stream
        )

    def settings(self) -> dict[str, Any]:
        """Options as given, and what they came to for each model."""
        return {
            **dataclasses.asdict(self.options),
            "base": dataclasses.asdict(self.base),
            "upsampler": self.upsampler and dataclasses.asdict(self.upsampler),
        }


def _encode(model: restore.SampleModel, prompts: Sequence[str]) -> stage.Caption:
    context = model.config.model.text_context
    return stage.Caption(*model.tokenizer.encode_batch(prompts, context))


def _bind(
    draw: stage.Stage, params: shapes.Params, clip_params: shapes.Params | None
) -> Callable[[stage.StageInputs], jax.Array]:
    return lambda inputs: draw(params, clip_params, inputs)
