"""Starts a phase from what another phase finished: a workdir or a bundle."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import jax

from glide_jax import shapes
from glide_jax.checkpoint import bundle, store
from glide_jax.config import resolve
from glide_jax.config.defaults import Config, ModelConfig
from glide_jax.errors import UserError
from glide_jax.models import build, grow
from glide_jax.text import tokenizers
from glide_jax.train import workdir as workdirs


class Origin(NamedTuple):
    """Where a phase starts: weights, their configuration and their tokenizer."""

    params: shapes.Params
    config: Config
    tokenizer: tokenizers.Tokenizer
    step: int  # of the workdir's checkpoint; 0 for a bundle


def load(path: str) -> Origin:
    """Reads averaged parameters from a workdir, or a bundle's parameters.

    Raises:
      UserError: where `path` is neither, or the workdir has no checkpoint.
    """
    folder = pathlib.Path(path)
    if (folder / "bundle.json").is_file():
        found = bundle.read_bundle(folder)
        return Origin(
            params=found.params,
            config=resolve.from_json(found.config_json),
            tokenizer=tokenizers.load(folder),
            step=0,
        )
    if not folder.is_dir():
        raise UserError(
            f"{path} does not exist; name a workdir of `glide train` or a bundle of "
            "`glide export`"
        )
    config = workdirs.load_config(folder)
    params, step = load_average(folder, config, str(config.ema.decays[0]))
    return Origin(params, config, workdirs.load_tokenizer(folder), step)


def load_average(
    workdir: pathlib.Path, config: Config, decay: str
) -> tuple[shapes.Params, int]:
    """The averaged parameters of a workdir's newest checkpoint, and its step."""
    if decay not in [str(d) for d in config.ema.decays]:
        raise UserError(
            f"decay {decay} is not one of this run's averages: "
            f"{', '.join(str(d) for d in config.ema.decays)}"
        )
    checkpoints = store.CheckpointStore(workdirs.checkpoints(workdir), keep=1000)
    step = checkpoints.latest_step()
    if step is None:
        raise UserError(
            f"{workdir} has no checkpoint yet; train it first with `glide train`"
        )
    abstract = _abstract_params(config.model)
    averages = {str(d): abstract for d in config.ema.decays}
    restored = checkpoints.restore(step, {"ema_params": averages})
    checkpoints.close()
    return restored["ema_params"][decay], step


def adapt(origin: Origin, config: Config) -> tuple[shapes.Params, list[str]]:
    """The origin's parameters in the shape `config` asks for; names what was grown."""
    if origin.config.model.family != config.model.family:
        raise UserError(
            f"train.init_from holds a {origin.config.model.family} model, this phase "
            f"trains a {config.model.family} model; start from one of the same family"
        )
    if origin.config.model == config.model:
        return origin.params, []
    if config.model.family == "noised_clip":
        differences = resolve.differences(origin.config, config)
        raise UserError(
            "train.init_from holds another model: "
            + "; ".join(line for line in differences if line.startswith("model."))
            + "; start from one of the same sizes"
        )
    return grow.grow(origin.params, origin.config.model, config.model)


def _abstract_params(model: ModelConfig) -> shapes.Params:
    fns = (
        build.make_clip(model)
        if model.family == "noised_clip"
        else build.make_denoiser(model)
    )
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        jax.eval_shape(fns.init, jax.random.key(0)),
    )
