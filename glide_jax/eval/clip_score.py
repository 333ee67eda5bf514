"""How well do pictures fit their captions, by a noised CLIP?

1. Score, 100 cos(picture, caption), as in GLIDE's figure 6, whose CLIP is another.
2. Retrieval: of the K captions of a group, is the picture's own the nearest? GLIDE does
   not tell it; it is what the training of a CLIP measures on each batch.

(2) is asked at timestep 0 and in the middle of each quarter of the noise, for that is
what guidance asks of the CLIP. Groups go by index, and the noise is keyed by it, so
neither figure depends on batches. Figures carry the name noised_clip: none that is
published compares with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from PIL import Image

from glide_jax import array_types
from glide_jax.config import defaults
from glide_jax.data import transforms
from glide_jax.diffusion import process, schedules
from glide_jax.errors import UserError
from glide_jax.eval import extractors
from glide_jax.models import noised_clip
from glide_jax.runtime import random_streams
from glide_jax.sample import image_io, prompt_tokens, restore

GROUP = 32  # captions that a picture is to find its own among
QUARTILES = 4

# e: the width that pictures and captions meet in; v: noise levels.
ByLevel = Float[np.ndarray, "n v e"]
Captions = Float[np.ndarray, "n e"]


class ClipJudge:
    """Unit features of pictures at every noise level, and of captions.

    Attributes:
      digest: Names the bundle, as an extractor's does.
      levels: Timesteps: 0, then the middle of each quarter.
    """

    def __init__(
        self,
        clip: restore.SampleModel,
        *,
        mesh: Mesh | None = None,
        batch_size: int = extractors.BATCH_SIZE,
    ):
        """`clip` has its parameters on `mesh`.

        Raises:
          UserError: A model of another kind.
        """
        config = clip.config.model
        if not isinstance(config, defaults.NoisedClipConfig):
            raise UserError(
                f"bundle {clip.folder} is no CLIP (its model is {config.family}); name "
                "the bundle of a noised CLIP"
            )
        self._clip, self._mesh, self._batch_size = clip, mesh, batch_size
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
    ) -> tuple[ByLevel, Captions]:
        """Features of pictures (n, h, w, 3) at each level, and of their captions.

        `indices` (n,) key the noise.
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
        found = prompt_tokens.encode(self._clip, list(captions))
        text = self._batched(
            self._encode_text, found.tokens[:, 0], found.text_mask[:, 0]
        )
        return by_level, text

    def _batched(self, program, *rows: np.ndarray) -> np.ndarray:
        params = self._clip.params
        return extractors.in_batches(
            program, params, rows, self._batch_size, self._mesh
        )

    def _traced_images(
        self, params: array_types.Params, images: jax.Array, indices: jax.Array
    ) -> jax.Array:
        """(b, v, e); level 0 sees the picture itself."""

        def see(level: jax.Array) -> jax.Array:
            t = jnp.full(images.shape[:1], jnp.asarray(self.levels)[level])
            noise = _noise(indices, level, images.shape[1:])
            x_t = process.q_sample(self._tables, images, t, noise)
            x_t = jnp.where(level == 0, images, x_t)
            return noised_clip.normalise(self._clip.fns.encode_image(params, x_t, t))

        # A loop: one tower is compiled, whatever the number of levels.
        by_level = jax.lax.map(see, jnp.arange(len(self.levels)))
        return jnp.moveaxis(by_level, 0, 1)

    def _traced_text(
        self, params: array_types.Params, tokens: jax.Array, text_mask: jax.Array
    ) -> jax.Array:
        return noised_clip.normalise(
            self._clip.fns.encode_text(params, tokens, text_mask)
        )


def figures(
    by_level: ByLevel, text: Captions, captions: Sequence[str], *, group: int = GROUP
) -> dict[str, float]:
    """Score and retrieval accuracies of n pictures, in the order of their indices.

    Args:
      by_level, text: As `ClipJudge` gives them.
      captions: n; one of the same words, whichever picture it came from, is right.
      group: Captions of a group; what is left over at the end makes none, unless
          there are fewer than a group in all.

    Returns:
      noised_clip_score, the mean of 100 cos; noised_clip_retrieval at timestep 0 and
      noised_clip_retrieval_q0 (least noise) to _q3, shares right.
    """
    cosines = np.einsum("ne,ne->n", by_level[:, 0], text, dtype=np.float64)
    names = ["", *(f"_q{i}" for i in range(by_level.shape[1] - 1))]
    right: list[np.ndarray] = []
    count = max(len(text) // group, 1) * min(group, len(text))
    for start in range(0, count, group):
        rows = slice(start, min(start + group, count))
        asked = np.asarray(captions[rows])
        nearest = np.einsum("nve,me->nvm", by_level[rows], text[rows]).argmax(axis=2)
        right.append(asked[nearest] == asked[:, None])
    shares = np.concatenate(right).mean(axis=0)
    return {
        "noised_clip_score": float(100 * cosines.mean()),
        **{
            f"noised_clip_retrieval{name}": float(share)
            for name, share in zip(names, shares, strict=True)
        },
    }


def _noise(indices: jax.Array, level: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Normal noise of each picture's own key, and its level's."""

    seeds = jnp.zeros(indices.shape, jnp.uint32)
    keys = random_streams.keys_of(seeds, indices, level)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
