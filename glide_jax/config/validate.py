"""Rules that no single field can state; each breach is one line with its remedy.

Whether the mesh fits the devices is checked where the devices are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glide_jax.config import defaults
from glide_jax.diffusion import losses, respacing, samplers, schedules
from glide_jax.errors import UserError

MAX_SEED = 2**31 - 1  # what JAX and numpy both take as they are
DTYPES = ("float32", "bfloat16", "float16")
TIMESTEP_SAMPLINGS = ("uniform", "loss_second_moment", "power")
CORRUPTIONS = ("none", "blur", "noise", "quantise")
OPTIMIZERS = ("adamw", "adafactor", "lion")
MOMENTS_DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "dots", "blocks", "full", "offload")
LEARNING_RATE_SCHEDULES = ("constant", "cosine", "linear")


def validate(config: defaults.Config) -> None:
    """Raises UserError at the first rule that the settings break."""
    _within("seed", config.seed, 0, MAX_SEED)
    if isinstance(config.model, defaults.Text2ImConfig):
        _check_text2im(config.model)
    else:
        _check_noised_clip(config.model)
    _check_diffusion(config.diffusion)
    _check_data(config.data)
    _check_train(config.train)
    _check_optim(config.optim)
    _check_ema(config.ema)
    _check_mesh(config.mesh)
    _check_intervals(config)
    _check_evaluate(config)
    _check_sample(config.sample)
    _check_family_rules(config)
    _check_remat(config)
    if isinstance(config.model, defaults.NoisedClipConfig):
        _check_clip_training(config)
    else:
        _check_respacing(config)
    _check_match_low_res(config)


def _require(ok: bool, path: str, value: Any, rule: str, remedy: str) -> None:
    if not ok:
        raise UserError(f"{path}={value!r} {rule}; {remedy}")


def _at_least(
    section: str, node: Any, least: float | int, names: Sequence[str]
) -> None:
    for name in names:
        value = getattr(node, name)
        _require(
            value >= least,
            f"{section}.{name}",
            value,
            f"is less than {least}",
            f"use {least} or more",
        )


def _one_of(path: str, value: str, known: Sequence[str]) -> None:
    _require(value in known, path, value, "is not known", f"use {', '.join(known)}")


def _within(path: str, value: float | int, low: float | int, high: float | int) -> None:
    rule = f"is outside [{low}, {high}]"
    _require(low <= value <= high, path, value, rule, "use a value inside")


def _divides(path: str, value: int, part_path: str, part: int) -> None:
    _require(
        value % part == 0,
        path,
        value,
        f"is not divisible by {part_path}={part}",
        f"use {max(value // part, 1) * part}, or change {part_path}",
    )


def _check_text2im(model: defaults.Text2ImConfig) -> None:
    positive = (
        "image_px num_channels num_res_blocks head_channels text_context vocab_size "
        "text_width text_layers text_heads norm_groups"
    )
    _at_least("model", model, 1, positive.split())
    _at_least("model", model, 0, ["low_res_px"])
    _one_of("model.compute_dtype", model.compute_dtype, DTYPES)
    _within("model.dropout_prob", model.dropout_prob, 0.0, 1.0)
    _divides("model.text_width", model.text_width, "model.text_heads", model.text_heads)
    _check_levels(model)
    if model.low_res_px:
        _divides("model.image_px", model.image_px, "model.low_res_px", model.low_res_px)
        _require(
            model.low_res_px < model.image_px,
            "model.low_res_px",
            model.low_res_px,
            f"is not below model.image_px={model.image_px}",
            "an upsampler enlarges: use a smaller size, or 0 for a base model",
        )


def _check_levels(model: defaults.Text2ImConfig) -> None:
    mult = model.channel_mult
    is_usable = bool(mult) and min(mult) >= 1
    _require(
        is_usable, "model.channel_mult", mult, "has no or empty levels", "e.g. (1, 2)"
    )
    factor = 2 ** (len(mult) - 1)
    _require(
        model.image_px % factor == 0,
        "model.image_px",
        model.image_px,
        f"cannot be halved for {len(mult)} levels",
        f"use a multiple of {factor}, or fewer entries in model.channel_mult",
    )
    level_px = [model.image_px >> level for level in range(len(mult))]
    for px in model.attention_px:
        _require(
            px in level_px,
            "model.attention_px",
            model.attention_px,
            f"names {px}, which is no level",
            f"levels are {', '.join(map(str, level_px))}",
        )
    for level, (px, factor) in enumerate(zip(level_px, mult, strict=True)):
        channels = model.num_channels * factor
        path = f"model.num_channels * model.channel_mult[{level}]"
        _divides(path, channels, "the number of GroupNorm groups", model.norm_groups)
        # The middle block attends too, at the last level's width.
        if px in model.attention_px or level == len(mult) - 1:
            _divides(path, channels, "model.head_channels", model.head_channels)


def _check_noised_clip(model: defaults.NoisedClipConfig) -> None:
    positive = (
        "image_px patch_px image_width image_layers image_heads text_context "
        "vocab_size text_width text_layers text_heads embed_dim"
    )
    _at_least("model", model, 1, positive.split())
    _one_of("model.compute_dtype", model.compute_dtype, DTYPES)
    for name, part in (
        ("image_px", "patch_px"),
        ("image_width", "image_heads"),
        ("text_width", "text_heads"),
    ):
        value, by = getattr(model, name), getattr(model, part)
        _divides(f"model.{name}", value, f"model.{part}", by)


def _check_family_rules(config: defaults.Config) -> None:
    model, data = config.model, config.data
    _require(
        data.low_res_corruption == "none" or bool(getattr(model, "low_res_px", 0)),
        "data.low_res_corruption",
        data.low_res_corruption,
        "corrupts a condition that this model does not have",
        "use none, or an upsampler (model.low_res_px)",
    )
    factors = config.train.low_pass_factors
    _require(
        all(factor >= 2 and model.image_px % factor == 0 for factor in factors)
        and len(set(factors)) == len(factors),
        "train.low_pass_factors",
        factors,
        f"has a factor below 2, twice, or that does not divide {model.image_px} px",
        "e.g. (4, 8)",
    )


def _check_remat(config: defaults.Config) -> None:
    remat, levels = config.train.remat, 1
    if isinstance(config.model, defaults.Text2ImConfig):
        levels = len(config.model.channel_mult)
    _require(
        len(remat) in (1, levels),
        "train.remat",
        remat,
        f"has {len(remat)} policies",
        "give one" + (f", or {levels}: one for each level" if levels > 1 else ""),
    )


def _check_clip_training(config: defaults.Config) -> None:
    train, longest = config.train, defaults.NOISED_CLIP_TIMESTEPS
    _require(
        config.diffusion.num_timesteps <= longest,
        "diffusion.num_timesteps",
        config.diffusion.num_timesteps,
        f"is more than the {longest} rows of the noised CLIP's timestep table",
        f"use {longest} or less",
    )
    _require(
        not train.caption_drop_prob,
        "train.caption_drop_prob",
        train.caption_drop_prob,
        "drops captions that CLIP has to match",
        "use 0 with model.family=noised_clip",
    )
    _require(
        train.timestep_sampling != "loss_second_moment",
        "train.timestep_sampling",
        train.timestep_sampling,
        "needs a loss for each timestep, which CLIP's has not",
        "use uniform or power with model.family=noised_clip",
    )
    for name in ("loss_type", "low_pass_factors"):
        value, default = getattr(train, name), getattr(defaults.TrainConfig, name)
        rule = "has no effect with model.family=noised_clip"
        remedy = f"leave it at {default!r}"
        _require(value == default, f"train.{name}", value, rule, remedy)


def _check_respacing(config: defaults.Config) -> None:
    """What the run hands on as its way of sampling has to fit its own chain."""
    try:
        respacing.kept_timesteps(
            config.diffusion.num_timesteps,
            config.sample.respacing,
            config.diffusion.schedule,
        )
    except UserError as error:
        raise UserError(f"sample.{error}") from error


def _check_match_low_res(config: defaults.Config) -> None:
    enlarges = isinstance(config.model, defaults.Text2ImConfig) and bool(
        config.model.low_res_px
    )
    value = config.sample.match_low_res
    rule = "has no effect on a model that takes no small picture"
    remedy = "use False, or a model with model.low_res_px"
    _require(enlarges or not value, "sample.match_low_res", value, rule, remedy)


def _check_diffusion(diffusion: defaults.DiffusionConfig) -> None:
    _one_of("diffusion.schedule", diffusion.schedule, tuple(schedules.SCHEDULES))
    _at_least("diffusion", diffusion, 1, ["num_timesteps"])


def _check_data(data: defaults.DataConfig) -> None:
    _require(bool(data.sources), "data.sources", data.sources, "is empty", "give one")
    _require(
        len(data.weights) == len(data.sources),
        "data.weights",
        data.weights,
        f"does not match the {len(data.sources)} data.sources",
        "give one weight for each source",
    )
    are_positive = all(weight > 0 for weight in data.weights)
    rule = "has a weight that is not positive"
    remedy = "use positive weights, or leave the source out"
    _require(are_positive, "data.weights", data.weights, rule, remedy)
    _one_of("data.low_res_corruption", data.low_res_corruption, CORRUPTIONS)
    _within("data.flip_prob", data.flip_prob, 0.0, 1.0)
    _within("data.max_bad_frac", data.max_bad_frac, 0.0, 1.0)
    _at_least("data", data, 0, ["low_res_corruption_strength"])
    _at_least("data", data, 1, ["num_threads", "prefetch_batches"])


def _check_train(train: defaults.TrainConfig) -> None:
    _at_least("train", train, 1, ["num_steps", "global_batch_size", "microbatches"])
    _at_least("train", train, 0, ["timestep_power", "init_log2_loss_scale"])
    _at_least("train", train, 0, ["min_log2_loss_scale", "max_rewinds"])
    _at_least("train", train, 0, ["check_replicas_every_steps"])
    is_patient = train.stall_secs == 0 or train.stall_secs >= 10
    rule, remedy = "ends a run in a slow step", "use 10 or more, or 0 for never"
    _require(is_patient, "train.stall_secs", train.stall_secs, rule, remedy)
    _at_least("train", train, 1, ["max_skipped_in_a_row", "grace_secs"])
    _require(
        train.skip_loss_above == 0 or train.skip_loss_above > 1,
        "train.skip_loss_above",
        train.skip_loss_above,
        "would skip common losses",
        "use more than 1, e.g. 3, or 0 for never",
    )
    _one_of("train.remat_text", train.remat_text, REMAT_POLICIES)
    for policy in train.remat:
        _one_of("train.remat", policy, REMAT_POLICIES)
    _within("train.caption_drop_prob", train.caption_drop_prob, 0.0, 1.0)
    _one_of("train.loss_type", train.loss_type, losses.LOSS_TYPES)
    _one_of("train.timestep_sampling", train.timestep_sampling, TIMESTEP_SAMPLINGS)
    _require(
        not train.timestep_power or train.timestep_sampling == "power",
        "train.timestep_power",
        train.timestep_power,
        f"has no effect with train.timestep_sampling={train.timestep_sampling!r}",
        "use 0, or train.timestep_sampling=power",
    )


def _check_optim(optim: defaults.OptimConfig) -> None:
    _one_of("optim.name", optim.name, OPTIMIZERS)
    _one_of("optim.moments_dtype", optim.moments_dtype, MOMENTS_DTYPES)
    _one_of("optim.schedule", optim.schedule, LEARNING_RATE_SCHEDULES)
    _at_least("optim", optim, 0, ["warmup_steps", "weight_decay", "grad_clip_norm"])
    for name in ("learning_rate", "eps"):
        value = getattr(optim, name)
        _require(value > 0, f"optim.{name}", value, "is not positive", "e.g. 1e-4")
    for name in ("b1", "b2"):
        value = getattr(optim, name)
        rule = "is outside [0, 1)"
        _require(0 <= value < 1, f"optim.{name}", value, rule, "e.g. 0.9")


def _check_ema(ema: defaults.EmaConfig) -> None:
    is_usable = bool(ema.decays) and all(0 <= decay < 1 for decay in ema.decays)
    rule = "is empty or has a decay outside [0, 1)"
    _require(is_usable, "ema.decays", ema.decays, rule, "e.g. (0.9999,)")
    is_distinct = len(set(ema.decays)) == len(ema.decays)
    rule = "names a decay twice"
    _require(is_distinct, "ema.decays", ema.decays, rule, "leave one out")
    _at_least("ema", ema, 1, ["every_steps"])


def _check_mesh(mesh: defaults.MeshConfig) -> None:
    names = ("data", "fsdp", "tensor", "data_dcn", "fsdp_dcn", "tensor_dcn")
    sizes = [getattr(mesh, name) for name in names]
    for name, size in zip(names, sizes, strict=True):
        rule = "is neither -1 nor positive"
        remedy = "use 1 or more, or -1 for what is left"
        _require(size == -1 or size >= 1, f"mesh.{name}", size, rule, remedy)
    unknown = ", ".join(n for n, s in zip(names, sizes, strict=True) if s == -1)
    rule, remedy = "is -1 more than once", "leave one -1 and give the others"
    _require(sizes.count(-1) <= 1, "mesh", unknown, rule, remedy)
    _at_least("mesh", mesh, 0, ["min_shard_mb"])


def _check_intervals(config: defaults.Config) -> None:
    _at_least("checkpoint", config.checkpoint, 1, ["every_steps", "keep"])
    also_kept = ["keep_every_steps", "keep_every_hours", "keep_best"]
    _at_least("checkpoint", config.checkpoint, 0, also_kept)
    _check_best(config)
    _at_least("log", config.log, 1, ["every_steps", "validation_examples"])
    _at_least("log", config.log, 1, ["grid_images"])
    _at_least("log", config.log, 0, ["validate_every_steps", "grid_every_steps"])


def _check_best(config: defaults.Config) -> None:
    """What is kept for its validation has to have been validated when it is saved."""
    saved, validated = config.checkpoint.every_steps, config.log.validate_every_steps
    is_judged = validated > 0 and saved % validated == 0
    count, metric = config.checkpoint.keep_best, config.checkpoint.best_metric
    _require(
        not (count and metric.startswith("validation/"))
        or (is_judged and bool(config.data.validation_sources)),
        "checkpoint.keep_best",
        count,
        f"judges by {metric}, which not every step that is saved has",
        "give data.validation_sources and a log.validate_every_steps that divides "
        f"checkpoint.every_steps={saved}",
    )


def _check_evaluate(config: defaults.Config) -> None:
    evaluate = config.evaluate
    _at_least("evaluate", evaluate, 0, ["every_steps", "guidance_scale"])
    _at_least("evaluate", evaluate, 2, ["num_images"])
    _at_least("evaluate", evaluate, 1, ["batch_size"])
    if evaluate.every_steps:
        is_text2im = config.model.family == "text2im"
        path, value = "evaluate.every_steps", evaluate.every_steps
        rule = "is for models that draw, not for a noised CLIP"
        _require(is_text2im, path, value, rule, "use 0")
        for name, needed in (
            ("evaluate.features", evaluate.features),
            ("evaluate.reference", evaluate.reference),
            ("data.validation_sources", config.data.validation_sources),
        ):
            _require(bool(needed), path, value, f"needs {name}", "set it, or use 0")


def _check_sample(sample: defaults.SampleConfig) -> None:
    _one_of("sample.sampler", sample.sampler, list(samplers.SAMPLERS))
    _within("sample.eta", sample.eta, 0.0, 1.0)
    rule = f"has no effect with sample.sampler={sample.sampler!r}"
    remedy = "use 0, or sample.sampler=ddim"
    is_used = sample.sampler == "ddim" or not sample.eta
    _require(is_used, "sample.eta", sample.eta, rule, remedy)
    names = ["guidance_scale", "clip_guidance_scale", "noise_temperature"]
    _at_least("sample", sample, 0, names)
