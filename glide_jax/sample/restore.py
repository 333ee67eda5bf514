"""Loads a sampling bundle: configuration, model, weights, tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from glide_jax import array_types
from glide_jax.checkpoint import bundle
from glide_jax.config import defaults, resolve, validate
from glide_jax.errors import UserError
from glide_jax.models import attention_kernels, build
from glide_jax.parallel import device_mesh, sharding
from glide_jax.runtime import paths
from glide_jax.text import tokenizers


@dataclasses.dataclass(frozen=True)
class SampleModel:
    """One model of a cascade.

    Attributes:
      config: settings of the run that trained it; `config.sample` has the defaults.
      fns: pure functions of the model.
      params: on the default device; see `load_bundle` for their dtypes.
      tokenizer: tokenizer of the model's captions.
      folder: the bundle, named in errors.
    """

    config: defaults.Config
    fns: build.DenoiserFns | build.ClipFns
    params: array_types.Params
    tokenizer: tokenizers.Tokenizer
    folder: pathlib.Path

    @property
    def denoiser(self) -> build.DenoiserFns:
        """The functions of a base model or an upsampler."""
        assert isinstance(self.fns, build.DenoiserFns)
        return self.fns

    @property
    def clip(self) -> build.ClipFns:
        """The functions of a noised CLIP."""
        assert isinstance(self.fns, build.ClipFns)
        return self.fns

    @property
    def unet(self) -> defaults.Text2ImConfig:
        """The sizes of a base model or an upsampler."""
        assert isinstance(self.config.model, defaults.Text2ImConfig)
        return self.config.model


def load_bundle(
    folder: str | pathlib.Path,
    *,
    param_dtype: str | None = None,
    compute_dtype: str | None = None,
    mesh: Mesh | None = None,
) -> SampleModel:
    """Loads the model of a bundle.

    Args:
      folder: the bundle.
      param_dtype: dtype of the layers' matrices in memory, "float32" or "bfloat16";
        None: the compute dtype, to which layers cast them. Norms, biases, embeddings
        and the CLIP's logit scale are always float32.
      compute_dtype: compute dtype of the layers; None: the bundle's.
      mesh: devices of the parameters, large ones sharded over its fsdp axis; None: the
        default device.

    Raises:
      UserError: not a bundle, a damaged bundle, or weights whose shapes differ from
        those of its configuration.
    """
    content = bundle.read_bundle(paths.local_path(folder, "bundle"))
    config = resolve.from_json(content.config_json)
    if compute_dtype is not None:
        config = resolve.override(config, {"model.compute_dtype": compute_dtype})
    try:
        validate.validate(config)
    except UserError as error:
        raise UserError(f"bundle {content.folder}: {error}") from error
    where = f"bundle {content.folder}"
    params = build.checked_params(content.params, config.model, where)
    params = in_memory(params, param_dtype or config.model.compute_dtype)
    if mesh is None:
        params = jax.tree.map(jnp.asarray, params)
    else:
        params = jax.device_put(params, place(params, config, mesh))
    return SampleModel(
        config,
        make_fns(config, mesh),
        params,
        tokenizers.load(content.folder),
        content.folder,
    )


def make_fns(
    config: defaults.Config, mesh: Mesh | None
) -> build.DenoiserFns | build.ClipFns:
    """Returns the functions of a model, with the fastest attention of the devices."""
    model = config.model
    if isinstance(model, defaults.NoisedClipConfig):
        return build.make_clip(model)
    assert isinstance(model, defaults.Text2ImConfig)
    attend = attention_kernels.attend
    if mesh is not None:
        attend = attention_kernels.attend_on(mesh, device_mesh.BATCH_AXES, "tensor")
    return build.make_denoiser(
        model, attention=attend, prediction=config.diffusion.prediction
    )


def place(params: array_types.Params, config: defaults.Config, mesh: Mesh) -> Any:
    """Returns the sharding of each parameter, large ones over the fsdp axis."""
    return sharding.shard_tree(params, mesh, min_shard_mb=config.mesh.min_shard_mb)


def in_memory(params: array_types.Params, param_dtype: str) -> array_types.Params:
    """Returns numpy arrays, the layers' matrices in a dtype, all else in float32."""

    def cast(path: jax.tree_util.KeyPath, leaf: array_types.Array) -> np.ndarray:
        return np.asarray(leaf, build.dtype_in_memory(path, param_dtype))

    return jax.tree_util.tree_map_with_path(cast, params)


def bundle_digest(folder: pathlib.Path) -> str:
    """Returns the SHA-256 of bundle.json, which identifies weights and settings."""
    return hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest()
