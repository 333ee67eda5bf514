"""Features depend on the picture and the weights, not on the batch."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.convert import efficientnet, inception, tensor_files
from glide_jax.eval import extractors
from glide_jax.runtime import user_cache
from glide_jax.sample import rerank
from tests import fake_devices
from tests.models import golden_efficientnet, golden_inception
from tests.sample.conftest import bundles, models, tokenizer  # noqa: F401

CLASSES = ("a big r circle", "a small g circle", "a big b circle")


def pictures(count, px=8):
    return np.random.default_rng(0).integers(0, 256, (count, px, px, 3), np.uint8)


@pytest.fixture(scope="module")
def clip(bundles):  # noqa: F811
    return extractors.load(f"clip:{bundles['clip']}", classes=CLASSES, batch_size=4)


def test_a_clip_is_named_and_gives_pool_and_logits_of_its_classes_but_nothing_spatial(
    clip,
):
    found = clip(pictures(6))
    assert isinstance(clip, extractors.Extractor)
    assert (clip.name, clip.px, len(clip.digest)) == ("noised_clip", 8, 12)
    assert (found.pool.shape, found.logits.shape) == ((6, 16), (6, 3))
    assert found.spatial is None
    assert {a.dtype for a in (found.pool, found.logits)} == {np.dtype(np.float32)}


def test_clip_features_have_a_mean_square_of_one(clip):
    # Rounding of float32 over 16 numbers.
    np.testing.assert_allclose((clip(pictures(6)).pool ** 2).mean(1), 1, rtol=1e-5)


def test_features_depend_neither_on_batch_size_nor_on_order(clip, models):  # noqa: F811
    shown, model = pictures(7), models["clip"]
    whole = clip(shown)
    one_by_one = [clip(shown[i : i + 1]) for i in range(7)]
    turned = clip(shown[::-1])
    # Programs of other batch sizes may add up in another order.
    for ours, parts, back in zip(
        (whole.pool, whole.logits),
        (
            [one.pool for one in one_by_one],
            [one.logits for one in one_by_one],
        ),
        (turned.pool, turned.logits),
        strict=True,
    ):
        np.testing.assert_allclose(ours, np.concatenate(parts), atol=1e-4)
        np.testing.assert_allclose(ours, back[::-1], atol=1e-4)
    assert np.ptp(whole.pool, axis=0).max() > 0.1, "pictures must differ"
    assert model.config.model.image_px == clip.px


def similarity(clip, shown, captions) -> np.ndarray:
    """Cosine of each picture and the caption in its row: features have norm sqrt(d)."""
    pool = clip(shown).pool
    return np.sum(pool * clip.text_features(captions), axis=1) / pool.shape[1]


def test_features_have_the_cosine_that_chooses_among_candidates(clip, models):  # noqa: F811
    shown, captions = pictures(5), [CLASSES[i % 3] for i in range(5)]
    expected = rerank.make_scorer(models["clip"])(shown, captions, 5)
    found = similarity(clip, shown, captions)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # float32, cosines


def test_logits_are_cosines_to_the_classes_at_the_models_own_temperature(clip, models):  # noqa: F811
    shown, model = pictures(3), models["clip"]
    scale = float(model.fns.logit_scale(model.params))
    expected = np.stack([similarity(clip, shown, [c] * 3) for c in CLASSES], axis=1)
    np.testing.assert_allclose(clip(shown).logits, scale * expected, rtol=1e-4)


def test_pictures_of_another_size_are_read_as_training_reads_them(clip):
    shown = pictures(3)
    # Halved by box means twice: each pixel four times over comes back as it was.
    large = shown.repeat(4, axis=1).repeat(4, axis=2)
    np.testing.assert_array_equal(clip(large).pool, clip(shown).pool)
    # Of a wide picture the middle square.
    wide = np.concatenate([shown, shown, shown], axis=2)
    np.testing.assert_array_equal(clip(wide).pool, clip(shown).pool)


def test_bad_specifications_are_refused_in_one_line(bundles, tmp_path):  # noqa: F811
    damaged = tmp_path / "damaged"
    shutil.copytree(bundles["clip"], damaged)
    weights = damaged / "params.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    cases = {
        "clip": "of a known kind",
        "vgg:weights": "of a known kind",
        "inception": "of a known kind",
        f"inception:{weights}": "published file of Inception",
        f"inception_tf1:{tmp_path / 'absent.pth'}": "is not a file",
        "clip:": "of a known kind",
        "efficientnet_lite0:": "of a known kind",
        f"efficientnet_lite0:{weights}": "does not have the weights of EfficientNet",
        f"clip:{tmp_path}": "is not a bundle",
        f"clip:{bundles['base']}": "the bundle of a noised CLIP",
        f"clip:{damaged}": "SHA-256 differs",
    }
    for spec, reason in cases.items():
        with pytest.raises(errors.UserError, match=reason) as caught:
            extractors.load(spec)
        assert "\n" not in str(caught.value)


def test_classes_are_for_a_clip_and_more_than_one(bundles, tmp_path):  # noqa: F811
    with pytest.raises(errors.UserError, match="1008 of its own"):
        extractors.load(f"inception:{tmp_path / 'weights.pth'}", classes=CLASSES)
    with pytest.raises(errors.UserError, match="1000 of its own"):
        extractors.load("efficientnet_lite0", classes=CLASSES)
    with pytest.raises(errors.UserError, match="at least two"):
        extractors.load(f"clip:{bundles['clip']}", classes=["a circle"])


def test_no_picture_is_refused(clip):
    with pytest.raises(errors.UserError, match="no pictures"):
        clip(pictures(0))


def test_efficientnet_gives_pool_and_logits_but_nothing_spatial(tmp_path, monkeypatch):
    tensors = golden_efficientnet.state_dict()
    tensor_files.write(tmp_path / efficientnet.CACHED, tensors)
    monkeypatch.setenv(user_cache.FOLDER_VARIABLE, str(tmp_path))
    digest = efficientnet.content_digest(tensors)
    monkeypatch.setattr(efficientnet, "CONTENT_DIGEST", digest)
    extractor = extractors.load("efficientnet_lite0")
    assert isinstance(extractor, extractors.Extractor)
    assert (extractor.name, extractor.digest) == ("efficientnet_lite0", "579344248a93")
    found = extractor(golden_efficientnet.pictures())
    assert found.spatial is None
    for ours, theirs in zip(
        (found.pool, found.logits), golden_efficientnet.answers("drawn"), strict=True
    ):
        # As in tests/models/test_efficientnet.py.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_the_inception_sees_what_pytorch_sees_in_a_padded_batch(monkeypatch):
    read = {"weights.pth": (golden_inception.params(), "6726825d" * 8)}
    monkeypatch.setattr(inception, "read", read.get)
    extractor = extractors.load("inception:weights.pth", batch_size=4)
    assert isinstance(extractor, extractors.Extractor)
    assert (extractor.name, extractor.digest) == ("inception", "6726825d6726")
    found = extractor(golden_inception.pictures(64)[[0, 1, 0]])
    for ours, theirs in zip(
        found, golden_inception.answers("pytorch_fid", 64), strict=True
    ):
        # As in tests/models/test_inception.py.
        np.testing.assert_allclose(ours, theirs[[0, 1, 0]], rtol=0, atol=5e-5)


def test_features_are_the_same_over_a_mesh(bundles, clip, tmp_path):  # noqa: F811
    saved = tmp_path / "found.npz"
    fake_devices.run_with_devices(f"""
        import numpy as np
        from glide_jax.config import defaults
        from glide_jax.eval import extractors
        from glide_jax.parallel import device_mesh
        mesh = device_mesh.make_mesh(defaults.MeshConfig(data=4, fsdp=2))
        clip = extractors.load(
            "clip:{bundles["clip"]}", mesh=mesh, classes={CLASSES!r}, batch_size=4
        )
        shown = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
        found = clip(shown)
        np.savez("{saved}", pool=found.pool, logits=found.logits)
    """)
    expected = clip(pictures(7))
    with np.load(saved) as found:
        np.testing.assert_allclose(found["pool"], expected.pool, atol=1e-4)
        np.testing.assert_allclose(found["logits"], expected.logits, atol=1e-4)


@pytest.mark.slow
def test_the_inception_over_a_mesh_sees_what_pytorch_sees(tmp_path):
    saved = tmp_path / "found.npz"
    fake_devices.run_with_devices(
        f"""
        import numpy as np
        from glide_jax.config import defaults
        from glide_jax.eval import extractors
        from glide_jax.parallel import device_mesh
        from tests.models import golden_inception
        mesh = device_mesh.make_mesh(defaults.MeshConfig(data=4, fsdp=2))
        extractor = extractors.InceptionExtractor(
            golden_inception.params(), "inception_tf1", "6726825d", mesh=mesh
        )
        np.savez("{saved}", *extractor(golden_inception.pictures(64)))
        """,
        timeout_secs=300,
    )
    with np.load(saved) as found:
        answers = golden_inception.answers("tf1", 64)
        for i, theirs in enumerate(answers):
            np.testing.assert_allclose(found[f"arr_{i}"], theirs, rtol=0, atol=5e-5)
