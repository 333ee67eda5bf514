"""Trains the six phases of GLIDE, each as `glide train` does."""

from __future__ import annotations

import dataclasses
import logging
import pathlib

from glide_jax.config import experiments, resolve
from glide_jax.config.defaults import Config
from glide_jax.runtime import lifecycle, metric_writers, wording
from glide_jax.runtime.ledger import Ledger
from glide_jax.train import export, loop


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training run: its experiment file, and the phase that initialises it."""

    name: str
    title: str
    config: str
    init_from: str = ""


PHASES = (
    Phase("base", "base model", "base64"),
    Phase("base_cfg", "guidance phase", "base64_cfg", "base"),
    Phase("base_inpaint", "inpainting phase", "base64_inpaint", "base_cfg"),
    Phase("upsampler", "upsampler", "upsample256"),
    Phase(
        "upsampler_inpaint",
        "inpainting phase of the upsampler",
        "upsample256_inpaint",
        "upsampler",
    ),
    Phase("noised_clip", "noised CLIP", "noised_clip64"),
)


def load_config(phase: Phase, root: pathlib.Path, scale: float) -> Config:
    """Returns the configuration of a phase under `root`, with scaled steps."""
    config = experiments.load(phase.config, "tiny")
    steps = max(1, round(config.train.num_steps * scale))
    changes: dict[str, object] = {
        "train.num_steps": steps,
        "optim.warmup_steps": min(config.optim.warmup_steps, steps - 1),
    }
    if phase.init_from:
        changes["train.init_from"] = str(root / phase.init_from)
    return resolve.override(config, changes)


def run_phase(
    phase: Phase, root: pathlib.Path, ledger: Ledger, *, scale: float
) -> lifecycle.ExitCode:
    """Trains and exports a phase, or resumes it; skips a finished one."""
    heading = f"[{PHASES.index(phase) + 1}/{len(PHASES)}] {phase.title}"
    if ledger.is_done(phase.name):
        logging.info("%s: already done", heading)
        return lifecycle.ExitCode.OK
    config = load_config(phase, root, scale)
    logging.info("%s, %s", heading, wording.counted(config.train.num_steps, "step"))
    workdir = root / phase.name
    with ledger.timed(phase.name):
        code = loop.train(config, workdir)
        if code != lifecycle.ExitCode.OK:
            return code
        export.export(workdir, root / "bundles" / phase.name)
    ledger.finish(phase.name, _losses(workdir))
    return lifecycle.ExitCode.OK


def _losses(workdir: pathlib.Path) -> dict[str, float | int]:
    rows = [
        row
        for row in metric_writers.read_metrics(workdir / "metrics.jsonl")
        if "loss" in row
    ]
    return {
        "steps": rows[-1]["step"],
        "loss_first": rows[0]["loss"],
        "loss_last": rows[-1]["loss"],
    }
