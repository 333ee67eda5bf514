"""Exports a workdir as a bundle: averaged weights, settings, tokenizer, model card."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np

from glide_jax import metrics, shapes
from glide_jax.checkpoint import bundle
from glide_jax.config import resolve
from glide_jax.errors import UserError
from glide_jax.train import init_from, model_card
from glide_jax.train import workdir as workdirs

GRID = "grid.png"


def export(
    workdir: pathlib.Path,
    output: pathlib.Path,
    *,
    decay: str = "",
    dtype: str = "bfloat16",
    step: int | None = None,
    more_files: Mapping[str, bytes] | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> int:
    """Writes an average of a checkpoint as a bundle; returns its step.

    Args:
      workdir: a workdir of `glide train`.
      output: the bundle's folder; an older bundle there is replaced.
      decay: which average, e.g. "0.999"; "" for the first of ema.decays.
      dtype: dtype of the stored weights, "float32" or "bfloat16".
      step: step of the checkpoint; None: the newest valid one.
      more_files: additional files of the bundle, name -> content.
      on_progress: called between the parts of the work; may raise to end it, which
        leaves an older bundle unchanged.

    Raises:
      UserError: no workdir, no such checkpoint or average, weights that are not
        finite, or a folder that is occupied or cannot be written.
    """
    on_progress()
    config = workdirs.load_config(workdir)
    tokenizer = workdirs.load_tokenizer(workdir)
    decay = decay or str(config.ema.decays[0])
    averages, step = init_from.load_average(workdir, config, decay, step=step)
    on_progress()
    params = jax.tree.map(np.asarray, averages)
    _check_finite(params, workdir, step)
    files = {**tokenizer_files(workdir), **_newest_grid(workdir), **(more_files or {})}
    card = model_card.write_card(
        config,
        tokenizer=tokenizer.kind,
        step=step,
        decay=decay,
        dtype=dtype,
        losses=_last_losses(workdir),
        has_grid=GRID in files,
        has_program=any(name.startswith("program/") for name in files),
    )
    on_progress()
    bundle.write_bundle(
        output, params, resolve.to_json(config), files, card, dtype=dtype
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


def _newest_grid(workdir: pathlib.Path) -> dict[str, bytes]:
    """The last sample grid of the training; file names contain the step."""
    grids = sorted((workdir / "grids").glob("*.png"))
    return {GRID: grids[-1].read_bytes()} if grids else {}


def _last_losses(workdir: pathlib.Path) -> dict[str, float]:
    """The newest training and validation loss that the run logged."""
    path = workdir / "metrics.jsonl"
    found: dict[str, float] = {}
    for row in metrics.read_metrics(path) if path.is_file() else []:
        found |= {k: row[k] for k in ("loss", "validation/loss") if k in row}
    return found
