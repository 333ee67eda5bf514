"""Columns of scores of a pair: classifiers (rule 4) and a similarity (rule 5)."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from PIL import Image

from glide_jax.config import preparation
from glide_jax.data import transforms
from glide_jax.errors import UserError
from glide_jax.eval import extractors
from glide_jax.prepare import classifiers, job
from glide_jax.runtime import ledger

SIMILARITY = "clip_similarity"
# (name, threshold) of a column; None: it drops nothing.
Columns = tuple[tuple[str, float | None], ...]


def names(config: preparation.PrepareConfig) -> tuple[str, ...]:
    """The names of the classifiers.

    Raises:
      UserError: a name is not usable, or a setting names another classifier.
    """
    found = tuple(pathlib.Path(path).name for path in config.classifiers.examples)
    for name in found:
        if not name.isidentifier() or found.count(name) > 1 or name == SIMILARITY:
            raise UserError(
                f"classifiers.examples: {name!r} is not a name of one classifier; use"
                " folders of different names of letters, digits and underscores"
            )
    for name in config.classifiers.only_score:
        if name not in found:
            raise UserError(
                f"classifiers.only_score names {name!r}, which classifiers.examples"
                f" lacks; it has {', '.join(found) or 'none'}"
            )
    if found and not config.classifiers.extractor:
        raise UserError(
            "classifiers.extractor is empty; name the features of the classifiers, e.g."
            " clip:runs/clip/bundle"
        )
    return found


def train(work: job.Job, stages: ledger.Ledger) -> Columns:
    """Trains the classifiers that are not trained yet; returns the columns.

    Raises:
      UserError: as `names`, `classifiers.train` and `extractors.load`.
    """
    config = work.config.classifiers
    extractor = None
    columns: list[tuple[str, float | None]] = []
    for name, folder in zip(names(work.config), config.examples, strict=True):
        task = f"classifier {name}"
        if not stages.is_done(task):
            extractor = extractor or extractors.load(config.extractor)
            with stages.timed(task):
                trained, result = classifiers.train(
                    folder, extractor, config.penalty, config.max_false_negatives
                )
                trained.write(_path(work, name))
            stages.finish(task, {**result, "features": extractor.digest})
        threshold = stages.result(task)["threshold"]
        columns.append((name, None if name in config.only_score else threshold))
    if work.config.scores.clip:
        columns.append((SIMILARITY, None))
    return tuple(columns)


def _path(work: job.Job, name: str) -> pathlib.Path:
    return work.work / f"classifier_{name}.npz"


class Scorer:
    """Computes the columns of pictures."""

    def __init__(self, work: job.Job) -> None:
        config = work.config
        self._classifiers = [
            classifiers.read(_path(work, name)) for name in names(config)
        ]
        self._features: extractors.Extractor | None = None
        if self._classifiers:
            self._features = extractors.load(config.classifiers.extractor)
        self._clip: extractors.ClipExtractor | None = None
        if config.scores.clip:
            self._clip = load_clip(config.scores.clip)

    def crop(self, image: Image.Image) -> tuple[Any, Any]:
        """Returns what `score` needs of a picture, to keep no large ones."""
        squares = middle = None
        if self._features is not None:
            squares = classifiers.crops(image, self._features.px)
        if self._clip is not None:
            middle = transforms.centre_crop(image, self._clip.px)
        return squares, middle

    def score(self, cropped: list[tuple[Any, Any]], captions: list[str]) -> np.ndarray:
        """Returns the columns (n, k) of n pictures."""
        columns = []
        if self._features is not None:
            squares = [each[0] for each in cropped]
            found = classifiers.features(self._features, squares)
            columns += [classifier(found) for classifier in self._classifiers]
        if self._clip is not None:
            images = self._clip(np.stack([each[1] for each in cropped])).pool
            texts = self._clip.text_features(captions)
            columns.append((images * texts).sum(axis=1) / images.shape[1])
        return np.stack(columns, axis=1)


def load_clip(bundle: str) -> extractors.ClipExtractor:
    """Loads the noised CLIP of scores.clip.

    Raises:
      UserError: it is not the bundle of a noised CLIP.
    """
    found = extractors.load(f"clip:{bundle}")
    assert isinstance(found, extractors.ClipExtractor)
    return found
