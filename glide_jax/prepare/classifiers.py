"""Classifiers of pictures, trained from folders of examples as in GLIDE's appendix F.

The features of a picture are the mean of those of three square crops along its long
side. A support vector machine with a radial kernel separates the classes by

  f(x) = sum_i a_i exp(-gamma |x - s_i|^2) + b

of features at zero mean and unit variance.

A fifth of the examples is held out. The threshold is the largest one that lets through
at most the allowed share of the held-out positives.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from glide_jax.data import sources, transforms
from glide_jax.errors import UserError
from glide_jax.eval import extractors
from glide_jax.runtime import files

NUM_CROPS = 3
HELD_OUT_EVERY = 5
# Of each class; a fifth of them is held out.
MIN_EXAMPLES = 10
POSITIVES, NEGATIVES = "positives", "negatives"

Features = Float[np.ndarray, "n d"]
Decisions = Float[np.ndarray, "n"]


def crops(image: Image.Image, px: int) -> UInt8[np.ndarray, "3 px px 3"]:
    """Returns the first, middle and last square of a picture of short side px."""
    image = transforms.shrink(image, px)
    width, height = image.size
    squares = []
    for part in range(NUM_CROPS):
        left = (width - px) * part // (NUM_CROPS - 1)
        top = (height - px) * part // (NUM_CROPS - 1)
        box = (left, top, left + px, top + px)
        squares.append(np.asarray(image.crop(box)))
    return np.stack(squares)


def features(extractor: extractors.Extractor, all_crops: list[np.ndarray]) -> Features:
    """Returns the mean features of the crops of n pictures."""
    pool = extractor(np.concatenate(all_crops)).pool
    return pool.reshape(len(all_crops), NUM_CROPS, -1).mean(axis=1)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained classifier; arrays are float64.

    Attributes:
      mean, scale: of the features.
      vectors: the support vectors s (m, d).
      weights: a (m,).
      bias: b.
      gamma: of the kernel.
    """

    mean: np.ndarray
    scale: np.ndarray
    vectors: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    gamma: np.ndarray

    def __call__(self, found: Features) -> Decisions:
        """Returns f of features; from the threshold on it is like the positives."""
        x = (found - self.mean) / self.scale
        squares = np.square(x[:, None] - self.vectors[None]).sum(axis=2)
        return np.exp(-self.gamma * squares) @ self.weights + self.bias

    def write(self, path: pathlib.Path) -> None:
        """Writes the arrays."""
        stream = io.BytesIO()
        np.savez(stream, **dataclasses.asdict(self))
        files.write_bytes(path, stream.getvalue())


def read(path: pathlib.Path) -> Classifier:
    """Reads what `Classifier.write` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Classifier(**dict(arrays))


def fit(
    positives: Features, negatives: Float[np.ndarray, "m d"], penalty: float
) -> Classifier:
    """Trains a classifier."""
    from sklearn import svm

    found = np.concatenate([positives, negatives]).astype(np.float64)
    mean, scale = found.mean(axis=0), found.std(axis=0) + 1e-6
    is_positive = np.arange(len(found)) < len(positives)
    machine = svm.SVC(C=penalty, kernel="rbf", gamma="scale", class_weight="balanced")
    x = (found - mean) / scale
    machine.fit(x, is_positive)
    return Classifier(
        mean,
        scale,
        machine.support_vectors_,
        machine.dual_coef_[0],
        np.array(machine.intercept_[0]),
        np.array(1 / (x.shape[1] * x.var())),
    )


def train(
    folder: str, extractor: extractors.Extractor, penalty: float, max_missed: float
) -> tuple[Classifier, dict[str, Any]]:
    """Trains a classifier from a folder of examples.

    Returns:
      The classifier, and its threshold and errors: JSON values.

    Raises:
      UserError: a class has fewer than MIN_EXAMPLES.
    """
    positives, negatives = (
        _features_of(folder, name, extractor) for name in (POSITIVES, NEGATIVES)
    )
    held = [np.arange(len(x)) % HELD_OUT_EVERY == 0 for x in (positives, negatives)]
    classifier = fit(positives[~held[0]], negatives[~held[1]], penalty)
    wanted = np.sort(classifier(positives[held[0]]))
    threshold = float(wanted[int(max_missed * len(wanted))])
    unwanted = classifier(negatives[held[1]])
    return classifier, {
        "threshold": threshold,
        "positives": len(positives),
        "negatives": len(negatives),
        "held_out_positives": len(wanted),
        "false_negatives": int((wanted < threshold).sum()),
        "held_out_negatives": len(unwanted),
        "false_positives": int((unwanted >= threshold).sum()),
    }


def _features_of(folder: str, name: str, extractor: extractors.Extractor) -> Features:
    place = pathlib.Path(folder) / name
    source = sources.open_source(f"folder:{place}", captions_required=False)
    if len(source) < MIN_EXAMPLES:
        raise UserError(
            f"classifiers.examples: {place} has {len(source)} pictures; give at least"
            f" {MIN_EXAMPLES}"
        )
    found = []
    for start in range(0, len(source), extractors.BATCH_SIZE):
        indices = range(start, min(start + extractors.BATCH_SIZE, len(source)))
        # A broken example is an error of the user, which names its file.
        images = [transforms.decode(source[index]) for index in indices]
        found.append(features(extractor, [crops(i, extractor.px) for i in images]))
    return np.concatenate(found)
