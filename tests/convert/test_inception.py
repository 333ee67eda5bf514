"""Conversion of Inception's published file."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from glide_jax.convert import inception
from glide_jax.errors import UserError
from glide_jax.models import inception as network
from tests.models import golden_inception as golden


def test_converted_parameters_have_the_networks_shapes():
    tensors = golden.state_dict()
    # 94 convolutions with a batch norm of 4 tensors each, and the classifier.
    assert len(tensors) == 94 * 5 + 2
    # As many numbers as pytorch-fid's network has, its counters left out.
    assert sum(tensor.size for tensor in tensors.values()) == 23_885_392
    assert _shapes(golden.params()) == _shapes(network.abstract_params())


def test_a_folded_batch_norm_equals_the_norm():
    tensors = golden.state_dict()
    params = golden.params()["Mixed_7c"]["branch_pool"]
    x = np.random.default_rng(0).standard_normal(2048)
    part = {
        name: tensors[f"Mixed_7c.branch_pool.{name}"].astype(np.float64)
        for name in (
            "conv.weight",
            "bn.weight",
            "bn.bias",
            "bn.running_mean",
            "bn.running_var",
        )
    }
    centred = part["conv.weight"][:, :, 0, 0] @ x - part["bn.running_mean"]
    normed = centred / np.sqrt(part["bn.running_var"] + 1e-3)
    expected = normed * part["bn.weight"] + part["bn.bias"]
    ours = x @ params["kernel"][0, 0] + params["bias"]
    np.testing.assert_allclose(ours, expected, atol=1e-5)  # kernels are float32


def test_counters_are_ignored_and_other_tensors_are_errors():
    tensors = golden.state_dict()
    counter = {"Mixed_5b.branch1x1.bn.num_batches_tracked": np.int64(3)}
    inception.from_torch(tensors | counter)
    without = {name: a for name, a in tensors.items() if name != "fc.bias"}
    turned = tensors | {"fc.weight": tensors["fc.weight"].T}
    aux = tensors | {"AuxLogits.fc.bias": tensors["fc.bias"]}
    for wrong, name in (
        (without, "fc.bias"),
        (turned, "fc.weight"),
        (aux, "AuxLogits.fc.bias"),
    ):
        with pytest.raises(UserError, match=f"1 tensor .*{name}"):
            inception.from_torch(wrong)


def test_another_file_is_an_error_before_it_is_opened(tmp_path):
    text = tmp_path / inception.PUBLISHED
    text.write_text("not weights")
    cases = {
        tmp_path / "absent.pth": "is not a file",
        tmp_path: "is not a file",
        text: "published file",
    }
    for path, reason in cases.items():
        with pytest.raises(UserError, match=reason) as caught:
            inception.read(path)
        assert "\n" not in str(caught.value)
        assert inception.PUBLISHED in str(caught.value)


def test_the_file_with_the_right_digest_is_read(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    tensors = golden.state_dict()
    path = tmp_path / "weights.pth"
    torch.save({name: torch.from_numpy(a) for name, a in tensors.items()}, path)
    monkeypatch.setattr(inception, "DIGEST", "")  # that of any file
    params, digest = inception.read(path)
    assert len(digest) == 64
    jax.tree.map(np.testing.assert_array_equal, params, golden.params())


def test_without_pytorch_the_remedy_is_named(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"")
    monkeypatch.setattr(inception, "DIGEST", "")
    monkeypatch.setattr(inception.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\.\[torch\]"):
        inception.read(path)


def _shapes(tree):
    return {
        path: tuple(leaf.shape) for path, leaf in inception.bundle.flatten(tree).items()
    }
