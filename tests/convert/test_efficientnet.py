"""The weights of EfficientNet-Lite0: the published file, the kept one, and others."""

from __future__ import annotations

import importlib.util
import pathlib

import jax
import matplotlib
import numpy as np
import pytest

from glide_jax.convert import efficientnet, tensor_files
from glide_jax.errors import UserError
from glide_jax.models import efficientnet as network
from glide_jax.runtime import user_cache
from glide_jax.sample import image_io
from tests.models import golden_efficientnet as golden

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(efficientnet.PACKAGE) is None,
    reason='needs pip install -e ".[judge]"',
)
MILITARY_UNIFORM = 652  # class of ImageNet


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch) -> pathlib.Path:
    """The file of an empty cache folder."""
    monkeypatch.setenv(user_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / efficientnet.CACHED


@pytest.fixture
def uninstalled(monkeypatch):
    monkeypatch.setattr(efficientnet.importlib.util, "find_spec", lambda name: None)


def test_converted_parameters_have_the_networks_shapes():
    tensors = golden.state_dict()
    # 49 convolutions with a batch norm of 4 tensors each, and the classifier.
    assert len(tensors) == 49 * 5 + 2
    # The published file has these, and a counter for each norm.
    assert sum(tensor.size for tensor in tensors.values()) == 4_694_073 - 49
    shapes = [
        jax.tree.map(np.shape, params)
        for params in (golden.params(), network.abstract_params())
    ]
    assert shapes[0] == shapes[1]


@needs_package
def test_the_published_weights_are_read_once_and_see_what_pytorch_sees(
    cached, monkeypatch
):
    params = efficientnet.read()
    found = jax.jit(network.extract)(params, golden.pictures())
    for ours, theirs in zip(found, golden.answers("published"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    monkeypatch.setattr(efficientnet.importlib.util, "find_spec", lambda name: None)
    for again in (efficientnet.read(), efficientnet.read(cached)):
        jax.tree.map(np.testing.assert_array_equal, again, params)


@needs_package
def test_a_photograph_has_its_class():
    folder = pathlib.Path(matplotlib.get_data_path(), "sample_data")
    pixels = image_io.read_image(folder / "grace_hopper.jpg")  # a rear admiral
    found = jax.jit(network.extract)(efficientnet.read(), pixels[None])
    assert np.argmax(found.logits) == MILITARY_UNIFORM


def test_the_kept_weights_need_no_package(cached, uninstalled, monkeypatch):
    tensors = golden.state_dict()
    tensor_files.write(cached, tensors)
    digest = efficientnet.content_digest(tensors)
    monkeypatch.setattr(efficientnet, "CONTENT_DIGEST", digest)
    jax.tree.map(np.testing.assert_array_equal, efficientnet.read(), golden.params())


def test_other_weights_are_an_error_in_one_line(cached, uninstalled, tmp_path):
    other = tmp_path / "other.pth"
    other.write_bytes(b"weights")
    cases = {"": r"\.\[judge\]", tmp_path / "absent.pth": "not a file"}
    cases |= {tmp_path: "not a file", other: "its SHA-256 starts with"}
    for path, reason in cases.items():
        with pytest.raises(UserError, match=reason) as caught:
            efficientnet.read(path)
        assert "\n" not in str(caught.value)
    tensor_files.write(cached, golden.state_dict())
    for path in ("", cached):
        with pytest.raises(UserError, match=r"does not have the weights .* delete it"):
            efficientnet.read(path)
