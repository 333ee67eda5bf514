"""Reference batches of this package and of OpenAI's evaluator."""

from __future__ import annotations

import json

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.eval import picture_sets, reference_files
from tests.eval import stand_in

SHOWN = stand_in.noise_pictures(20)
EXTRACTOR = stand_in.QuarterMeans()
OPENAI = stand_in.QuarterMeans("inception_tf1")


def build(tmp_path, *, extractor=EXTRACTOR, **options):
    np.savez(tmp_path / "shown.npz", arr_0=SHOWN)
    options = {"keep_images": False, "batch_size": 6} | options
    path = tmp_path / "ref.npz"
    reference_files.build(
        picture_sets.Saved(tmp_path / "shown.npz"),
        extractor,
        path,
        **{"on_batch": lambda count: None} | options,
    )
    return path


def theirs(path, **arrays):
    """A file as OpenAI's evaluator offers them for download."""
    seen = EXTRACTOR(SHOWN)
    statistics = {
        "mu": seen.pool.mean(axis=0),
        "sigma": np.cov(seen.pool, rowvar=False),
        "mu_s": seen.spatial.mean(axis=0),
        "sigma_s": np.cov(seen.spatial, rowvar=False),
    }
    np.savez(path, **(statistics | arrays))
    return path


def test_a_reference_has_the_evaluators_arrays_and_reads_back(tmp_path):
    path = build(tmp_path, keep_images=True, extractor=OPENAI)
    seen = OPENAI(SHOWN)
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["arr_0"], SHOWN)
        # Sums of 20 float64 numbers up to 255.
        for name, rows in (("", seen.pool), ("_s", seen.spatial)):
            rows = rows.astype(np.float64)
            np.testing.assert_allclose(file[f"mu{name}"], rows.mean(0), rtol=1e-12)
            np.testing.assert_allclose(
                file[f"sigma{name}"], np.cov(rows, rowvar=False), atol=1e-9
            )
        record = json.loads(str(file["glide_jax"]))
    assert record["extractor"] == "inception_tf1"
    assert record["digest"] == OPENAI.digest
    assert (record["px"], record["count"], record["protocol"]) == (8, 20, "centre crop")
    found = reference_files.read(path, OPENAI, 8)
    np.testing.assert_array_equal(found.rows, seen.pool)
    assert found.pool.count == found.spatial.count == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ref.npz", "shown.npz"]


@pytest.mark.parametrize("keep_images", [True, False])
@pytest.mark.parametrize("name", ["inception", "noised_clip", "another"])
def test_statistics_of_other_features_have_names_that_the_evaluator_does_not_read(
    tmp_path, name, keep_images
):
    extractor = stand_in.QuarterMeans(name)
    path = build(tmp_path, extractor=extractor, keep_images=keep_images)
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    statistics = {f"{name}_{which}" for which in ("mu", "sigma", "mu_s", "sigma_s")}
    images = {"arr_0"} if keep_images else set()
    assert arrays.keys() == statistics | images | {"pool", "glide_jax"}
    found = reference_files.read(path, extractor, 8)
    np.testing.assert_array_equal(found.pool.mu, arrays[f"{name}_mu"])
    np.testing.assert_array_equal(found.spatial.sigma, arrays[f"{name}_sigma_s"])
    # The record of a file of an earlier version says whose its mu is.
    earlier = {key.removeprefix(f"{name}_"): array for key, array in arrays.items()}
    np.savez(path, **earlier)
    again = reference_files.read(path, extractor, 8)
    np.testing.assert_array_equal(again.pool.mu, found.pool.mu)
    if not keep_images:
        with pytest.raises(errors.UserError, match=f"was made with {name} "):
            reference_files.read(path, OPENAI, 8)


def test_a_reference_does_not_depend_on_batches_or_on_being_cut_off(tmp_path):
    class CutError(Exception):
        pass

    def cut(count):
        raise CutError

    (tmp_path / "whole").mkdir()
    whole = reference_files.read(build(tmp_path / "whole", batch_size=20), EXTRACTOR, 8)
    for _ in range(2):
        with pytest.raises(CutError):
            build(tmp_path, on_batch=cut)
        assert not (tmp_path / "ref.npz").exists()
    parts = reference_files.read(build(tmp_path, batch_size=5), EXTRACTOR, 8)
    np.testing.assert_array_equal(parts.rows, whole.rows)
    np.testing.assert_allclose(parts.pool.sigma, whole.pool.sigma, atol=1e-9)


def test_statistics_alone_are_those_of_the_evaluator_that_writes_such_a_file(tmp_path):
    path = theirs(tmp_path / "openai.npz")
    found = reference_files.read(path, OPENAI, 8)
    assert found.rows is None
    assert found.pool.count == 0
    assert found.spatial.mu.shape == (8,)
    for other in (EXTRACTOR, stand_in.QuarterMeans("noised_clip")):
        with pytest.raises(errors.UserError, match="was made with inception_tf1 and"):
            reference_files.read(path, other, 8)
    # pytorch-fid writes no spatial statistics, and resizes otherwise.
    with np.load(path) as file:
        np.savez(tmp_path / "torch.npz", mu=file["mu"], sigma=file["sigma"])
    assert reference_files.read(tmp_path / "torch.npz", EXTRACTOR, 8).spatial is None
    with pytest.raises(errors.UserError, match="was made with inception and"):
        reference_files.read(tmp_path / "torch.npz", OPENAI, 8)


def test_pictures_in_a_file_are_used_where_features_are_missing(tmp_path):
    path = theirs(tmp_path / "theirs.npz", arr_0=SHOWN, mu=np.full(12, 5.0))
    found = reference_files.read(path, OPENAI, 8, batch_size=6)
    np.testing.assert_array_equal(found.rows, OPENAI(SHOWN).pool)
    # Their own statistics are what their figures are made of.
    np.testing.assert_array_equal(found.pool.mu, np.full(12, 5.0))
    # Another extractor takes nothing of them but the pictures.
    for name in ("inception", "noised_clip"):
        other = reference_files.read(path, stand_in.QuarterMeans(name), 8)
        np.testing.assert_allclose(other.pool.mu, other.rows.mean(axis=0), rtol=1e-6)
        assert other.record["extractor"] == name


def test_a_sample_batch_serves_as_a_reference(tmp_path):
    np.savez(tmp_path / "samples.npz", arr_0=SHOWN)
    found = reference_files.read(tmp_path / "samples.npz", EXTRACTOR, 8)
    assert found.pool.count == found.spatial.count == len(found.rows) == 20


def test_a_reference_that_does_not_fit_is_refused(tmp_path):
    path = build(tmp_path)
    with pytest.raises(errors.UserError, match="of pictures of 8 px, not 16 px"):
        reference_files.read(path, EXTRACTOR, 16)
    other = stand_in.QuarterMeans(digest="ba9876543210")
    with pytest.raises(errors.UserError, match=r"0123456789ab and .* ba9876543210"):
        reference_files.read(path, other, 8)
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(errors.UserError, match="made with no features"):
        reference_files.read(tmp_path / "other.npz", EXTRACTOR, 8)
    theirs(tmp_path / "odd.npz", sigma=np.zeros((3, 3)))
    with pytest.raises(errors.UserError, match="lacks mu and sigma of one size"):
        reference_files.read(tmp_path / "odd.npz", OPENAI, 8)


def test_statistics_that_are_no_numbers_are_refused(tmp_path):
    for mu in (np.full(12, np.nan), np.full(12, "a"), np.zeros((12, 1))):
        path = theirs(tmp_path / "theirs.npz", arr_0=SHOWN, mu=mu)
        with pytest.raises(errors.UserError, match=r"theirs\.npz"):
            reference_files.read(path, OPENAI, 8)


@pytest.mark.parametrize("record", ["{}", "[]", "no", '{"extractor": "inception"}'])
def test_a_record_that_is_not_whole_is_refused(tmp_path, record):
    path = theirs(tmp_path / "theirs.npz", **{reference_files.RECORD: np.array(record)})
    with pytest.raises(
        errors.UserError, match="is not one of glide evaluate reference"
    ):
        reference_files.read(path, OPENAI, 8)
