"""The cache of features, and its use after an interruption."""

from __future__ import annotations

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.eval import feature_cache

SETTINGS = {"pictures": {"seed": 1, "scales": (1, 2)}, "judge": None}


def test_work_continues_after_the_last_complete_part(tmp_path):
    kept = feature_cache.FeatureCache(tmp_path / "p", SETTINGS)
    kept.commit(3, {"pool": np.arange(3)})
    kept.commit(5, {"pool": np.arange(3, 5), "captions": np.array(["a", "b"])})
    # What a cut leaves of a part is not under its name.
    (tmp_path / "p" / ".00000005-00000008.npz.tmp").write_bytes(b"half")
    again = feature_cache.FeatureCache(tmp_path / "p", SETTINGS)
    assert again.next_index == 5
    np.testing.assert_array_equal(again.rows("pool"), np.arange(5))
    assert again.rows("captions").tolist() == ["a", "b"]
    assert again.has("captions")
    assert not again.has("logits")


def test_a_part_that_is_gone_is_made_again_with_all_after_it(tmp_path):
    kept = feature_cache.FeatureCache(tmp_path / "p", SETTINGS)
    for stop in (2, 4, 6):
        kept.commit(stop, {"pool": np.full(2, stop)})
    (tmp_path / "p" / "00000002-00000004.npz").unlink()
    again = feature_cache.FeatureCache(tmp_path / "p", SETTINGS)
    assert again.next_index == 2
    again.commit(6, {"pool": np.full(4, 7)})
    assert (
        feature_cache.FeatureCache(tmp_path / "p", SETTINGS).rows("pool").tolist()
        == [2] * 2 + [7] * 4
    )


def test_parts_behind_a_gap_do_not_hide_those_that_fill_it(tmp_path):
    kept = feature_cache.FeatureCache(tmp_path / "p", SETTINGS)
    for stop in (2, 4, 6):
        kept.commit(stop, {"pool": np.full(2, stop)})
    (tmp_path / "p" / "00000002-00000004.npz").unlink()
    again = feature_cache.FeatureCache(tmp_path / "p", SETTINGS)
    again.commit(6, {"pool": np.full(4, 7)})
    again.commit(8, {"pool": np.full(2, 8)})
    assert feature_cache.FeatureCache(tmp_path / "p", SETTINGS).next_index == 8


def test_a_damaged_part_is_rebuilt_and_a_foreign_file_is_kept(tmp_path):
    kept = feature_cache.FeatureCache(tmp_path / "p", SETTINGS)
    for stop in (2, 4):
        kept.commit(stop, {"pool": np.full(2, stop)})
    damaged = tmp_path / "p" / "00000002-00000004.npz"
    damaged.write_bytes(damaged.read_bytes()[:40])
    stranger = tmp_path / "p" / "my-file.npz"
    stranger.write_bytes(b"mine")
    assert feature_cache.FeatureCache(tmp_path / "p", SETTINGS).next_index == 2
    assert stranger.read_bytes() == b"mine"


def test_parts_without_settings_are_not_continued(tmp_path):
    feature_cache.FeatureCache(tmp_path / "p", SETTINGS).commit(
        2, {"pool": np.zeros(2)}
    )
    (tmp_path / "p" / feature_cache.SETTINGS).unlink()
    assert feature_cache.FeatureCache(tmp_path / "p", {"seed": 3}).next_index == 0


def test_empty_settings_are_refused_in_a_line(tmp_path):
    feature_cache.FeatureCache(tmp_path / "p", SETTINGS)
    (tmp_path / "p" / feature_cache.SETTINGS).write_text("")
    with pytest.raises(errors.UserError, match=r"settings\.json"):
        feature_cache.FeatureCache(tmp_path / "p", SETTINGS)


def test_other_settings_are_refused_with_the_one_that_differs(tmp_path):
    feature_cache.FeatureCache(tmp_path / "p", SETTINGS)
    other = {**SETTINGS, "pictures": {"seed": 2, "scales": (1, 2)}}
    with pytest.raises(errors.UserError, match=r"pictures\.seed=1, not .*=2"):
        feature_cache.FeatureCache(tmp_path / "p", other)
    with pytest.raises(errors.UserError, match="judge=None, not judge=clip"):
        feature_cache.FeatureCache(tmp_path / "p", {**SETTINGS, "judge": "clip"})


def test_nothing_of_them_is_left_when_they_are_removed(tmp_path):
    kept = feature_cache.FeatureCache(tmp_path / "p", SETTINGS)
    kept.commit(2, {"pool": np.zeros(2)})
    # Of a program that was killed.
    (tmp_path / "p" / ".00000002-00000004.npz.tmp").write_bytes(b"half")
    (tmp_path / "p" / "00000009-00000010.npz").write_bytes(b"stale")
    kept.remove()
    assert list(tmp_path.iterdir()) == []


def test_parts_of_several_processes_fill_one_cache(tmp_path):
    first = feature_cache.FeatureCache(tmp_path / "p", SETTINGS)
    other = feature_cache.FeatureCache(tmp_path / "p", SETTINGS, is_first=False)
    other.commit(6, {"pool": np.full(2, 6)}, first=4)
    first.commit(2, {"pool": np.full(2, 2)}, first=0)
    assert first.spans == [(0, 2)]
    # As after the loss of both: a gap is left, and what is behind it is kept.
    again = feature_cache.FeatureCache(tmp_path / "p", SETTINGS)
    assert again.spans == [(0, 2), (4, 6)]
    assert again.next_index == 2
    other.commit(4, {"pool": np.full(2, 4)}, first=2)
    again.add((2, 4))
    assert again.rows("pool").tolist() == [2, 2, 4, 4, 6, 6]
