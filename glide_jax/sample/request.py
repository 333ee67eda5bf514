"""One call of a cascade, checked before anything is drawn, and its result."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.runtime import random_streams
from glide_jax.sample import (
    image_io,
    prompt_tokens,
    restore,
    stage,
    stage_inputs,
)
from glide_jax.sample import options as sampling_options


@dataclasses.dataclass(frozen=True)
class CascadeOutput:
    """Pictures in the order of the prompts.

    Attributes:
      images: uint8 (N, H, W, 3), the upsampler's, or without one the base model's.
      base_images: uint8 (N, h, w, 3) from the base model.
      seeds: (seed, index) of each picture; with first_index=index and candidates=1
          it is drawn alone.
      settings: Every choice made, as JSON values, to repeat the run.
    """

    images: np.ndarray
    base_images: np.ndarray
    seeds: tuple[tuple[int, int], ...]
    settings: dict[str, Any]


class SamplingRequest:
    """Prompts, options and the resulting settings of each model.

    Attributes:
      prompts: One for each picture.
      options: As given.
      base, upsampler: The stages' settings.
    """

    def __init__(
        self,
        models: Sequence[restore.SampleModel | None],
        asked: prompt_tokens.Prompt | Iterable[prompt_tokens.Prompt],
        num_images: int,
        options: sampling_options.SamplingKeywords,
        *,
        num_pictures: int = 1,
        fills: bool = False,
        inverts: bool = False,
        square: int = 0,
    ):
        """Raises UserError for what `Glide`'s methods refuse.

        Args:
          models: Base (None only where pictures are enlarged), upsampler or None,
              CLIP or None.
          asked: The prompts.
          num_images: Pictures of each prompt.
          options: Fields of SamplingOptions.
          num_pictures: Given to fill or edit; one prompt serves several.
          fills: Whether known pixels are kept.
          inverts: Whether pictures are inverted.
          square: Number of the part of one picture, each with noise of its own.
        """
        self._base, self._upsampler, self._clip = models
        self.prompts = prompt_tokens.as_prompts(asked, 1)
        if len(self.prompts) == 1:
            self.prompts *= num_pictures
        self.prompts = prompt_tokens.as_prompts(self.prompts, num_images)
        self._num_images, self._square = num_images, square
        self.options = sampling_options.make_options(options)
        sampling_options.check_indices(self.options, self.count)
        if self.options.candidates > 1 and self._clip is None:
            raise UserError(
                f"candidates={self.options.candidates} are compared by a noised CLIP "
                "and none was given; give one with --clip, or candidates=1"
            )
        self.base = self.base_static = None
        if self._base is not None:
            self.base = self.options.base(self._base.config.sample)
            self.base_static = self._static(self._base, self.base, fills, inverts)
        self.upsampler = self.upsampler_static = None
        if self._upsampler is None:
            self._refuse_upsampling()
        else:
            self.upsampler = self.options.upsampler(self._upsampler.config.sample)
            self.upsampler_static = self._static(
                self._upsampler, self.upsampler, fills, inverts
            )

    def warn_of_guidance(self) -> None:
        """Logs that the base model has not learned what the empty caption means."""
        scale = self.base.guidance_scale if "cfg" in self.options.guidance_mode else 1
        if scale != 1 and not self._base.config.train.caption_drop_prob:
            logging.warning(
                "%s was trained without empty captions (train.caption_drop_prob=0), so "
                "classifier-free guidance (guidance_scale=%g) may mislead it; use "
                "guidance_scale=1 or a model of the base_cfg phase",
                *(self._base.folder, scale),
            )

    @property
    def count(self) -> int:
        """Pictures that come out."""
        return len(self.prompts)

    def indices(self, count: int) -> np.ndarray:
        """Indices of the first `count` images drawn."""
        return self.options.first_index + np.arange(count)

    def repeat(self, arrays: np.ndarray) -> np.ndarray:
        """One picture for every prompt, or each of several as often as asked for.

        What it returns is not to be written to.
        """
        if len(arrays) == 1:
            return np.broadcast_to(arrays, (self.count, *arrays.shape[1:]))
        return np.repeat(arrays, self._num_images, axis=0)

    def base_inputs(
        self, rows: np.ndarray, conditions: dict[str, Any]
    ) -> stage_inputs.StageInputs:
        """Of the base model; image i shows prompt rows[i] under its conditions."""
        mode, asked = self.options.guidance_mode, [self.prompts[row] for row in rows]
        empty = clip_caption = None
        if "cfg" in mode:
            empty = prompt_tokens.encode_empty(self._base, self.options.negative_prompt)
        if "clip" in mode:
            clip_caption = prompt_tokens.encode(self._clip, asked)
        return stage_inputs.StageInputs(
            keys=self._keys(self.indices(len(rows)), random_streams.BASE_STAGE),
            caption=prompt_tokens.encode(self._base, asked),
            weights=prompt_tokens.weights(asked),
            empty=empty,
            clip_caption=clip_caption,
            **self.options.traced("base", self.base),
            **self._of_rows(self._base, conditions, rows),
        )

    def upsampler_inputs(
        self, indices: np.ndarray, low: np.ndarray, conditions: dict[str, Any]
    ) -> stage_inputs.StageInputs:
        """Of the upsampler, for small pictures (N, h, w, 3) with these indices (N,).

        Or for squares (K * N, h, w, 3) of pictures: the first of all N, the second of
        all N and so on, each with noise of its own.
        """
        squares, rows = np.divmod(np.arange(len(low)), self.count)
        asked = [self.prompts[row] for row in rows]
        return stage_inputs.StageInputs(
            keys=self._keys(indices[rows], random_streams.UPSAMPLER_STAGE, squares),
            caption=prompt_tokens.encode(self._upsampler, asked),
            weights=prompt_tokens.weights(asked),
            **self.options.traced("upsampler", self.upsampler),
            # By way of 8-bit pixels: a picture read back from its PNG file is
            # enlarged to the same result.
            low_res=image_io.from_pixels(low),
            **self._of_rows(self._upsampler, conditions, rows),
        )

    def settings(self) -> dict[str, Any]:
        """Options as given, and what they came to for each model, as JSON values."""
        found = {
            **dataclasses.asdict(self.options),
            "base": self.base and dataclasses.asdict(self.base),
            "upsampler": self.upsampler and dataclasses.asdict(self.upsampler),
        }
        # Numbers may have come as numpy's.
        return json.loads(json.dumps(found, default=float))

    def _refuse_upsampling(self) -> None:
        """Raises UserError for an option that only an upsampler could follow."""
        for name in sampling_options.names("upsampler"):
            if getattr(self.options, name) is not None:
                raise UserError(
                    f"{name}={getattr(self.options, name)!r} is for an upsampler and "
                    "none was given; give its bundle, or leave the option out"
                )

    def _of_rows(
        self,
        model: restore.SampleModel,
        conditions: dict[str, Any],
        rows: np.ndarray,
    ) -> dict[str, Any]:
        """Conditions as a stage takes them: source prompts encoded, rows picked."""
        found = {}
        for name, value in conditions.items():
            if name == "source_prompts":
                asked = [value[row] for row in rows]
                found["source_caption"] = prompt_tokens.encode(model, asked)
                found["source_weights"] = prompt_tokens.weights(asked)
            else:
                found[name] = value if name in stage_inputs.SHARED else value[rows]
        return found

    def _static(
        self,
        model: restore.SampleModel,
        config: defaults.SampleConfig,
        fills: bool,
        inverts: bool,
    ) -> stage.StageSettings:
        is_base = model is self._base
        static = stage.StageSettings.of(
            config,
            self.options.guidance_mode if is_base else "none",
            inpaint_mode=self.options.inpaint_mode if fills else None,
            is_thresholded=is_base and self.options.threshold_quantile is not None,
            inverts=inverts,
        )
        stage.check(model.config, static, has_clip=self._clip is not None)
        return static

    def _keys(self, indices: np.ndarray, stream: int, squares: np.ndarray | int = 0):
        streams = stream + random_streams.NUM_STAGES * (self._square + squares)
        return random_streams.image_keys(self.options.seed, indices, streams)
