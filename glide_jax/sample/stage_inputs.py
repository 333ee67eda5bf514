"""The arguments of a sampling stage other than its parameters."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from glide_jax import array_types


class Caption(NamedTuple):
    """Tokenised captions: int32 and bool, (..., L) each."""

    tokens: array_types.Array
    text_mask: array_types.Array


class StageInputs(NamedTuple):
    """Arguments of one call of a stage.

    The first axis of an array is the batch; those of `SHARED` serve all images. The
    scalars without a description are those of `options.SamplingOptions`.

    Attributes:
      keys: (B,) typed keys, one per image, for all of its randomness.
      caption: k captions per image, (B, k, L) each.
      weights: (B, k), non-negative, of the k captions; None: equal.
      empty: the empty caption or a negative prompt, (1, L), for classifier-free
        guidance.
      clip_caption: the captions in the CLIP's tokens, (B, k, L), for CLIP guidance.
      source_caption: captions of init_image, (B, k, L), for inversion.
      source_weights: (B, k), of the source captions.
      low_res: (B, h, w, 3) in [-1, 1], the input of an upsampler.
      init_image: (B, H, W, 3) in [-1, 1], the picture that an edit starts from.
      inpaint_image: (B, H, W, 3) in [-1, 1], the known picture.
      inpaint_mask: (B, H, W, 1), 1 = known, 0 = to fill; soft edges between.
      strength: share of the training chain that an edit walks, 0 to 1.
      noise_temperature: factor on the starting noise.
    """

    keys: array_types.PRNGKeys
    caption: Caption
    weights: array_types.Array | None = None
    empty: Caption | None = None
    clip_caption: Caption | None = None
    source_caption: Caption | None = None
    source_weights: array_types.Array | None = None
    low_res: array_types.Image | None = None
    init_image: array_types.Image | None = None
    inpaint_image: array_types.Image | None = None
    inpaint_mask: array_types.Image | None = None
    strength: array_types.Scalar = 1.0
    guidance_scale: array_types.Scalar = 1.0
    guidance_first: array_types.Scalar = 0.0
    guidance_last: array_types.Scalar = 999.0
    guidance_rescale: array_types.Scalar = 0.0
    clip_guidance_scale: array_types.Scalar = 0.0
    clip_guidance_first: array_types.Scalar = 0.0
    clip_guidance_last: array_types.Scalar = 999.0
    threshold_quantile: array_types.Scalar = 1.0
    eta: array_types.Scalar = 0.0
    noise_temperature: array_types.Scalar = 1.0


SCALARS = tuple(
    name
    for name, default in StageInputs._field_defaults.items()
    if isinstance(default, float)
)
SHARED = ("empty", *SCALARS)


def with_array_scalars(inputs: StageInputs) -> StageInputs:
    """Returns the inputs with float32 scalars: int and float would be two programs."""
    return inputs._replace(
        **{name: jnp.float32(getattr(inputs, name)) for name in SCALARS}
    )
