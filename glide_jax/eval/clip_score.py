"""Scores how well pictures match their captions, from the features of a noised CLIP.

1. Score, 100 cos(picture, caption), as in GLIDE's figure 6, with another CLIP.
2. Retrieval: the share of pictures whose own caption is the nearest of the K captions
   of a group. GLIDE does not report it; the training of a CLIP measures it on each
   batch.

Groups are consecutive indices, so no score depends on the batch size. The names carry
the prefix noised_clip, since published scores use another CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

# Captions among which a picture retrieves its own.
GROUP, LARGE_GROUP = 32, 128

# e: width of the joint space; v: noise levels.
ImageFeatures = Float[np.ndarray, "n v e"]
TextFeatures = Float[np.ndarray, "n e"]
Shares = Float[np.ndarray, "levels"]


def scores(
    images: ImageFeatures,
    text: TextFeatures,
    captions: Sequence[str],
    *,
    group: int = GROUP,
) -> dict[str, float]:
    """Returns the score and the retrieval accuracies of n pictures.

    Args:
      images: Unit features of the pictures at each noise level, in the order of their
        indices; level 0 is without noise.
      text: Unit features of the captions.
      captions: n captions; a retrieved caption counts as right if its text is equal.
      group: Captions of a group. An incomplete last group is left out, unless it is
        the only one.

    Returns:
      noised_clip_score, the mean of 100 cos, in [-100, 100]; noised_clip_retrieval at
      timestep 0 and noised_clip_retrieval_q0 (least noise) to _q3, in [0, 1]; with
      LARGE_GROUP captions or more also noised_clip_retrieval_among_128, at timestep 0.
    """
    cosines = np.einsum("ne,ne->n", images[:, 0], text, dtype=np.float64)
    names = ["", *(f"_q{i}" for i in range(images.shape[1] - 1))]
    shares = _retrieved(images, text, captions, group)
    found = {
        "noised_clip_score": float(100 * cosines.mean()),
        **{
            f"noised_clip_retrieval{name}": float(share)
            for name, share in zip(names, shares, strict=True)
        },
    }
    if len(text) >= LARGE_GROUP:
        (share,) = _retrieved(images[:, :1], text, captions, LARGE_GROUP)
        found[f"noised_clip_retrieval_among_{LARGE_GROUP}"] = float(share)
    return found


def _retrieved(
    images: ImageFeatures, text: TextFeatures, captions: Sequence[str], group: int
) -> Shares:
    """Returns the share of pictures nearest to their own caption, by noise level."""
    right: list[np.ndarray] = []
    count = max(len(text) // group, 1) * min(group, len(text))
    for start in range(0, count, group):
        rows = slice(start, min(start + group, count))
        own = np.asarray(captions[rows])
        nearest = np.einsum("nve,me->nvm", images[rows], text[rows]).argmax(axis=2)
        right.append(own[nearest] == own[:, None])
    return np.concatenate(right).mean(axis=0)
