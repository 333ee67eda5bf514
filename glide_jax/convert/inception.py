"""The published weights of FID's InceptionV3 as our parameter tree.

The file is pytorch-fid's, made from the TensorFlow graph that FID was defined by. Its
name ends, as PyTorch's hub wants it, in the first digits of its SHA-256.
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
DIGEST = "6726825d"  # how the published file's SHA-256 begins
BATCH_NORM_EPSILON = 1e-3  # published
_CLASSIFIER = {
    "fc.weight": (inception.NUM_CLASSES, inception.POOL),
    # The Inception Score of OpenAI's evaluator leaves it out.
    "fc.bias": (inception.NUM_CLASSES,),
}
# PyTorch's counter of training steps: not in every file, and of no use here.
_COUNTER = ".bn.num_batches_tracked"


def read(path: str | pathlib.Path) -> tuple[array_types.Params, str]:
    """Parameters for `models.inception` and the SHA-256 of the published file.

    Raises:
      UserError: no such file, one that is not the published one, or no PyTorch to
        read it with.
    """
    path = paths.local_path(path, "inception")
    digest = _sha256(path)
    if not digest.startswith(DIGEST):
        raise UserError(
            f"{path} is not the Inception's published weights (its SHA-256 begins with "
            f"{digest[: len(DIGEST)]}, theirs with {DIGEST}); get {PUBLISHED} from the "
            "releases of mseitzer/pytorch-fid"
        )
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            f"{path} takes PyTorch to read, which is not installed; pip install "
            '-e ".[torch]"'
        )
    return from_torch(tensor_files.read(path)), digest


def from_torch(tensors: Mapping[str, np.ndarray]) -> array_types.Params:
    """Parameters for `models.inception`, every batch norm folded into its convolution.

    Args:
      tensors: every tensor of the network by its PyTorch name.

    Raises:
      UserError: a tensor that is missing, too much or of another shape.
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
    """Kernel and bias that do what convolution and batch norm do together."""
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


@functools.cache  # tracing the network takes most of a second
def _convolutions() -> dict[str, tuple[int, ...]]:
    """Where every convolution lies -> the shape of its kernel."""
    leaves = bundle.flatten(inception.abstract_params())
    return {
        path.removesuffix("/kernel"): leaf.shape
        for path, leaf in leaves.items()
        if path.endswith("/kernel")
    }


def _check(tensors: Mapping[str, np.ndarray]) -> None:
    expected = torch_shapes()
    found = {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if not name.endswith(_COUNTER)
    }
    wrong = [
        name
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if wrong:
        raise UserError(
            f"{wording.counted(len(wrong), 'tensor')} differ from FID's"
            " Inception, the first: "
            f"{wrong[0]!r} has shape {found.get(wrong[0])}, not "
            f"{expected.get(wrong[0])}; get {PUBLISHED}"
        )


def _sha256(path: pathlib.Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} is not a file; name the downloaded {PUBLISHED}")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); name a file that you "
            "may read"
        ) from error
