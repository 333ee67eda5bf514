"""PyTorch files, if PyTorch is installed; they cannot run code."""

import collections
import contextlib
import pathlib

import numpy as np
import pytest

from glide_jax.convert import tensor_files
from glide_jax.errors import UserError
from tests.convert import test_tensor_files as plain

torch = pytest.importorskip("torch")


def refused(path):
    with pytest.raises(UserError) as caught:
        tensor_files.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("dtype", plain.DTYPES)
def test_pytorch_round_trip_is_exact(tmp_path, dtype):
    tensor_files.write(tmp_path / "a.pt", plain.make_tensors(dtype))
    plain.assert_same(tensor_files.read(tmp_path / "a.pt"), plain.make_tensors(dtype))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_a_state_dict_that_pytorch_wrote_is_read(tmp_path, dtype, is_zip):
    module = torch.nn.Linear(3, 2).to(dtype)
    state = collections.OrderedDict(module.named_parameters())  # with gradients
    state["tied"] = state["weight"]
    state["view"] = module.weight.detach().T
    path = tmp_path / "a.pth"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    found = tensor_files.read(path)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype.name == str(dtype).removeprefix("torch.")
        np.testing.assert_array_equal(
            found[name].astype(np.float32), tensor.detach().float().numpy()
        )


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_a_file_that_would_run_code_is_an_error(tmp_path, is_zip):
    path, made = tmp_path / "a.pt", tmp_path / "made"
    content = {"weight": torch.zeros(2), "more": Attack(made)}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    assert "run code" in refused(path)
    assert not made.exists()
    # It is an attack: trusted, it does make the file.
    torch.load(path, weights_only=False)
    assert made.exists()


def test_a_truncated_file_is_an_error(tmp_path):
    path = tmp_path / "a.pt"
    for is_zip in (True, False):
        content = {"weight": torch.zeros(1000)}
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        whole = path.read_bytes()
        for length in (0, 1, 10, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            refused(path)


def test_modified_files_are_errors_or_tensors(tmp_path):
    path = tmp_path / "a.pt"
    rng = np.random.default_rng(0)
    for is_zip in (True, False):
        content = {"weight": torch.zeros(4)}
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(200):
            altered = whole.copy()
            places = rng.integers(0, len(whole), 4)
            altered[places] = rng.integers(0, 256, 4)
            path.write_bytes(altered.tobytes())
            # Any other error fails the test.
            with contextlib.suppress(UserError):
                tensor_files.read(path)
    for length in (3, 50, 5000):
        path.write_bytes(rng.bytes(length))
        refused(path)
    path.write_text("<html>not found</html>")
    refused(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([torch.zeros(2)], "holds a list"),
        (torch.zeros(2), "holds a Tensor"),
        ({"state_dict": {"weight": torch.zeros(2)}}, "not a plain dict"),
        ({0: torch.zeros(2)}, "not a plain dict"),
        ({"weight": torch.zeros(2).to_sparse()}, "not a plain array"),
        ({"weight": torch.zeros(2).to(torch.float8_e4m3fn)}, "not a plain array"),
    ],
    ids=["list", "tensor", "nested", "numbered", "sparse", "8_bit"],
)
def test_content_other_than_a_dict_of_tensors_is_an_error(tmp_path, content, named):
    torch.save(content, tmp_path / "a.pt")
    assert named in refused(tmp_path / "a.pt")
