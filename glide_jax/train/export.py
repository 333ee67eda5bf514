"""A trained workdir as a bundle: averaged weights, settings, tokenizer, model card."""

from __future__ import annotations

import pathlib

import jax
import numpy as np

import glide_jax
from glide_jax import metrics, shapes
from glide_jax.checkpoint import bundle
from glide_jax.config import resolve
from glide_jax.config.defaults import Config
from glide_jax.errors import UserError
from glide_jax.train import init_from
from glide_jax.train import workdir as workdirs


def export(
    workdir: pathlib.Path,
    output: pathlib.Path,
    *,
    decay: str = "",
    dtype: str = "float32",
) -> int:
    """Writes the newest checkpoint's average as a bundle; returns its step.

    Args:
      workdir: of `glide train`.
      output: the bundle's folder; an older bundle there is replaced.
      decay: which average, e.g. "0.999"; "" for the first of ema.decays.
      dtype: of the stored weights, "float32" or "bfloat16".

    Raises:
      UserError: no workdir, no checkpoint, no such average, weights that are not
        finite, or a folder that is in the way or cannot be written.
    """
    config = workdirs.load_config(workdir)
    tokenizer = workdirs.load_tokenizer(workdir)
    decay = decay or str(config.ema.decays[0])
    averages, step = init_from.load_average(workdir, config, decay)
    params = jax.tree.map(np.asarray, averages)
    _check_finite(params, workdir, step)
    bundle.write_bundle(
        output,
        params,
        resolve.to_json(config),
        tokenizer_files(workdir),
        model_card(config, tokenizer.kind, step, decay, _last_losses(workdir)),
        dtype=dtype,
    )
    return step


def _check_finite(params: shapes.Params, workdir: pathlib.Path, step: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.all(np.isfinite(leaf)):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(
                f"{workdir}: the average of step {step} holds values in {name} that "
                "are not finite; train again with a lower optim.learning_rate"
            )


def tokenizer_files(workdir: pathlib.Path) -> dict[str, bytes]:
    """The files of the workdir's tokenizer, name -> content."""
    folder = workdir / "tokenizer"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def model_card(
    config: Config, tokenizer: str, step: int, decay: str, losses: dict[str, float]
) -> str:
    """What the model is, what it was trained on, and how to draw with it."""
    model = config.model
    rows = {
        "family": model.family,
        "resolution": f"{model.image_px} px",
        "trained": f"{step} steps of {config.train.global_batch_size} images",
        "data": ", ".join(config.data.sources),
        "tokenizer": tokenizer,
        "started from": config.train.init_from or "initialisation",
        "captions dropped": config.train.caption_drop_prob,
        "learning rate": f"{config.optim.learning_rate} ({config.optim.schedule})",
        "average": decay,
        "made by": f"glide_jax {glide_jax.__version__}",
    }
    rows |= {name: f"{value:.5f}" for name, value in losses.items()}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    role = "--clip" if model.family == "noised_clip" else "--base"
    if model.family == "text2im" and model.low_res_px:
        role = "--upsampler"
    return (
        f"# {config.name}\n\n| | |\n|---|---|\n{table}\n\n"
        f"For `glide sample` and `glide inpaint`, as {role}. "
        "config.json holds every setting.\n"
    )


def _last_losses(workdir: pathlib.Path) -> dict[str, float]:
    """The newest training and validation loss that the run logged."""
    path = workdir / "metrics.jsonl"
    found: dict[str, float] = {}
    for row in metrics.read_metrics(path) if path.is_file() else []:
        found |= {k: row[k] for k in ("loss", "validation/loss") if k in row}
    return found
