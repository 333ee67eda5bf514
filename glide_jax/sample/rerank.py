"""Selects the picture of a prompt that the CLIP scores highest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from glide_jax import array_types
from glide_jax.models import noised_clip
from glide_jax.sample import image_io, prompt_tokens, restore

# pixels (N, h, w, 3), prompts, batch size -> cosine similarities (N,)
Scorer = Callable[
    [image_io.PixelBatch, Sequence[prompt_tokens.Prompt], int], np.ndarray
]


def make_scorer(clip: restore.SampleModel) -> Scorer:
    """Returns a function that scores pictures against their prompts.

    A score is the cosine similarity, -1 to 1, at timestep 0, the least noise that the
    CLIP was trained on; for a blend the weighted mean of its prompts' similarities.
    """

    @jax.jit
    def similarities(
        params: array_types.Params,
        images: array_types.Image,
        tokens: jax.Array,
        mask: jax.Array,
    ) -> array_types.PerExample:
        timesteps = jnp.zeros(images.shape[:1], jnp.int32)
        features = clip.clip.encode_image(params, images, timesteps)
        text = clip.clip.encode_text(params, tokens, mask)
        return noised_clip.similarity(features, text)

    def score(
        pixels: image_io.PixelBatch,
        prompts: Sequence[prompt_tokens.Prompt],
        batch_size: int,
    ) -> np.ndarray:
        caption = prompt_tokens.encode(clip, prompts)
        weights = prompt_tokens.weights(prompts)
        images = image_io.from_pixels(pixels)
        columns = []
        for k in range(weights.shape[1]):
            parts = []
            for start in range(0, len(images), batch_size):
                # The last batch is padded to the shape of the others.
                rows = np.arange(start, start + batch_size) % len(images)
                parts.append(
                    similarities(
                        clip.params,
                        images[rows],
                        caption.tokens[rows, k],
                        caption.text_mask[rows, k],
                    )
                )
            columns.append(np.concatenate(parts)[: len(images)])
        return (np.stack(columns, axis=1) * weights).sum(1) / weights.sum(1)

    return score


def best_of(scores: np.ndarray, candidates: int) -> np.ndarray:
    """Returns the index of the best of each group of `candidates`, (groups,)."""
    groups = scores.reshape(-1, candidates)
    return np.arange(len(groups)) * candidates + groups.argmax(axis=1)
