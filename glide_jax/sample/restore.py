"""What a sampling bundle holds, ready to run: configuration, model, weights, tokenizer.

Nothing here knows how a model was trained: no optimizer, data set or trainer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from glide_jax import shapes
from glide_jax.checkpoint import bundle
from glide_jax.config import defaults, resolve
from glide_jax.models import attention_kernels, build
from glide_jax.parallel import sharding
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


def load_bundle(folder: str | pathlib.Path, *, mesh: Mesh | None = None) -> SampleModel:
    """The model in a bundle that `glide export` wrote.

    Args:
        folder: The bundle.
        mesh: Devices to hold the parameters, large ones spread over its fsdp axis;
            None: the default device.

    Raises:
        UserError: Not a bundle, a damaged one, or weights of another shape than its
            configuration asks for.
    """
    content = bundle.read_bundle(pathlib.Path(folder))
    config = resolve.from_json(content.config_json)
    is_clip = isinstance(config.model, defaults.NoisedClipConfig)
    if is_clip:
        fns = build.make_clip(config.model)
    else:
        fns = build.make_denoiser(config.model, attention=attention_kernels.attend)
    where = f"bundle {content.folder}"
    params = build.checked_params(content.params, config.model, where)
    if mesh is None:
        params = jax.tree.map(jnp.asarray, params)
    else:
        min_shard_mb = config.mesh.min_shard_mb
        places = sharding.shard_tree(params, mesh, min_shard_mb=min_shard_mb)
        params = jax.device_put(params, places)
    return SampleModel(
        config,
        fns,
        params,
        tokenizers.load(content.folder),
        content.folder,
    )


def bundle_digest(folder: pathlib.Path) -> str:
    """sha256 over the bundle's list of file digests: names weights and settings."""
    return hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest()
