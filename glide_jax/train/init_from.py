"""Initializes a phase from the result of another one: a workdir or a bundle."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from glide_jax import array_types
from glide_jax.checkpoint import bundle, store
from glide_jax.config import resolve
from glide_jax.config.defaults import Config
from glide_jax.errors import UserError
from glide_jax.models import build, expand_inputs
from glide_jax.runtime import paths
from glide_jax.text import tokenizers
from glide_jax.train import run_folder


class Origin(NamedTuple):
    """The origin of a phase: weights, their configuration and their tokenizer."""

    params: array_types.Params
    config: Config
    tokenizer: tokenizers.Tokenizer
    step: int  # of the workdir's checkpoint; 0 for a bundle


def load(path: str) -> Origin:
    """Reads averaged parameters from a workdir, or a bundle's parameters, as float32.

    Raises:
      UserError: `path` is neither, or the workdir has no checkpoint.
    """
    folder = paths.local_path(path, "train.init_from")
    if bundle.is_bundle(folder):
        found = bundle.read_bundle(folder)
        config = read_config(path)
        params = build.checked_params(found.params, config.model, f"bundle {folder}")
        return Origin(params, config, tokenizers.load(folder), step=0)
    config = read_config(path)
    params, step = load_average(folder, config, str(config.ema.decays[0]))
    return Origin(params, config, run_folder.load_tokenizer(folder), step)


def read_config(path: str) -> Config:
    """The settings of the workdir or bundle at `path`; UserError if it is neither."""
    folder = paths.local_path(path, "train.init_from")
    if not folder.is_dir():
        raise UserError(
            f"train.init_from={path} does not exist; name a workdir of `glide train` "
            "or a bundle of `glide export` by --config.train.init_from=PATH, or leave "
            "PATH empty to start from random weights"
        )
    return run_folder.load_config(folder)


def load_average(
    workdir: pathlib.Path, config: Config, decay: str, *, step: int | None = None
) -> tuple[array_types.Params, int]:
    """The averaged parameters of a workdir's newest good checkpoint, and its step.

    With a `step`, only that checkpoint is read.
    """
    if decay not in [str(d) for d in config.ema.decays]:
        raise UserError(
            f"decay {decay} is not one of this run's averages: "
            f"{', '.join(str(d) for d in config.ema.decays)}"
        )
    checkpoints = store.CheckpointStore(run_folder.checkpoints(workdir))
    abstract = build.abstract_params(config.model)
    wanted = {"ema_params": {str(d): abstract for d in config.ema.decays}}
    if step is not None:
        return checkpoints.restore(step, wanted)["ema_params"][decay], step
    newest = checkpoints.restore_newest(wanted)
    if newest is None:
        raise UserError(
            f"{workdir} has no checkpoint yet; train it first with `glide train`"
        )
    return newest.items["ema_params"][decay], newest.step


def adapt(origin: Origin, config: Config) -> tuple[array_types.Params, list[str]]:
    """The origin's parameters in the shapes of `config`, and names of extended ones."""
    check_fits(origin.config, config)
    if origin.config.model == config.model or config.model.family == "noised_clip":
        return origin.params, []
    return expand_inputs.extend(origin.params, origin.config.model, config.model)


def check_fits(origin: Config, config: Config) -> None:
    """Raises UserError unless a phase of `config` can start from one of `origin`."""
    if origin.model.family != config.model.family:
        raise UserError(
            f"train.init_from holds a {origin.model.family} model, this phase "
            f"trains a {config.model.family} model; start from one of the same family"
        )
    differences = resolve.differences(origin, config)
    changed = [line for line in differences if line.startswith("diffusion.")]
    if changed:
        raise UserError(
            f"train.init_from was trained on another noise: {'; '.join(changed)}; "
            "set the diffusion section as there"
        )
    if config.model.family == "text2im":
        expand_inputs.check(origin.model, config.model)
        return
    changed = [
        line
        for line in differences
        if line.startswith("model.") and not line.startswith("model.compute_dtype")
    ]
    if changed:
        raise UserError(
            f"train.init_from holds another model: {'; '.join(changed)}; "
            "start from one of the same sizes"
        )
