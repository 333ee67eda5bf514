"""A noised CLIP that encodes pictures at several noise levels, and their captions.

The levels are timestep 0 and the middle of each quarter of the noise, since CLIP
guidance needs the encoder at all of them. The noise is keyed by the picture's index, so
that features do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from glide_jax import array_types
from glide_jax.data import transforms
from glide_jax.diffusion import process, schedules
from glide_jax.eval import clip_score, extractors
from glide_jax.models import noised_clip
from glide_jax.sample import image_io, prompt_tokens, restore

QUARTILES = 4


class ClipEncoder:
    """Features of unit length, of pictures at every noise level and of captions.

    Attributes:
      digest: First 12 hexadecimal digits of the bundle's digest.
      levels: Timesteps: 0, then the middle of each quarter.
    """

    def __init__(
        self,
        clip: restore.SampleModel,
        *,
        mesh: Mesh | None = None,
        batch_size: int = extractors.BATCH_SIZE,
    ):
        """Takes a noised CLIP whose parameters are on `mesh`.

        Raises:
          UserError: `clip` is a model of another family.
        """
        self._clip, self._fns = clip, extractors.clip_functions(clip)
        self._mesh, self._batch_size = mesh, batch_size
        self.digest = restore.bundle_digest(clip.folder)[: extractors.DIGEST_LENGTH]
        diffusion = clip.config.diffusion
        steps = diffusion.num_timesteps
        middles = [steps * (2 * i + 1) // (2 * QUARTILES) for i in range(QUARTILES)]
        self.levels = (0, *middles)
        betas = schedules.make_betas(diffusion.schedule, steps)
        self._tables = process.make_tables(betas)
        self._encode_images = extractors.measured(self._traced_images)
        self._encode_text = extractors.measured(self._traced_text)

    def __call__(
        self,
        pixels: image_io.PixelBatch,
        captions: Sequence[str],
        indices: np.ndarray,
    ) -> tuple[clip_score.ImageFeatures, clip_score.TextFeatures]:
        """Returns features of pictures at each level, and of their captions.

        Args:
          pixels: (n, h, w, 3) uint8; cropped and resized to the model's side.
          captions: n of them.
          indices: (n,) indices of the pictures, which key the noise.
        """
        px = self._clip.config.model.image_px
        if pixels.shape[1] != px:
            pixels = np.stack(
                [transforms.centre_crop(Image.fromarray(p), px) for p in pixels]
            )
        keys = np.asarray(indices, np.uint32)
        by_level = self._batched(
            self._encode_images, image_io.from_pixels(pixels), keys
        )
        encoded = prompt_tokens.encode(self._clip, list(captions))
        text = self._batched(
            self._encode_text, encoded.tokens[:, 0], encoded.text_mask[:, 0]
        )
        return by_level, text

    def _batched(self, program, *rows: array_types.Array) -> np.ndarray:
        params = self._clip.params
        return extractors.in_batches(
            program, params, rows, self._batch_size, self._mesh
        )

    def _traced_images(
        self, params: array_types.Params, images: jax.Array, indices: jax.Array
    ) -> jax.Array:
        """Returns features (b, v, e); level 0 encodes the picture without noise."""

        def encode_level(level: jax.Array) -> array_types.Features:
            t = jnp.full(images.shape[:1], jnp.asarray(self.levels)[level])
            noise = _noise(indices, level, images.shape[1:])
            x_t = process.q_sample(self._tables, images, t, noise)
            x_t = jnp.where(level == 0, images, x_t)
            return noised_clip.normalise(self._fns.encode_image(params, x_t, t))

        # A loop over the levels compiles the image tower once.
        by_level = jax.lax.map(encode_level, jnp.arange(len(self.levels)))
        return jnp.moveaxis(by_level, 0, 1)

    def _traced_text(
        self, params: array_types.Params, tokens: jax.Array, text_mask: jax.Array
    ) -> array_types.Features:
        return noised_clip.normalise(self._fns.encode_text(params, tokens, text_mask))


def _noise(indices: jax.Array, level: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns Gaussian noise (b, *shape), keyed by picture and level."""

    def draw(index: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), index), level)
        return jax.random.normal(key, shape)

    return jax.vmap(draw)(indices)
