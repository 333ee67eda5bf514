"""Files of tensors: exact round trips and errors."""

import struct
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from glide_jax.convert import tensor_files
from glide_jax.errors import UserError

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def make_tensors(dtype):
    values = np.random.default_rng(0).standard_normal((3, 4, 2))
    # A transposed view, a scalar and nothing at all.
    return {
        "a.weight": values.astype(dtype).transpose(2, 0, 1),
        "scale": np.asarray(2.5, dtype),
        "none": np.zeros((0, 3), dtype),
    }


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert actual[name].shape == tensor.shape
        assert actual[name].tobytes() == tensor.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_round_trip_is_exact(tmp_path, dtype):
    tensor_files.write(tmp_path / "a.safetensors", make_tensors(dtype))
    assert_same(tensor_files.read(tmp_path / "a.safetensors"), make_tensors(dtype))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_written_file_has_default_permissions(tmp_path):
    tensor_files.write(tmp_path / "a.safetensors", make_tensors(np.float32))
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def header(text):
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not found</html>",
        b"\xff" * 100,
        header(b"[]"),
        header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'),
        header(b'{"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}x'),
    ],
    ids=["empty", "page", "bytes", "list", "cut", "8_bit_floats"],
)
def test_an_invalid_safetensors_file_is_an_error(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        tensor_files.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_truncated_file_is_an_error(tmp_path):
    whole = safetensors.numpy.save({"a": np.zeros(100, np.float32)})
    path = tmp_path / "a.safetensors"
    for length in (1, 8, 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="copy it again"):
            tensor_files.read(path)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("absent.safetensors", "is not a file"),
        ("folder.safetensors", "is not a file"),
        ("weights.bin", r"neither \.safetensors nor \.pt"),
    ],
)
def test_a_path_that_is_not_a_file_of_tensors_is_an_error(tmp_path, name, named):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "weights.bin").touch()
    with pytest.raises(UserError, match=named):
        tensor_files.read(tmp_path / name)


def test_without_pytorch_a_pt_file_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it now fails
    (tmp_path / "a.pt").touch()
    for use in (
        lambda: tensor_files.read(tmp_path / "a.pt"),
        lambda: tensor_files.write(tmp_path / "b.pt", {}),
    ):
        with pytest.raises(UserError) as caught:
            use()
        assert ".[torch]" in str(caught.value)
        assert ".safetensors" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_path_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written") as caught:
        tensor_files.write(tmp_path / "file" / "a.safetensors", {})
    assert "\n" not in str(caught.value)
