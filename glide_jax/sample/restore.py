"""Loads a sampling bundle: configuration, model, weights, tokenizer.

Nothing here knows how a model was trained: no optimizer, data set or trainer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from glide_jax import array_types
from glide_jax.checkpoint import bundle
from glide_jax.config import defaults, resolve, validate
from glide_jax.errors import UserError
from glide_jax.models import attention, attention_kernels, build
from glide_jax.parallel import device_mesh, sharding
from glide_jax.runtime import paths
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
    params: array_types.Params
    tokenizer: tokenizers.Tokenizer
    folder: pathlib.Path


def load_bundle(
    folder: str | pathlib.Path,
    *,
    param_dtype: str | None = None,
    compute_dtype: str | None = None,
    mesh: Mesh | None = None,
) -> SampleModel:
    """The model in a bundle that `glide export` wrote.

    Args:
      folder: The bundle.
      param_dtype: Of the layers' matrices in memory, "float32" or "bfloat16", which
          takes half of it; None: the type the model computes in, to which layers
          cast them anyway. Norms, biases, embeddings and the CLIP's temperature are
          float32 always: some are added up before any layer casts them.
      compute_dtype: In which layers compute, in place of the bundle's.
      mesh: Devices to hold the parameters, large ones spread over its fsdp axis;
          None: the default device.

    Raises:
      UserError: Not a bundle, a damaged one, or weights of another shape than its
          configuration asks for.
    """
    content = bundle.read_bundle(paths.local_path(folder, "bundle"))
    config = resolve.from_json(content.config_json)
    if compute_dtype is not None:
        config = resolve.override(config, {"model.compute_dtype": compute_dtype})
    try:
        validate.validate(config)
    except UserError as error:
        raise UserError(f"bundle {content.folder}: {error}") from error
    if isinstance(config.model, defaults.NoisedClipConfig):
        fns = build.make_clip(config.model)
    else:
        fns = build.make_denoiser(config.model, attention=_attention(mesh))
    where = f"bundle {content.folder}"
    params = build.checked_params(content.params, config.model, where)
    params = in_memory(params, param_dtype or config.model.compute_dtype)
    if mesh is None:
        params = jax.tree.map(jnp.asarray, params)
    else:
        min_shard_mb = config.mesh.min_shard_mb
        places = sharding.shard_tree(params, mesh, min_shard_mb=min_shard_mb)
        params = jax.device_put(params, places)
    return SampleModel(
        config, fns, params, tokenizers.load(content.folder), content.folder
    )


def _attention(mesh: Mesh | None) -> attention.AttentionFn:
    """The fastest program of the devices that sample."""
    if mesh is None:
        return attention_kernels.attend
    return attention_kernels.attend_on(mesh, device_mesh.BATCH_AXES, "tensor")


def in_memory(params: array_types.Params, param_dtype: str) -> array_types.Params:
    """The layers' matrices in a type, all else in float32, as numpy arrays."""

    def cast(path: jax.tree_util.KeyPath, leaf: array_types.Array) -> np.ndarray:
        is_matrix = path[-1].key == "kernel"
        return np.asarray(leaf, jnp.dtype(param_dtype if is_matrix else "float32"))

    return jax.tree_util.tree_map_with_path(cast, params)


def bundle_digest(folder: pathlib.Path) -> str:
    """sha256 over the bundle's list of file digests: names weights and settings."""
    return hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest()
