"""The sampling bundle: everything a sampler needs of a model, in one folder.

params.safetensors  parameters, named by their path joined with "/"
config.json         every setting of the run
README.md           the model card
bundle.json         {"format": 1, "sha256": {file: digest}}
...                 the tokenizer's files and other files of the model
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Collection, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, and so with safetensors
import numpy as np
import safetensors
import safetensors.numpy

from glide_jax import array_types
from glide_jax.errors import UserError
from glide_jax.runtime import files

# Raised when a bundle changes so that older readers would misread it; `_as_current`
# then converts the older formats.
FORMAT = 1
PARAMS, CONFIG, CARD, MARK = (
    "params.safetensors",
    "config.json",
    "README.md",
    "bundle.json",
)
# Read by other libraries: transformers accepts pt, tf, flax and mlx.
METADATA = {"format": "flax"}


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle in memory: numpy parameters, the config as JSON text, the folder."""

    params: array_types.Params
    config_json: str
    folder: pathlib.Path


def is_bundle(folder: str | pathlib.Path) -> bool:
    """True if the folder contains bundle.json."""
    return (pathlib.Path(folder) / MARK).is_file()


def write_bundle(
    folder: str | pathlib.Path,
    params: array_types.Params,
    config_json: str,
    files: Mapping[str, bytes],
    card: str,
    *,
    dtype: Any = None,
    replaces: Collection[str] = (),
) -> None:
    """Writes a bundle beside `folder`, then moves it into place.

    Args:
      folder: created with its parents; may contain an older bundle, but nothing else.
      params: nested dict of arrays that are fully addressable by this process.
      config_json: the output of `config.resolve.to_json`.
      files: name -> content, of the tokenizer and other files of the model; a name may
        include a folder, as in "program/run.py".
      card: Markdown.
      dtype: storage dtype of floating tensors; None: unchanged.
      replaces: names of other files that the folder may contain; they are deleted.

    Raises:
      UserError: the folder holds something that is not a bundle, or cannot be
        written.
    """
    folder = pathlib.Path(folder).absolute()
    if folder.exists() and not (is_bundle(folder) or _has_only(folder, replaces)):
        raise UserError(
            f"{folder} exists and is not a bundle; give a new folder, or remove it"
        )
    texts = {CONFIG: config_json.encode(), CARD: card.encode()}
    for name in files:
        path = pathlib.PurePosixPath(name)
        if name in (PARAMS, MARK, *texts) or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"a bundle's file may not be named {name!r}")
    try:
        _replace_folder(folder, _stored_tensors(params, dtype), {**texts, **files})
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{folder} cannot be written ({getattr(error, 'strerror', error)}); give a "
            "folder that you may write"
        ) from error


def _replace_folder(
    folder: pathlib.Path,
    tensors: dict[str, np.ndarray],
    contents: Mapping[str, bytes],
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A temporary folder in the target's parent: renames never cross file systems.
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}."
    ) as scratch:
        fresh = pathlib.Path(scratch) / "new"
        fresh.mkdir()
        safetensors.numpy.save_file(tensors, fresh / PARAMS, METADATA)
        for name, content in contents.items():
            (fresh / name).parent.mkdir(exist_ok=True)
            files.write_bytes(fresh / name, content)
        # safetensors creates files that only their owner may read.
        (fresh / PARAMS).chmod((fresh / CONFIG).stat().st_mode)
        digests = {
            path.relative_to(fresh).as_posix(): _sha256(path)
            for path in sorted(fresh.rglob("*"))
            if path.is_file()
        }
        mark = json.dumps({"format": FORMAT, "sha256": digests}, indent=2)
        files.write_text(fresh / MARK, mark + "\n")
        # If killed between the renames, `folder` is missing: see `remedy_of_cut`.
        if folder.exists():
            files.rename(folder, pathlib.Path(scratch) / "old")
        files.rename(fresh, folder)


def read_bundle(folder: str | pathlib.Path) -> Bundle:
    """Reads the bundle in `folder` and checks its digests.

    Raises:
      UserError: not a bundle, of an unknown format, or a file that is missing or
        differs from what was written.
    """
    folder = pathlib.Path(folder).absolute()
    if not is_bundle(folder):
        raise UserError(
            f"{folder} is not a bundle (it has no {MARK}); {_advice(folder)}"
        )
    try:
        mark = json.loads((folder / MARK).read_bytes())
    except ValueError as error:  # not JSON, or not UTF-8
        raise UserError(f"{folder / MARK} is not JSON; export it again") from error
    digests = _as_current(mark, folder).get("sha256")
    if not isinstance(digests, dict) or not {PARAMS, CONFIG} <= digests.keys():
        raise UserError(
            f"{folder / MARK} lists no digests of {PARAMS} and {CONFIG}; copy or "
            "export the bundle again"
        )
    _check_digests(folder, digests)
    try:
        params = nest(safetensors.numpy.load_file(folder / PARAMS))
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{folder / PARAMS} is not a safetensors file ({error}); export it again"
        ) from error
    return Bundle(params, (folder / CONFIG).read_text(), folder)


def _as_current(mark: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the content of bundle.json in format `FORMAT`, from any older format.

    A bundle without a number has format 1.
    """
    mark = mark if isinstance(mark, dict) else {}
    found = mark.get("format", 1)
    if not isinstance(found, int) or not 1 <= found <= FORMAT:
        raise UserError(
            f"{folder} has bundle format {found!r}, this glide_jax reads formats 1 to "
            f"{FORMAT}; install a newer glide_jax, or export the bundle again"
        )
    return mark


def remedy_of_cut(folder: pathlib.Path) -> str:
    """How to recover a bundle whose replacement was killed; "" if none was."""
    folder = folder.absolute()
    for name in ("new", "old"):
        for left in sorted(folder.parent.glob(f".{folder.name}.*/{name}")):
            if is_bundle(left) and not folder.exists():
                return f"writing it was cut off: mv {left} {folder}"
    return ""


def _advice(folder: pathlib.Path) -> str:
    """What to do about a folder that is not a bundle."""
    if remedy := remedy_of_cut(folder):
        return remedy
    if is_bundle(folder / "bundle"):
        return f"{folder / 'bundle'} is one"
    if (folder / "checkpoints").is_dir():
        return f"make one with glide export {folder}"
    if list(folder.glob("clip-*.safetensors")):
        return "it holds one half of a CLIP: glide convert the other into it"
    return "make one with glide export or glide convert"


def tensor_bytes(params: array_types.Params, dtype: Any) -> bytes:
    """Parameters as the content of a safetensors file, floating ones as `dtype`."""
    return safetensors.numpy.save(_stored_tensors(params, dtype), METADATA)


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by their names in a bundle: the path joined with "/"."""
    flat: dict[str, Any] = {}
    for name, value in params.items():
        if "/" in name:
            raise ValueError(f"{name!r}: a parameter's name may not contain /")
        if isinstance(value, Mapping):
            flat |= {f"{name}/{path}": leaf for path, leaf in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def nest(leaves: Mapping[str, Any]) -> array_types.Params:
    """The inverse of `flatten`."""
    nested: array_types.Params = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return nested


def _check_digests(folder: pathlib.Path, digests: Mapping[str, str]) -> None:
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing; copy or export it again")
        if _sha256(folder / name) != digest:
            raise UserError(
                f"{folder / name} is not the file that was exported (SHA-256 "
                "differs); copy or export it again"
            )


def _has_only(folder: pathlib.Path, names: Collection[str]) -> bool:
    return folder.is_dir() and all(path.name in names for path in folder.iterdir())


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stored_tensors(params: array_types.Params, dtype: Any) -> dict[str, np.ndarray]:
    return {name: _stored(leaf, dtype) for name, leaf in flatten(params).items()}


def _stored(leaf: Any, dtype: Any) -> np.ndarray:
    array = np.asarray(leaf)
    # numpy does not classify bfloat16 as floating.
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    if dtype is not None and is_float:
        array = array.astype(dtype)
    # safetensors writes the raw buffer and ignores strides.
    return np.asarray(array, order="C")
