"""One call of a cascade, checked before anything is drawn, and its result."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from glide_jax import array_types
from glide_jax.config import defaults
from glide_jax.diffusion import respacing
from glide_jax.errors import UserError
from glide_jax.runtime import random_streams
from glide_jax.sample import (
    image_io,
    prompt_tokens,
    restore,
    stage,
    stage_inputs,
    student_checks,
)
from glide_jax.sample import options as sampling_options

# (seed, index) of each picture
Seeds = Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class CascadeOutput:
    """Pictures in the order of the prompts.

    Attributes:
      images: uint8 (N, H, W, 3), the upsampler's, or without one the base model's.
      base_images: uint8 (N, h, w, 3), the base model's.
      seeds: (seed, index) of each picture. seed, first_index=index and candidates=1
        draw that picture alone.
      settings: every setting of the call, as JSON values.
    """

    images: np.ndarray
    base_images: np.ndarray
    seeds: tuple[tuple[int, int], ...]
    settings: dict[str, Any]


class StageRequest(NamedTuple):
    """A model, its sampling settings, and those that its program is compiled for."""

    model: restore.SampleModel
    sample: defaults.SampleConfig
    static: stage.StageSettings


class SamplingRequest:
    """Prompts, options and the resulting settings of each model.

    Attributes:
      prompts: one for each picture.
      options: as given.
      upsampler: its stage, or None.
    """

    def __init__(
        self,
        models: Sequence[restore.SampleModel | None],
        asked: prompt_tokens.Prompt | Iterable[prompt_tokens.Prompt],
        num_images: int,
        options: sampling_options.SamplingKeywords,
        *,
        num_pictures: int = 1,
        seeds: Seeds | None = None,
        fills: bool = False,
        inverts: bool = False,
        square: int = 0,
    ):
        """Checks prompts and options.

        Args:
          models: base (None: pictures are only enlarged), upsampler or None, CLIP or
            None.
          asked: the prompts.
          num_images: number of pictures of each prompt.
          options: fields of SamplingOptions.
          num_pictures: number of pictures to fill or edit; one prompt serves all.
          seeds: (seed, index) of each picture, see `cascade.Glide`.
          fills: whether known pixels are kept.
          inverts: whether pictures are inverted.
          square: number of the square of a picture; each has its own noise.

        Raises:
          UserError: see the methods of `cascade.Glide`.
        """
        base, upsampler, self._clip = models
        self.prompts = prompt_tokens.as_prompts(asked, 1)
        if len(self.prompts) == 1:
            self.prompts *= num_pictures
        self.prompts = prompt_tokens.as_prompts(self.prompts, num_images)
        self._num_images, self._square = num_images, square
        self.options = sampling_options.make_options(options)
        sampling_options.check_indices(self.options, self.count)
        self._given = None if seeds is None else self._checked_seeds(seeds, options)
        if self.options.candidates > 1 and self._clip is None:
            raise UserError(
                f"candidates={self.options.candidates} are compared by a noised CLIP "
                "and none was given; give one with --clip, or candidates=1"
            )
        self._base = self.upsampler = None
        fixed: dict[str, Any] = {
            "inpaint_mode": self.options.inpaint_mode if fills else None,
            "inverts": inverts,
        }
        if base is not None:
            sample = self.options.resolve("base", base.config.sample)
            student_checks.check_options(
                base.config,
                sample,
                guidance_mode=self.options.guidance_mode,
                negative_prompt=self.options.negative_prompt,
                guidance_rescale=self.options.guidance_rescale,
                is_blended=prompt_tokens.weights(self.prompts).shape[1] > 1,
            )
            is_thresholded = self.options.threshold_quantile is not None
            mode = self.options.guidance_mode
            static = stage.StageSettings.of(
                sample, mode, is_thresholded=is_thresholded, **fixed
            )
            self._base = self._checked(base, sample, static)
        if upsampler is None:
            self._refuse_upsampling()
        else:
            sample = self.options.resolve("upsampler", upsampler.config.sample)
            student_checks.check_options(upsampler.config, sample, guidance_mode="none")
            static = stage.StageSettings.of(sample, "none", **fixed)
            self.upsampler = self._checked(upsampler, sample, static)

    def warn_of_guidance(self) -> None:
        """Logs a warning if the base model was trained without empty captions."""
        model, sample, _ = self.base
        scale = sample.guidance_scale if "cfg" in self.options.guidance_mode else 1
        if scale != 1 and not model.config.train.caption_drop_prob:
            logging.warning(
                "%s was trained without empty captions (train.caption_drop_prob=0), so "
                "classifier-free guidance (guidance_scale=%g) may mislead it; use "
                "guidance_scale=1 or a model of the base_cfg phase",
                *(model.folder, scale),
            )

    @property
    def base(self) -> StageRequest:
        """The stage of the base model, which must have been given."""
        assert self._base is not None
        return self._base

    @property
    def count(self) -> int:
        """The number of pictures that are returned."""
        return len(self.prompts)

    @property
    def seeds(self) -> np.ndarray:
        """The seed of each picture, (count,)."""
        if self._given is None:
            return np.full(self.count, self.options.seed)
        return self._given[:, 0]

    def indices(self, count: int) -> np.ndarray:
        """Returns the indices of the first `count` images drawn."""
        if self._given is None:
            return self.options.first_index + np.arange(count)
        candidates = np.arange(count // self.count)
        return (self._given[:, 1:] + candidates).reshape(-1)

    def repeat(self, arrays: np.ndarray) -> np.ndarray:
        """Returns one picture for every prompt, or each of several `num_images` times.

        The result may be a read-only view.
        """
        if len(arrays) == 1:
            return np.broadcast_to(arrays, (self.count, *arrays.shape[1:]))
        return np.repeat(arrays, self._num_images, axis=0)

    def base_inputs(
        self, rows: np.ndarray, conditions: dict[str, Any]
    ) -> stage_inputs.StageInputs:
        """Returns the inputs of the base model; image i has prompt rows[i]."""
        model, sample, _ = self.base
        mode, asked = self.options.guidance_mode, [self.prompts[row] for row in rows]
        empty = clip_caption = None
        if "cfg" in mode:
            empty = prompt_tokens.encode_empty(model, self.options.negative_prompt)
        if "clip" in mode and self._clip is not None:
            clip_caption = prompt_tokens.encode(self._clip, asked)
        return stage_inputs.StageInputs(
            keys=self._keys(rows, self.indices(len(rows)), random_streams.BASE_STAGE),
            caption=prompt_tokens.encode(model, asked),
            weights=prompt_tokens.weights(asked),
            empty=empty,
            clip_caption=clip_caption,
            **self.options.traced("base", sample),
            **_of_rows(model, conditions, rows),
        )

    def upsampler_inputs(
        self, indices: np.ndarray, low: np.ndarray, conditions: dict[str, Any]
    ) -> stage_inputs.StageInputs:
        """Returns the upsampler's inputs for pictures or squares of them.

        Args:
          indices: (N,), of the pictures.
          low: uint8 (N, h, w, 3), or (K * N, h, w, 3): the first square of all N
            pictures, then the second of all, and so on. Each has its own noise.
          conditions: see `base_inputs`.
        """
        assert self.upsampler is not None
        model, sample, _ = self.upsampler
        squares, rows = np.divmod(np.arange(len(low)), self.count)
        asked = [self.prompts[row] for row in rows]
        return stage_inputs.StageInputs(
            keys=self._keys(
                rows, indices[rows], random_streams.UPSAMPLER_STAGE, squares
            ),
            caption=prompt_tokens.encode(model, asked),
            weights=prompt_tokens.weights(asked),
            **self.options.traced("upsampler", sample),
            # From 8-bit pixels, so that a picture that was saved as PNG gives the same.
            low_res=image_io.from_pixels(low),
            **_of_rows(model, conditions, rows),
        )

    def settings(self) -> dict[str, Any]:
        """Returns the options and the settings of each model, as JSON values."""
        stages = {"base": self._base, "upsampler": self.upsampler}
        found = dataclasses.asdict(self.options)
        for name, one in stages.items():
            found[name] = None if one is None else dataclasses.asdict(one.sample)
        if self._given is not None:  # see CascadeOutput.seeds
            found["seed"] = found["first_index"] = None
        # Numbers may be numpy's.
        return json.loads(json.dumps(found, default=float))

    def edited_steps(self, strength: float | int) -> dict[str, list[int]]:
        """Returns the steps that an edit makes and those of a whole picture, by model.

        A student of four steps makes none of them below a strength of 0.25, one below
        0.5, and so on; all four at 1.

        Raises:
          UserError: the strength is above 0 and a model makes no step.
        """
        found = {}
        for name, one in (("base", self._base), ("upsampler", self.upsampler)):
            if one is not None:
                chain = one.model.config.diffusion
                kept = respacing.kept_timesteps(
                    chain.num_timesteps, one.static.respacing, chain.schedule
                )
                first = np.float32(strength) * chain.num_timesteps
                found[name] = [int(np.sum(kept < first)), len(kept)]
                if strength and not found[name][0]:
                    # Nor does an upsampler keep the edit of the base model then.
                    raise UserError(
                        f"strength={strength:g} makes none of the {len(kept)} steps of "
                        f"{one.model.config.name!r}; give at least "
                        f"{(kept[0] + 1) / chain.num_timesteps:g}"
                    )
        return found

    def _refuse_upsampling(self) -> None:
        """Raises UserError for an option of the upsampler."""
        for name in sampling_options.names("upsampler"):
            if getattr(self.options, name) is not None:
                raise UserError(
                    f"{name}={getattr(self.options, name)!r} is for an upsampler and "
                    "none was given; give its bundle, or leave the option out"
                )

    def _checked(
        self,
        model: restore.SampleModel,
        sample: defaults.SampleConfig,
        static: stage.StageSettings,
    ) -> StageRequest:
        stage.check(model.config, static, has_clip=self._clip is not None)
        return StageRequest(model, sample, static)

    def _checked_seeds(
        self, seeds: Seeds, options: sampling_options.SamplingKeywords
    ) -> np.ndarray:
        """Returns (seed, index) of each picture, (count, 2); raises UserError."""
        if "seed" in options or "first_index" in options:
            raise UserError("seeds replace seed and first_index; give one of them")
        if len(seeds) != self.count:
            raise UserError(
                f"there are {len(seeds)} seeds for {self.count} pictures; give (seed, "
                "index) of each picture"
            )
        for seed, index in seeds:
            one = {"seed": seed, "first_index": index}
            chosen = dataclasses.replace(self.options, **one)
            chosen.check()
            sampling_options.check_indices(chosen, 1)
        return np.asarray(seeds, np.int64)

    def _keys(
        self,
        rows: np.ndarray,
        indices: np.ndarray,
        stream: int,
        squares: np.ndarray | int = 0,
    ) -> array_types.PRNGKeys:
        streams = stream + random_streams.NUM_STAGES * (self._square + squares)
        return random_streams.image_keys(self.seeds[rows], indices, streams)


def _of_rows(
    model: restore.SampleModel, conditions: dict[str, Any], rows: np.ndarray
) -> dict[str, Any]:
    """Returns the conditions of some rows, with source prompts encoded."""
    found: dict[str, Any] = {}
    for name, value in conditions.items():
        if name == "source_prompts":
            asked = [value[row] for row in rows]
            found["source_caption"] = prompt_tokens.encode(model, asked)
            found["source_weights"] = prompt_tokens.weights(asked)
        else:
            found[name] = value if name in stage_inputs.SHARED else value[rows]
    return found
