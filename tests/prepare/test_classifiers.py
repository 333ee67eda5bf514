"""Classifiers from examples: their mathematics, their threshold, their columns."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from glide_jax import presets
from glide_jax.checkpoint import bundle
from glide_jax.cli import main
from glide_jax.config import defaults, resolve
from glide_jax.errors import UserError
from glide_jax.eval import extractors
from glide_jax.models import build
from glide_jax.prepare import classifiers
from glide_jax.text import sentencepiece_tokenizer, tokenizers
from tests.prepare import planted

pytest.importorskip("sklearn", reason='needs pip install -e ".[prepare]"')


class MeanColours:
    """Features without a network: the mean of each colour."""

    name, digest, px = "mean_colours", "0" * 12, 8

    def __call__(self, pixels) -> extractors.Features:
        pool = pixels.mean(axis=(1, 2), dtype=np.float32) / 255
        return extractors.Features(pool, None, None)


def tinted(number: int, colour: str) -> Image.Image:
    flat = Image.new("RGB", (48, 40), colour)
    return Image.blend(planted.texture(number, 48, 40), flat, 0.6)


def write_examples(folder: pathlib.Path, count: int) -> None:
    for i in range(count):
        for name, colour in (("positives", "red"), ("negatives", "blue")):
            picture = planted.png(tinted(i, colour))
            planted.write(folder / name, f"{i:03d}.png", picture, name)


def test_the_decision_is_that_of_scikit_learn():
    from sklearn import svm

    rng = np.random.default_rng(0)
    positives = rng.normal(1, 1, (40, 5)).astype(np.float32)
    negatives = rng.normal(-1, 2, (60, 5)).astype(np.float32)
    ours = classifiers.fit(positives, negatives, 10.0)
    x = np.concatenate([positives, negatives]).astype(np.float64)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    theirs = svm.SVC(C=10.0, gamma="scale", class_weight="balanced")
    theirs.fit(x, np.arange(100) < 40)
    found = ours(np.concatenate([positives, negatives]))
    # Both sum the same terms in float64, in another order.
    np.testing.assert_allclose(found, theirs.decision_function(x), atol=1e-9)


def test_a_classifier_is_stored_and_its_threshold_lets_few_through(tmp_path):
    write_examples(tmp_path / "red", 20)
    trained, result = classifiers.train(
        str(tmp_path / "red"), MeanColours(), 10.0, max_missed=0.01
    )
    assert (result["held_out_positives"], result["false_negatives"]) == (4, 0)
    assert result["false_positives"] == 0
    trained.write(tmp_path / "red.npz")
    again = classifiers.read(tmp_path / "red.npz")
    crops = [classifiers.crops(tinted(99, c), 8) for c in ("red", "blue")]
    found = classifiers.features(MeanColours(), crops)
    np.testing.assert_array_equal(trained(found), again(found))
    assert again(found)[0] >= result["threshold"] > again(found)[1]
    # With half of the positives let through, the threshold is their median.
    _, loose = classifiers.train(str(tmp_path / "red"), MeanColours(), 10.0, 0.5)
    assert loose["false_negatives"] == 2


def test_the_crops_cover_the_long_side():
    image = Image.new("RGB", (300, 100))
    for i, colour in enumerate(("red", "lime", "blue")):
        image.paste(colour, (100 * i, 0, 100 * (i + 1), 100))
    wide = classifiers.crops(image, 10)
    tall = classifiers.crops(image.transpose(Image.Transpose.ROTATE_270), 10)
    for found in (wide, tall):
        middles = found[:, 5, 5]
        assert [tuple(m > 128) for m in middles] == [
            (True, False, False),
            (False, True, False),
            (False, False, True),
        ]


@pytest.mark.parametrize("count", [0, 9])
def test_a_class_needs_examples(tmp_path, count):
    write_examples(tmp_path / "red", count)
    (tmp_path / "red" / "positives").mkdir(parents=True, exist_ok=True)
    with pytest.raises(UserError, match="positives"):
        classifiers.train(str(tmp_path / "red"), MeanColours(), 10.0, 0.01)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> pathlib.Path:
    """A noised CLIP of the tiny size with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    captions = [f"texture number {i} in red and blue" for i in range(200)]
    proto = sentencepiece_tokenizer.train_sentencepiece(captions, 300)
    tokenizer = sentencepiece_tokenizer.SentencePieceTokenizer(proto)
    tokenizers.save(tokenizer, folder / "tokenizer")
    files = {path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir()}
    # One layer of each tower: most of the time is compilation.
    model = dataclasses.replace(
        presets.noised_clip("tiny"), image_layers=1, text_layers=1
    )
    shapes = jax.eval_shape(build.make_clip(model).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(np.float32), shapes
    )
    config = defaults.Config(model=model)
    text = resolve.to_json(config)
    bundle.write_bundle(folder / "bundle", params, text, files, "A toy model.")
    return folder / "bundle"


@pytest.mark.slow
def test_a_classifier_drops_and_scores_are_columns(clip, tmp_path):
    pytest.importorskip("apache_beam")
    write_examples(tmp_path / "red", 25)
    for i in range(20):
        colour = "red" if i % 4 == 0 else "blue"
        picture = planted.png(tinted(1000 + i, colour))
        planted.write(tmp_path / "raw", f"{i:02d}.png", picture, f"texture number {i}")
    words = [
        *("data", "prepare", "--config=experiments/data/prepare.py"),
        f"--output={tmp_path / 'out'}",
        f"--config.data.sources=folder:{tmp_path / 'raw'}",
        f"--config.classifiers.examples=('{tmp_path / 'red'}',)",
        f"--config.classifiers.extractor=clip:{clip}",
        f"--config.scores.clip={clip}",
        *("--config.picture.min_px=0", "--config.duplicates.max_distance=-1"),
    ]
    assert main.run(words) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["dropped"] == {"classifier:red": 5}
    assert (tmp_path / "out" / "sheets" / "classifier_red.png").exists()
    result = manifest["classifiers"]["red"]
    assert result["false_negatives"] == 0
    rows = pyarrow.parquet.read_table(tmp_path / "out/train/00000.parquet").to_pylist()
    assert len(rows) == 15
    assert all(row["red"] < result["threshold"] for row in rows)
    similarities = [row["clip_similarity"] for row in rows]
    assert all(-1 <= value <= 1 for value in similarities)
    assert len(set(similarities)) > 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| red | 25 and 25 | 0 of 5 |" in card
