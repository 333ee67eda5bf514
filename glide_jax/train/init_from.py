"""Initializes a phase from the result of another one: a workdir or a bundle."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from glide_jax import array_types
from glide_jax.checkpoint import bundle, store
from glide_jax.config import resolve
from glide_jax.config.defaults import Config, Text2ImConfig
from glide_jax.errors import UserError
from glide_jax.models import build, extend
from glide_jax.runtime import paths
from glide_jax.text import tokenizers
from glide_jax.train import run_folder


class Origin(NamedTuple):
    """The origin of a phase: weights, their configuration and their tokenizer."""

    params: array_types.Params
    config: Config
    tokenizer: tokenizers.Tokenizer
    step: int  # of the workdir's checkpoint; 0 for a bundle


def load(path: str, *, setting: str = "train.init_from") -> Origin:
    """Reads averaged parameters from a workdir, or a bundle's parameters, as float32.

    `setting` gave the path; errors name it.

    Raises:
      UserError: `path` is neither, or the workdir has no checkpoint.
    """
    folder = paths.local_path(path, setting)
    if bundle.is_bundle(folder):
        found = bundle.read_bundle(folder)
        config = read_config(path, setting=setting)
        params = build.checked_params(found.params, config.model, f"bundle {folder}")
        return Origin(params, config, tokenizers.load(folder), step=0)
    config = read_config(path, setting=setting)
    params, step = load_average(folder, config, str(config.ema.decays[0]))
    return Origin(params, config, run_folder.load_tokenizer(folder), step)


def read_config(path: str, *, setting: str = "train.init_from") -> Config:
    """The settings of the workdir or bundle at `path`; UserError if it is neither."""
    folder = paths.local_path(path, setting)
    if not folder.is_dir():
        remedy = ", or leave PATH empty to start from random weights"
        raise UserError(
            f"{setting}={path} does not exist; name a workdir of `glide train` "
            f"or a bundle of `glide export` by --config.{setting}=PATH"
            + (remedy if setting == "train.init_from" else "")
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
    before, after = origin.config.model, config.model
    params, extended = origin.params, []
    if isinstance(before, Text2ImConfig) and isinstance(after, Text2ImConfig):
        params, extended = extend.extend(params, before, after)
    if origin.config.diffusion.prediction != config.diffusion.prediction:
        params, changed = extend.to_x_and_eps(params)
        extended += changed
    return params, extended


def check_fits(origin: Config, config: Config) -> None:
    """Raises UserError unless a phase of `config` can start from one of `origin`."""
    if origin.model.family != config.model.family:
        raise UserError(
            f"train.init_from has a {origin.model.family} model, and this phase trains "
            f"a {config.model.family} model; start from one of the same family"
        )
    differences = resolve.differences(origin, config)
    changed = [line for line in differences if line.startswith("diffusion.")]
    predictions = origin.diffusion.prediction, config.diffusion.prediction
    if predictions == ("eps", "x_and_eps"):
        changed = [line for line in changed if "diffusion.prediction" not in line]
    else:
        # The same output would stand for another picture.
        changed += [line for line in differences if "model.residual_low_res" in line]
    if changed:
        raise UserError(
            f"train.init_from was trained with other noise or for another prediction: "
            f"{'; '.join(changed)}; use its settings"
        )
    before, after = origin.model, config.model
    if isinstance(before, Text2ImConfig) and isinstance(after, Text2ImConfig):
        extend.check(before, after)
        return
    changed = [
        line
        for line in differences
        if line.startswith("model.") and not line.startswith("model.compute_dtype")
    ]
    if changed:
        raise UserError(
            f"train.init_from has another model: {'; '.join(changed)}; start from one "
            "of the same sizes"
        )
