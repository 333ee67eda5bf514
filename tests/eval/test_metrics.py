"""Metrics of pictures: names, needs, and independence of the batch size."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.eval import (
    distances,
    feature_cache,
    feature_passes,
    metric_needs,
    metrics,
    picture_sets,
    reference_files,
    runner,
)
from tests import fake_devices
from tests.eval import stand_in

REAL, DRAWN = stand_in.noise_pictures(90), stand_in.noise_pictures(60, seed=1)
EVERY = ["fid", "sfid", "kid", "precision_recall", "inception_score"]


def judged(tmp_path, name, shown, *, batch_size=16, extractor=None, reference=REAL):
    """The figures of some pictures against some real ones."""
    extractor = extractor or stand_in.QuarterMeans()
    np.savez(tmp_path / f"{name}.npz", arr_0=shown)
    np.savez(tmp_path / "real.npz", arr_0=reference)
    saved = picture_sets.Saved(tmp_path / f"{name}.npz")
    return runner.evaluate(
        saved,
        feature_passes.Networks(extractor),
        feature_cache.FeatureCache(tmp_path / name, saved.record),
        EVERY,
        reference=reference_files.read(tmp_path / "real.npz", extractor, 8),
        batch_size=batch_size,
        on_batch=lambda count: None,
    )


def test_only_the_inception_score_depends_on_order_and_none_on_the_batch_size(
    tmp_path, monkeypatch
):
    # Its parts go by index, as the groups of retrieval do.
    split = functools.partial(distances.inception_score, split_size=20)
    monkeypatch.setattr(distances, "inception_score", split)
    found = judged(tmp_path, "a", DRAWN).metrics
    one_by_one = judged(tmp_path, "b", DRAWN, batch_size=1).metrics
    shuffled = np.random.default_rng(2).permutation(DRAWN)
    turned = judged(tmp_path, "c", shuffled, batch_size=60).metrics
    assert found["fid"] > 1
    assert 0 < found["precision"] < 1
    # Sums in float64 of features up to 255 squared.
    assert one_by_one == pytest.approx(found, rel=1e-9)
    score, turned_score = (each.pop("inception_score") for each in (found, turned))
    assert turned == pytest.approx(found, rel=1e-9)
    assert abs(turned_score - score) > 1e-6


def test_memory_holds_a_batch_of_pictures_and_no_more(tmp_path):
    extractor = stand_in.QuarterMeans()
    shown = picture_sets.Saved(_saved(tmp_path, DRAWN))
    kept = feature_cache.FeatureCache(tmp_path / "p", {})
    judges = feature_passes.Networks(extractor, keep_pixels=7)
    feature_passes.collect(
        shown, judges, kept, batch_size=5, on_batch=lambda count: None
    )
    assert extractor.most_at_once == 5
    # Of the pictures themselves only as many as were to be kept.
    np.testing.assert_array_equal(kept.rows("pixels"), DRAWN[:7])
    assert len(kept.rows("pool")) == 60


def test_a_set_against_itself_is_no_distance_away(tmp_path):
    found = judged(tmp_path, "a", REAL).metrics
    # Traces near 10,000; the law asks for 1e-3.
    assert found["fid"] == pytest.approx(0, abs=1e-6)
    assert found["sfid"] == pytest.approx(0, abs=1e-6)
    assert (found["precision"], found["recall"]) == (1, 1)


def test_figures_of_other_features_carry_their_name(tmp_path):
    extractor = stand_in.QuarterMeans("noised_clip")
    found = judged(tmp_path, "a", DRAWN, extractor=extractor)
    assert all(name.startswith("noised_clip_") for name in found.metrics)
    assert found.warnings[0].startswith("noised_clip_fid: 60 pictures against 90")


def test_distances_of_a_network_that_is_no_inception_are_not_named_after_it(tmp_path):
    extractor = stand_in.QuarterMeans("efficientnet_lite0")
    found = judged(tmp_path, "a", DRAWN, extractor=extractor)
    names = ("fd", "sfd", "kd", "kd_standard_error")
    names += ("precision", "recall", "inception_score")
    assert found.metrics.keys() == {f"efficientnet_lite0_{name}" for name in names}
    assert found.warnings[0].startswith("efficientnet_lite0_fd: 60 pictures against")


def test_too_few_pictures_are_logged_with_their_number_and_the_rank(tmp_path):
    warnings = judged(tmp_path, "a", DRAWN[:9]).warnings
    assert "fid: 9 pictures against 90; below 10,000" in warnings[0]
    assert "covariance of 9 pictures has the rank 8 of 12" in warnings[0]
    assert "rank" not in judged(tmp_path, "b", DRAWN).warnings[0]


def test_enough_pictures_give_no_warning(tmp_path, monkeypatch):
    warnings = "\n".join(judged(tmp_path, "b", DRAWN).warnings)
    assert "inception_score: 60 pictures; below 5,000" in warnings
    assert "recall: 60 pictures and 90 real ones" in warnings
    monkeypatch.setattr(metrics, "STABLE_FID", 60)
    monkeypatch.setattr(metrics, "STABLE_INCEPTION", 60)
    assert judged(tmp_path, "a", DRAWN, reference=REAL[:60]).warnings == []


def test_pictures_that_could_not_be_read_are_logged(tmp_path, caplog):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.txt").write_text("a picture")
        picture_sets.image_io.write_png(folder / f"{i}.png", DRAWN[i])
    (folder / "1.png").write_bytes(b"broken")
    shown = picture_sets.Real(f"folder:{folder}", 8)
    kept = feature_cache.FeatureCache(tmp_path / "p", {})
    extractor = stand_in.QuarterMeans()
    found = runner.evaluate(
        shown,
        feature_passes.Networks(extractor),
        kept,
        ["inception_score"],
        reference=None,
        batch_size=2,
        on_batch=lambda count: None,
    )
    assert found.warnings[1:] == ["1 of 3 pictures could not be read and are left out"]
    assert "skipped: 1.png: broken image" in caplog.text
    seen = extractor(DRAWN[[0, 2]])
    assert found.metrics["inception_score"] == pytest.approx(
        distances.inception_score(seen.logits), rel=1e-6
    )


def test_first_pictures_that_cannot_be_read_cost_a_grid_and_none_at_all_a_line(
    tmp_path,
):
    kept = feature_cache.FeatureCache(tmp_path / "p", {})
    kept.commit(2, {"indices": np.zeros(0, np.int64)})
    runner.write_pictures(tmp_path, kept, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    with pytest.raises(errors.UserError, match="no picture could be read"):
        metrics.compute(kept, ["inception_score"], extractor="inception")


def test_all_is_made_that_can_be_and_what_cannot_is_refused():
    every = set(metric_needs.NEEDS)
    assert metric_needs.choose([], every) == list(metrics.METRICS)
    found = metric_needs.choose([], {"features", "reference"})
    assert "fid" in found
    assert "kid" not in found
    assert metric_needs.choose(["kid"], every) == ["kid"]
    with pytest.raises(errors.UserError, match="--metrics=fdi is unknown; known: fid"):
        metric_needs.choose(["fdi"], every)
    for name, lacks, remedy in (
        ("fid", "reference", "give --reference"),
        ("kid", "rows", "statistics only"),
        ("sfid", "spatial", "or the reference have no spatial part"),
        ("clip_score", "captions", "give the pictures' prompts"),
    ):
        with pytest.raises(errors.UserError, match=f"--metrics={name}: .*{remedy}"):
            metric_needs.choose([name], every - {lacks})


def test_the_documentation_has_the_table_of_all_metrics():
    pages = (fake_devices.ROOT / "docs").rglob("*.md")
    assert any(metrics.to_markdown() in page.read_text() for page in pages)


def test_what_can_be_made_is_found_out_beforehand(tmp_path):
    extractor = stand_in.QuarterMeans()
    reference = reference_files.read(_saved(tmp_path, REAL), extractor, 8)
    captioned = picture_sets.Saved(_saved(tmp_path, REAL), ["a"] * len(REAL))
    found = metric_needs.available(
        extractor, reference, captioned, has_clip=False, batch_size=2
    )
    assert found == {
        *("features", "spatial", "logits", "reference", "rows"),
        "captions",
        "repeats",
    }
    found = metric_needs.available(None, None, None, has_clip=True, batch_size=2)
    assert found == {"clip"}


def _saved(tmp_path, shown):
    np.savez(tmp_path / "shown.npz", arr_0=shown)
    return tmp_path / "shown.npz"


def test_shares_of_float16_distances_have_names_of_their_own(tmp_path):
    np.savez(tmp_path / "real.npz", arr_0=REAL)
    np.savez(tmp_path / "a.npz", arr_0=DRAWN)
    extractor = stand_in.QuarterMeans("inception_tf1")
    kept = feature_cache.FeatureCache(tmp_path / "p", {})
    feature_passes.collect(
        picture_sets.Saved(tmp_path / "a.npz"),
        feature_passes.Networks(extractor),
        kept,
        batch_size=30,
        on_batch=lambda count: None,
    )
    real = reference_files.read(tmp_path / "real.npz", extractor, 8)
    found = {
        how: metrics.compute(
            kept,
            ["precision_recall"],
            extractor=extractor.name,
            reference=real,
            pr_distances=how,
        ).metrics
        for how in metrics.PR_DISTANCES
    }
    default = metrics.compute(
        kept, ["precision_recall"], extractor=extractor.name, reference=real
    )
    assert default.metrics == found["exact"]
    names = [f"inception_tf1_{name}" for name in ("precision", "recall")]
    assert list(found["exact"]) == names
    assert list(found["float16"]) == [f"{name}_float16" for name in names]
    # Squared lengths near 200,000 have no float16: the block is in float32.
    shares = zip(found["exact"].values(), found["float16"].values(), strict=True)
    assert all(a == pytest.approx(b, abs=0.05) for a, b in shares)
