"""Reads and writes files of named tensors: .safetensors, and PyTorch's .pt.

.pt files require PyTorch. Arrays keep their stored dtype; bfloat16 is ml_dtypes'.
"""

from __future__ import annotations

import pathlib
import pickle
import struct
import types
import warnings
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from glide_jax import array_types
from glide_jax.errors import UserError
from glide_jax.runtime import files

SAFETENSORS, TORCH = (".safetensors",), (".pt", ".pth")
# Errors that PyTorch's reader raises for truncated, modified and arbitrary files.
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
    """Raises UserError unless files with this suffix can be read and written here."""
    if path.suffix in TORCH:
        _import_torch(path)
    elif path.suffix not in SAFETENSORS:
        raise UserError(
            f"{path} is neither .safetensors nor .pt; use one of these suffixes"
        )


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads every tensor of a file, by its name.

    A .pt file is read as data only, so that it cannot run code.

    Raises:
      UserError: another suffix, a .pt file without PyTorch, or a file that cannot be
        read or is not a plain dict of tensors.
    """
    check_format(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a file of tensors")
    try:
        if path.suffix in TORCH:
            return _read_torch(path)
        return _read_safetensors(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); give a readable file"
        ) from error


def write(path: pathlib.Path, tensors: Mapping[str, array_types.Array]) -> None:
    """Writes a file atomically, and creates its folder.

    Raises:
      UserError: another suffix, a .pt file without PyTorch, or a path that cannot be
        written.
    """
    check_format(path)
    write_format = _write_torch if path.suffix in TORCH else _write_safetensors
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.scratch(path, is_shared=True) as draft:
            write_format(draft, tensors)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        # Both libraries have their own errors for a full disk.
        raise UserError(
            f"{path} cannot be written ({_one_line(error)}); give a writable path with "
            "enough space for the tensors"
        ) from error


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, AttributeError, TypeError) as error:
        # The last two are raised for dtypes that numpy lacks, such as 8-bit floats.
        raise UserError(
            f"{path} is not a valid safetensors file ({_one_line(error)}); copy it "
            "again"
        ) from error


def _write_safetensors(
    path: pathlib.Path, tensors: Mapping[str, array_types.Array]
) -> None:
    # The library writes the buffer and ignores its strides.
    dense = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    safetensors.numpy.save_file(dense, path)


def _import_torch(path: pathlib.Path) -> types.ModuleType:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} requires PyTorch, which cannot be imported ({_one_line(error)}); "
            'pip install -e ".[torch]", or use a .safetensors file'
        ) from error
    return torch


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    torch = _import_torch(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} does not have tensors only: it is damaged, or loading it would "
            "run code, which is not allowed; download the published weights"
        ) from error
    except _DAMAGED as error:
        raise UserError(
            f"{path} is not a complete PyTorch file ({_one_line(error)}); copy it again"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in content.items()
    ):
        raise UserError(
            f"{path} has a {type(content).__name__} that is not a plain dict of names "
            "to tensors; save model.state_dict() only"
        )
    return {name: _to_numpy(torch, path, name, content[name]) for name in content}


def _to_numpy(
    torch: types.ModuleType, path: pathlib.Path, name: str, tensor: Any
) -> np.ndarray:
    tensor = tensor.detach()
    try:
        if tensor.dtype == torch.bfloat16:
            # numpy has no bfloat16, so the bits are copied as integers.
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{path}: tensor {name!r} is {tensor.dtype} {tensor.layout}, not a plain "
            "array; save it as float32, float16 or bfloat16"
        ) from error


def _write_torch(path: pathlib.Path, tensors: Mapping[str, array_types.Array]) -> None:
    torch = _import_torch(path)

    def to_tensor(array: array_types.Array) -> Any:
        # A copy, since PyTorch shares memory and jax arrays are immutable.
        copied = np.array(array, order="C")
        if copied.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(copied.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(copied)

    # A file, not its name, which PyTorch would store in the archive.
    with path.open("wb") as file:
        torch.save({name: to_tensor(array) for name, array in tensors.items()}, file)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
