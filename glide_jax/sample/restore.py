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

from glide_jax import shapes
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
        params: On the default device; see `load_bundle` for their types.
        tokenizer: What turns captions into this model's tokens.
        folder: The bundle it came from; messages name it.
    """

    config: defaults.Config
    fns: build.DenoiserFns | build.ClipFns
    params: shapes.Params
    tokenizer: tokenizers.Tokenizer
    folder: pathlib.Path


def load_bundle(
    folder: str | pathlib.Path, *, param_dtype: str = "float32"
) -> SampleModel:
    """The model in a bundle that `glide export` wrote.

    Args:
        folder: The bundle.
        param_dtype: Of the layers' matrices in memory, "float32" or "bfloat16", which
            takes half of it. Layers cast them to their own type in any case, so a
            bundle stored in bfloat16 draws the same either way. Norms, biases,
            embeddings and the CLIP's temperature are float32 always: some are added
            up before any layer casts them.

    Raises:
        UserError: Not a bundle, a damaged one, or weights of another shape than its
            configuration asks for.
    """
    content = bundle.read_bundle(pathlib.Path(folder))
    config = resolve.from_json(content.config_json)
    is_clip = isinstance(config.model, defaults.NoisedClipConfig)
    fns = (build.make_clip if is_clip else build.make_denoiser)(config.model)
    where = f"bundle {content.folder}"
    params = build.checked_params(content.params, config.model, where)
    return SampleModel(
        config,
        fns,
        _on_device(params, param_dtype),
        tokenizers.load(content.folder),
        content.folder,
    )


def _on_device(params: shapes.Params, param_dtype: str) -> shapes.Params:
    def put(path: jax.tree_util.KeyPath, leaf: np.ndarray) -> jax.Array:
        is_matrix = path[-1].key == "kernel"
        return jnp.asarray(leaf, param_dtype if is_matrix else jnp.float32)

    return jax.tree_util.tree_map_with_path(put, params)


def bundle_digest(folder: pathlib.Path) -> str:
    """sha256 over the bundle's list of file digests: names weights and settings."""
    return hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest()
