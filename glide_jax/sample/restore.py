"""What a sampling bundle holds, ready to run: configuration, model, weights, tokenizer.

Nothing here knows how a model was trained: no optimizer, data set or trainer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from glide_jax import errors, shapes
from glide_jax.checkpoint import bundle
from glide_jax.config import defaults, resolve
from glide_jax.models import build
from glide_jax.text import tokenizers


@dataclasses.dataclass(frozen=True)
class SampleModel:
    """One model of a cascade.

    Attributes:
        config: The run that trained it; its `sample` section holds the defaults.
        fns: Pure functions of the model.
        params: float32, on the default device.
        tokenizer: What turns captions into this model's tokens.
        folder: The bundle it came from; messages name it.
    """

    config: defaults.Config
    fns: build.DenoiserFns | build.ClipFns
    params: shapes.Params
    tokenizer: tokenizers.Tokenizer
    folder: pathlib.Path


def load_bundle(folder: str | pathlib.Path) -> SampleModel:
    """The model in a bundle that `glide export` wrote.

    Raises:
        UserError: Not a bundle, a damaged one, or weights of another shape than its
            configuration asks for.
    """
    content = bundle.read_bundle(pathlib.Path(folder))
    config = resolve.from_json(content.config_json)
    is_clip = isinstance(config.model, defaults.NoisedClipConfig)
    fns = (build.make_clip if is_clip else build.make_denoiser)(config.model)
    expected = jax.eval_shape(fns.init, jax.random.key(0))
    _check_shapes(content.params, expected, content.folder)
    # Weights stored in half precision are computed with as any others.
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), content.params)
    return SampleModel(
        config, fns, params, tokenizers.load(content.folder), content.folder
    )


def bundle_digest(folder: pathlib.Path) -> str:
    """sha256 over the bundle's list of file digests: names weights and settings."""
    return hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest()


def _check_shapes(
    params: shapes.Params, expected: shapes.Params, folder: pathlib.Path
) -> None:
    found, wanted = _shapes_by_path(params), _shapes_by_path(expected)
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise errors.UserError(
                f"bundle {folder}: tensor {path} has shape {found.get(path)}, its "
                f"config.json asks for {wanted.get(path)}; export the model again"
            )


def _shapes_by_path(tree: shapes.Params) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf)
        for path, leaf in leaves
    }
