"""Files of named tensors: .safetensors, and PyTorch's .pt where PyTorch is installed.

Arrays keep the type they are stored in; bfloat16 is that of ml_dtypes.
"""

from __future__ import annotations

import pathlib
import pickle
import struct
import types
import warnings
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from glide_jax.errors import UserError
from glide_jax.runtime import files

SAFETENSORS, TORCH = (".safetensors",), (".pt", ".pth")
# What PyTorch's reader raises over bytes that no PyTorch wrote, as found by feeding it
# cut, altered and arbitrary files.
_DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def check_format(path: pathlib.Path) -> None:
    """Raises UserError unless this machine can read and write files named like this."""
    if path.suffix in TORCH:
        _import_torch(path)
    elif path.suffix not in SAFETENSORS:
        raise UserError(
            f"{path} is neither .safetensors nor .pt; name a file of one of these"
        )


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Every tensor of the file by its name.

    A .pt file is read as data only: one that would run code is refused before it does.

    Raises:
      UserError: another suffix, no PyTorch for a .pt, or a file that cannot be read or
        is no plain dict of tensors.
    """
    check_format(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file; name a file of tensors")
    try:
        if path.suffix in TORCH:
            return _read_torch(path)
        return _read_safetensors(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); name a file that you "
            "may read"
        ) from error


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file, its folder made; it appears whole or not at all.

    Raises:
      UserError: another suffix, no PyTorch for a .pt, or a place that cannot be
        written.
    """
    check_format(path)
    write_format = _write_torch if path.suffix in TORCH else _write_safetensors
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.scratch(path) as draft:
            write_format(draft, tensors)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        # Both libraries have errors of their own for a full disk.
        raise UserError(
            f"{path} cannot be written ({_one_line(error)}); name a place that you may "
            "write, with room for the tensors"
        ) from error


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, AttributeError, TypeError) as error:
        # The last two: of types that numpy lacks, such as 8-bit floats.
        raise UserError(
            f"{path} is not a safetensors file that can be read ({_one_line(error)}); "
            "copy it again"
        ) from error


def _write_safetensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    # The library writes the buffer as it lies, whatever the strides say.
    dense = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    safetensors.numpy.save_file(dense, path)


def _import_torch(path: pathlib.Path) -> types.ModuleType:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} takes PyTorch, which cannot be imported ({_one_line(error)}); "
            'pip install -e ".[torch]", or use a .safetensors file, which needs none'
        ) from error
    return torch


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    torch = _import_torch(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a file of tensors alone; it is damaged, or loading it "
            "would run code, which is never done: get the published weights"
        ) from error
    except _DAMAGED as error:
        raise UserError(
            f"{path} is not a whole PyTorch file ({_one_line(error)}); copy it again"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in content.items()
    ):
        raise UserError(
            f"{path} holds a {type(content).__name__} that is no plain dict of names "
            "to tensors; save model.state_dict() alone"
        )
    return {name: _to_numpy(torch, path, name, content[name]) for name in content}


def _to_numpy(torch, path, name, tensor) -> np.ndarray:
    tensor = tensor.detach()
    try:
        if tensor.dtype == torch.bfloat16:
            # numpy has no bfloat16 of its own: the bits pass as integers.
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{path}: tensor {name!r} is {tensor.dtype} {tensor.layout}, not a plain "
            "array; save it as float32, float16 or bfloat16"
        ) from error


def _write_torch(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    torch = _import_torch(path)

    def to_tensor(array):
        # A copy: PyTorch shares the memory, and arrays of jax must not be written to.
        array = np.array(array, order="C")
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    # A file, not its name, which PyTorch would store in the archive.
    with path.open("wb") as file:
        torch.save({name: to_tensor(array) for name, array in tensors.items()}, file)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
