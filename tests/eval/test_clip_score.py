"""Scores of pictures and captions by a noised CLIP."""

from __future__ import annotations

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.eval import clip_encoder, clip_score, extractors
from glide_jax.sample import restore
from tests.eval import stand_in
from tests.sample.conftest import CAPTIONS, bundles, models, tokenizer  # noqa: F401


@pytest.fixture(scope="module")
def judge(bundles):  # noqa: F811
    return clip_encoder.ClipEncoder(restore.load_bundle(bundles["clip"]), batch_size=4)


def unit(*rows):
    rows = np.array(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_the_score_is_a_hundred_times_the_mean_cosine():
    text = unit([1, 0], [1, 0], [0, 1])
    pictures = unit([1, 0], [0, 1], [1, 1])[:, None]
    found = clip_score.scores(pictures, text, list("abc"))
    expected = 100 * (1 + 0 + 0.5**0.5) / 3
    assert found["noised_clip_score"] == pytest.approx(expected)


def test_retrieval_counts_pictures_nearest_to_their_own_captions_level_by_level():
    text = unit([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1])
    seen = text[[0, 1, 3, 3]]  # the third picture looks like the fourth's caption
    noisy = text[[1, 0, 3, 2]]  # all wrong
    found = clip_score.scores(np.stack([seen, noisy], 1), text, list("abcd"))
    assert found["noised_clip_retrieval"] == 0.75
    assert found["noised_clip_retrieval_q0"] == 0
    # The same words are right, whichever picture they came from.
    found = clip_score.scores(np.stack([seen, noisy], 1), text, list("abcc"))
    assert found["noised_clip_retrieval"] == 1
    assert found["noised_clip_retrieval_q0"] == 0.5


def test_groups_go_by_index_and_what_is_left_over_makes_none():
    text = unit([1, 0], [0, 1], [1, 0.1], [0, 1], [1, 0])
    # In groups of two each picture has to tell its caption from one other only.
    found = clip_score.scores(text[:, None], text, list("abcde"), group=2)
    assert found["noised_clip_retrieval"] == 1
    wrong_last = text[[0, 1, 2, 3, 1], None]
    assert clip_score.scores(wrong_last, text, list("abcde"), group=2) == {
        **found,
        "noised_clip_score": pytest.approx(found["noised_clip_score"] * 4 / 5),
    }


def test_a_large_group_is_harder():
    # Caption i and caption i + 64 mean nearly the same, and the picture of the latter.
    angles = np.pi * np.arange(64) / 64
    text = unit(*np.stack([np.cos(angles), np.sin(angles)], 1))
    text = np.concatenate([text, text])
    captions = [f"caption {i}" for i in range(128)]
    found = clip_score.scores(text[:, None], text, captions)
    assert found["noised_clip_retrieval"] == 1
    assert found["noised_clip_retrieval_among_128"] == 0.5


def test_a_judge_computes_in_full_precision_on_every_kind_of_device(judge):
    rows = [np.zeros((2, 8, 8, 3), np.float32), np.zeros(2, np.uint32)]
    told = judge._encode_images.lower(judge._clip.params, *rows).as_text()
    assert "stablehlo.dot_general" in told
    assert told.count("[HIGHEST, HIGHEST]") >= told.count("stablehlo.dot_general")
    assert "[DEFAULT, DEFAULT]" not in told


def test_features_of_a_judge_do_not_depend_on_batches_or_order(judge):
    shown, indices = stand_in.noise_pictures(6), np.arange(10, 16)
    whole = judge(shown, CAPTIONS, indices)
    assert whole[0].shape == (6, 5, 16)
    assert whole[1].shape == (6, 16)
    turned = judge(shown[::-1], CAPTIONS[::-1], indices[::-1])
    alone = judge(shown[2:3], CAPTIONS[2:3], indices[2:3])
    # float32; other batch sizes add up in another order.
    for ours, back, one in zip(whole, turned, alone, strict=True):
        np.testing.assert_allclose(ours, back[::-1], atol=1e-5)
        np.testing.assert_allclose(ours[2:3], one, atol=1e-5)
    # The noise is the index's.
    other = judge(shown, CAPTIONS, indices + 1)
    np.testing.assert_allclose(other[0][:, 0], whole[0][:, 0], atol=1e-5)
    assert np.abs(other[0][:, 1:] - whole[0][:, 1:]).max(axis=2).min() > 1e-3


def test_at_no_noise_a_judge_agrees_with_the_extractor(judge, bundles):  # noqa: F811
    shown = stand_in.noise_pictures(6, 16)  # twice the size the CLIP reads
    by_level, text = judge(shown, CAPTIONS, np.arange(6))
    extractor = extractors.load(f"clip:{bundles['clip']}")
    seen, asked = extractor(shown).pool, extractor.text_features(CAPTIONS)
    cosines = (seen * asked).sum(1) / seen.shape[1]
    np.testing.assert_allclose((by_level[:, 0] * text).sum(1), cosines, atol=1e-5)


def test_a_judge_that_is_no_clip_is_refused(bundles):  # noqa: F811
    with pytest.raises(errors.UserError, match="the bundle of a noised CLIP"):
        clip_encoder.ClipEncoder(restore.load_bundle(bundles["base"]))
