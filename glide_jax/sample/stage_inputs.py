"""The arguments of a sampling stage beside its parameters."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from glide_jax import array_types


class Caption(NamedTuple):
    """Tokenised captions: integers and booleans (..., L)."""

    tokens: jax.Array
    text_mask: jax.Array


class StageInputs(NamedTuple):
    """What one call of a stage takes beside parameters.

    Arrays lead with the batch, but those of `SHARED` serve all images.

    Attributes:
      keys: (B,) typed keys, one per image: all of its randomness.
      caption: What to draw: k weighted captions an image, (B, k, L) each.
      weights: (B, k), non-negative, of the k captions; None: equal.
      empty: The empty caption or a negative prompt, (1, L), for classifier-free
          guidance.
      clip_caption: The captions in the CLIP's tokens, (B, k, L), for CLIP guidance.
      source_caption: (B, k, L) what init_image shows, for inversion.
      source_weights: As weights, of the source captions.
      low_res: (B, h, w, 3) in [-1, 1], what an upsampler enlarges.
      init_image: (B, H, W, 3) in [-1, 1], the picture that an edit starts from.
      inpaint_image: (B, H, W, 3) in [-1, 1], the known picture.
      inpaint_mask: (B, H, W, 1), 1 = known, 0 = to fill; soft edges between.
      strength: Share of the training chain that an edit walks, 0 to 1.
      guidance_scale: Classifier-free; 1 is off.
      guidance_first, guidance_last: Timesteps between which it acts, 0 to 999.
      guidance_rescale: Share of 2305.08891's rescaling; 0 is off.
      clip_guidance_scale: Of the similarity's gradient; 0 is off.
      clip_guidance_first, clip_guidance_last: Timesteps between which it acts.
      threshold_quantile: Of |x_start|, for dynamic thresholding.
      eta: Share of fresh noise in a DDIM step, 0 to 1; others ignore it.
      noise_temperature: Factor on the starting noise.
    """

    keys: array_types.PRNGKeys
    caption: Caption
    weights: jax.Array | None = None
    empty: Caption | None = None
    clip_caption: Caption | None = None
    source_caption: Caption | None = None
    source_weights: jax.Array | None = None
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
    """Every scale as a float32 array: an int and a float would be two programs."""
    return inputs._replace(
        **{name: jnp.float32(getattr(inputs, name)) for name in SCALARS}
    )
