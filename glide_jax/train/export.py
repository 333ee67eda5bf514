"""Exports a workdir as a bundle: averaged weights, settings, tokenizer, model card."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np

import glide_jax
from glide_jax import array_types
from glide_jax.checkpoint import bundle
from glide_jax.config import defaults, resolve
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.runtime import metric_writers, wording
from glide_jax.train import init_from, run_folder, teachers

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
    config = run_folder.load_config(workdir)
    tokenizer = run_folder.load_tokenizer(workdir)
    decay = decay or str(config.ema.decays[0])
    averages, step = init_from.load_average(workdir, config, decay, step=step)
    on_progress()
    params = jax.tree.map(np.asarray, averages)
    _check_finite(params, workdir, step)
    files = {
        **tokenizer_files(workdir),
        **_teacher_file(workdir),
        **_newest_grid(workdir),
        **(more_files or {}),
    }
    card = write_card(
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


def _check_finite(params: array_types.Params, workdir: pathlib.Path, step: int) -> None:
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


def _teacher_file(workdir: pathlib.Path) -> dict[str, bytes]:
    """The record of a student's teacher; none for other models."""
    path = workdir / run_folder.TEACHER
    return {run_folder.TEACHER: path.read_bytes()} if path.is_file() else {}


def _newest_grid(workdir: pathlib.Path) -> dict[str, bytes]:
    """The last sample grid of the training; file names contain the step."""
    grids = sorted((workdir / "grids").glob("*.png"))
    return {GRID: grids[-1].read_bytes()} if grids else {}


def _last_losses(workdir: pathlib.Path) -> dict[str, float]:
    """The newest training and validation loss that the run logged."""
    path = workdir / "metrics.jsonl"
    found: dict[str, float] = {}
    for row in metric_writers.read_metrics(path) if path.is_file() else []:
        found |= {k: row[k] for k in ("loss", "validation/loss") if k in row}
    return found


# Role -> how to sample from its bundle with a command of the package.
COMMANDS = {
    "base model": 'glide sample --base=THIS_FOLDER --prompt="..." --output=pictures',
    "inpainting base model": "glide inpaint --base=THIS_FOLDER --image=photo.png \\\n"
    '    --mask=hole.png --prompt="..." --output=pictures',
    "upsampler": "glide sample --base=BASE_BUNDLE --upsampler=THIS_FOLDER \\\n"
    '    --prompt="..." --output=pictures',
    "inpainting upsampler": "glide inpaint --base=INPAINTING_BASE_BUNDLE \\\n"
    "    --upsampler=THIS_FOLDER --image=photo.png --mask=hole.png \\\n"
    '    --prompt="..." --output=pictures',
    "noised CLIP": "glide sample --base=BASE_BUNDLE --clip=THIS_FOLDER \\\n"
    '    --guidance_mode=clip --prompt="..." --output=pictures',
}
# Role -> its task by the names of the Hugging Face Hub, which has none for a CLIP that
# reads noised pictures.
TASKS = {
    "base model": "text-to-image",
    "inpainting base model": "text-to-image",
    "upsampler": "image-to-image",
    "inpainting upsampler": "image-to-image",
}


def write_card(
    config: defaults.Config,
    *,
    tokenizer: str,
    step: int,
    decay: str,
    dtype: str,
    losses: dict[str, float],
    has_grid: bool,
    has_program: bool,
) -> str:
    """The model card, Markdown.

    Args:
      config: The run that trained the model.
      tokenizer: Its kind.
      step: Of the checkpoint that was exported.
      decay: Of the average that was exported.
      dtype: Of the stored weights.
      losses: The newest losses of the run, by name.
      has_grid: Whether grid.png is beside the card.
      has_program: Whether the folder program/ is.
    """
    parts = [
        f"{_front_matter(config)}\n\n# {config.name}\n\n{_describe(config)}",
        _table("model", _model_rows(config, tokenizer, dtype)),
        _table("training", _training_rows(config, step, decay) | _rounded(losses)),
        f"## How to draw with it\n\n```\n{COMMANDS[role(config)]}\n```\n\n"
        f"`glide` comes with glide_jax {glide_jax.__version__}, which wrote this.",
    ]
    if role(config) != "noised CLIP":
        parts.append(_table("default of sampling", _sampling_rows(config)))
    if has_program:
        parts.append(
            "Without glide_jax, with jax, flatbuffers and numpy alone: "
            "`python program/run.py`; program/manifest.json tells how."
        )
    if has_grid:
        parts.append(
            "## Pictures of the last grid\n\n![grid](grid.png)\n\nAbove, held-out "
            "pictures; below, what the model drew from their captions."
        )
    parts.append(
        "config.json holds every setting of the run, bundle.json the SHA-256 of every "
        "file."
    )
    return "\n\n".join(parts) + "\n"


def _front_matter(config: defaults.Config) -> str:
    """The metadata of a model card on the Hugging Face Hub, as YAML.

    It names no licence: whoever trained the weights must add theirs.
    """
    tags = ["glide", "diffusion", "jax", "flax"]
    lines = ["---", "library_name: glide_jax"]
    if task := TASKS.get(role(config)):
        lines.append(f"pipeline_tag: {task}")
    lines += ["tags:", *(f"- {tag}" for tag in tags), "---"]
    return "\n".join(lines)


def role(config: defaults.Config) -> str:
    """The model's role in the cascade, a key of COMMANDS."""
    model = config.model
    if isinstance(model, defaults.NoisedClipConfig):
        return "noised CLIP"
    name = "upsampler" if model.low_res_px else "base model"
    return f"inpainting {name}" if model.inpaint else name


def _describe(config: defaults.Config) -> str:
    model = config.model
    task = {
        "base model": "draws {0} px pictures from captions",
        "inpainting base model": "fills the unknown part of {0} px pictures to fit a "
        "caption",
        "upsampler": "enlarges captioned pictures to {0} px",
        "inpainting upsampler": "enlarges captioned pictures to {0} px, of which a "
        "part is known",
        "noised CLIP": "tells how well a caption fits a noised {0} px picture, and so "
        "guides a base model",
    }[role(config)].format(model.image_px)
    return f"The {role(config)} of a GLIDE cascade (arXiv 2112.10741): {task}."


def _model_rows(
    config: defaults.Config, tokenizer: str, dtype: str
) -> dict[str, object]:
    model = config.model
    count = build.parameter_count(build.abstract_params(model))
    rows: dict[str, object] = {
        "role": role(config),
        "resolution": f"{model.image_px} px",
        "parameters": f"{count:,}",
        "weights": f"{dtype}; computes in {model.compute_dtype}",
        "captions": f"{model.text_context} tokens of {tokenizer}",
        "noise": f"{config.diffusion.schedule}, {config.diffusion.num_timesteps} steps",
    }
    if isinstance(model, defaults.Text2ImConfig) and model.low_res_px:
        rows["enlarges"] = f"{model.low_res_px} px pictures"
    return rows


def _mixture(sources: tuple[str, ...], weights: tuple[float, ...]) -> str:
    """Describes the sources with their shares; one weight means equal shares."""
    if len(sources) == 1:
        return sources[0]
    if len(weights) == 1:
        weights *= len(sources)
    shares = [weight / sum(weights) for weight in weights]
    named = zip(shares, sources, strict=True)
    return ", ".join(f"{share:.0%} of {source}" for share, source in named)


def _training_rows(config: defaults.Config, step: int, decay: str) -> dict[str, object]:
    train, optim = config.train, config.optim
    return {
        "data": _mixture(config.data.sources, config.data.weights),
        "trained": f"{wording.counted(step, 'step')} of"
        f" {wording.counted(train.global_batch_size, 'image')}",
        "started from": train.init_from or train.teacher or "initialisation",
        **({"teacher": train.teacher} if train.teacher else {}),
        "objective": _objective(config),
        "captions dropped": f"{train.caption_drop_prob:.0%}",
        "learning rate": f"{optim.learning_rate} ({optim.schedule})",
        "average": decay,
        "seed": config.seed,
    }


def _objective(config: defaults.Config) -> str:
    if role(config) == "noised CLIP":
        return "contrastive"
    train = config.train
    return train.student_loss if teachers.matches_moments(config) else train.loss_type


def _sampling_rows(config: defaults.Config) -> dict[str, object]:
    sample = config.sample
    rows: dict[str, object] = {
        "sampler": sample.sampler,
        "timesteps": sample.respacing or "all",
        "start noise": sample.noise_temperature,
    }
    if role(config).endswith("base model"):
        rows["guidance scale"] = sample.guidance_scale
        model = config.model
        if isinstance(model, defaults.Text2ImConfig) and model.guidance_range:
            low, high = model.guidance_range
            rows["guidance scales it reads"] = f"{low:g} to {high:g}, in one row"
        rows["CLIP guidance scale"] = sample.clip_guidance_scale
    return rows


def _rounded(losses: dict[str, float]) -> dict[str, object]:
    return {f"last {name}": f"{value:.5f}" for name, value in losses.items()}


def _table(title: str, rows: dict[str, object]) -> str:
    lines = [f"| {title} | |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows.items()])
