"""Converts the published weights of FID's InceptionV3 to a parameter tree.

The file is pytorch-fid's, converted from the TensorFlow graph that defines FID. Its
name ends in the first digits of its SHA-256, as PyTorch's hub requires.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import pathlib
from collections.abc import Mapping

import numpy as np

from glide_jax import array_types
from glide_jax.checkpoint import bundle
from glide_jax.convert import tensor_files
from glide_jax.errors import UserError
from glide_jax.models import inception
from glide_jax.runtime import paths, wording

PUBLISHED = "pt_inception-2015-12-05-6726825d.pth"
DIGEST = "6726825d"  # first digits of the published file's SHA-256
BATCH_NORM_EPSILON = 1e-3  # published
_CLASSIFIER = {
    "fc.weight": (inception.NUM_CLASSES, inception.POOL),
    # Not used: the Inception Score of OpenAI's evaluator omits the bias.
    "fc.bias": (inception.NUM_CLASSES,),
}
# PyTorch's counter of training steps: not in every file, and ignored.
_COUNTER = ".bn.num_batches_tracked"


def read(path: str | pathlib.Path) -> tuple[array_types.Params, str]:
    """Reads the parameters of `models.inception`, and the file's SHA-256.

    Raises:
      UserError: the file does not exist or is not the published one, or PyTorch is
        not installed.
    """
    path = paths.local_path(path, "inception")
    digest = _sha256(path)
    if not digest.startswith(DIGEST):
        raise UserError(
            f"{path} is not the published file of Inception's weights (its SHA-256 "
            f"starts with {digest[: len(DIGEST)]}, not {DIGEST}); download {PUBLISHED} "
            "from the releases of mseitzer/pytorch-fid"
        )
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            f"{path} is a PyTorch file, but PyTorch is not installed; pip install "
            '-e ".[torch]"'
        )
    return from_torch(tensor_files.read(path)), digest


def from_torch(tensors: Mapping[str, np.ndarray]) -> array_types.Params:
    """Returns the parameters of `models.inception`, with batch norms folded.

    Args:
      tensors: every tensor of the network by its PyTorch name.

    Raises:
      UserError: a tensor that is missing, unknown or of another shape.
    """
    _check(tensors)
    params = {"fc": np.ascontiguousarray(tensors["fc.weight"].T)}
    for path in _convolutions():
        folded = _fold(tensors, path.replace("/", "."))
        params |= {f"{path}/{name}": array for name, array in folded.items()}
    return bundle.nest(params)


def torch_shapes() -> dict[str, tuple[int, ...]]:
    """PyTorch name -> shape of every tensor that the network is made of."""
    expected: dict[str, tuple[int, ...]] = dict(_CLASSIFIER)
    for path, shape in _convolutions().items():
        height, width, in_channels, channels = shape
        name = path.replace("/", ".")
        expected[f"{name}.conv.weight"] = (channels, in_channels, height, width)
        for part in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{name}.bn.{part}"] = (channels,)
    return expected


def _fold(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Returns kernel and bias equal to a convolution and its batch norm."""
    scale, bias, mean, variance = (
        tensors[f"{name}.bn.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    gain = scale / np.sqrt(variance + BATCH_NORM_EPSILON)
    kernel = tensors[f"{name}.conv.weight"].transpose(2, 3, 1, 0)
    return {
        "kernel": np.multiply(kernel, gain.astype(np.float32), order="C"),
        "bias": (bias - mean * gain).astype(np.float32),
    }


@functools.cache  # tracing the network takes 0.5 s
def _convolutions() -> dict[str, tuple[int, ...]]:
    """Returns the path of each convolution and the shape of its kernel."""
    leaves = bundle.flatten(inception.abstract_params())
    return {
        path.removesuffix("/kernel"): leaf.shape
        for path, leaf in leaves.items()
        if path.endswith("/kernel")
    }


def _check(tensors: Mapping[str, np.ndarray]) -> None:
    expected = torch_shapes()
    actual = {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if not name.endswith(_COUNTER)
    }
    wrong = [
        name
        for name in sorted(expected.keys() | actual.keys())
        if expected.get(name) != actual.get(name)
    ]
    if wrong:
        raise UserError(
            f"{wording.counted(len(wrong), 'tensor')} differ from FID's"
            " Inception, the first: "
            f"{wrong[0]!r} has shape {actual.get(wrong[0])}, not "
            f"{expected.get(wrong[0])}; download {PUBLISHED}"
        )


def _sha256(path: pathlib.Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the downloaded {PUBLISHED}")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); give a readable file"
        ) from error
