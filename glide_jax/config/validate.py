"""Checks the settings of a run: each against its own rule, then against each other.

Whether the mesh fits the devices is checked where the devices are known.
"""

from __future__ import annotations

from typing import Any

from glide_jax.config import choices, defaults
from glide_jax.config.setting import check_values
from glide_jax.diffusion import respacing
from glide_jax.errors import UserError


def validate(config: defaults.Config) -> None:
    """Raises UserError at the first rule that the settings break."""
    check_values("", config)
    for name in ("model", *defaults.SECTIONS):
        check_values(f"{name}.", getattr(config, name))
    if isinstance(config.model, defaults.Text2ImConfig):
        _check_text2im(config.model)
        _check_respacing(config)
        _check_prediction(config)
        _check_student(config, config.model)
    else:
        _check_noised_clip(config.model)
        _check_clip_training(config)
    _check_data(config)
    _check_train(config)
    _check_ema(config.ema)
    _check_mesh(config.mesh)
    _check_checkpoint(config)
    _check_evaluate(config)
    _check_sample(config)


def _require(ok: bool, path: str, value: Any, rule: str, remedy: str) -> None:
    if not ok:
        raise UserError(f"{path}={value!r} {rule}; {remedy}")


def _divides(path: str, value: int, part_path: str, part: int) -> None:
    _require(
        value % part == 0,
        path,
        value,
        f"is not divisible by {part_path}={part}",
        f"use {max(value // part, 1) * part}, or change {part_path}",
    )


def _check_text2im(model: defaults.Text2ImConfig) -> None:
    _divides("model.text_width", model.text_width, "model.text_heads", model.text_heads)
    _check_levels(model)
    if model.low_res_px:
        _divides("model.image_px", model.image_px, "model.low_res_px", model.low_res_px)
        _require(
            model.low_res_px < model.image_px,
            "model.low_res_px",
            model.low_res_px,
            f"is not below model.image_px={model.image_px}",
            "use a smaller size for an upsampler, or 0 for a base model",
        )


def _check_levels(model: defaults.Text2ImConfig) -> None:
    mult = model.channel_mult
    _require(bool(mult), "model.channel_mult", mult, "is empty", "use e.g. (1, 2)")
    factor = model.patch_px * 2 ** (len(mult) - 1)
    patches = f" of {model.patch_px} px patches" if model.patch_px > 1 else ""
    _require(
        model.image_px % factor == 0,
        "model.image_px",
        model.image_px,
        f"cannot be halved for {len(mult)} levels{patches}",
        f"use a multiple of {factor}, or fewer entries in model.channel_mult",
    )
    level_px = [model.grid_px >> level for level in range(len(mult))]
    for px in model.attention_px:
        _require(
            px in level_px,
            "model.attention_px",
            model.attention_px,
            f"contains {px}, which is not the side of a level",
            f"levels are {', '.join(map(str, level_px))}",
        )
    for level, (px, factor) in enumerate(zip(level_px, mult, strict=True)):
        channels = model.num_channels * factor
        path = f"model.num_channels * model.channel_mult[{level}]"
        _divides(path, channels, "model.norm_groups", model.norm_groups)
        # The middle block has attention as well, at the width of the last level.
        if px in model.attention_px or level == len(mult) - 1:
            _divides(path, channels, "model.head_channels", model.head_channels)


def _check_noised_clip(model: defaults.NoisedClipConfig) -> None:
    for name, part in (
        ("image_px", "patch_px"),
        ("image_width", "image_heads"),
        ("text_width", "text_heads"),
    ):
        value, by = getattr(model, name), getattr(model, part)
        _divides(f"model.{name}", value, f"model.{part}", by)


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
        "drops captions, which the contrastive loss needs",
        "use 0 with model.family=noised_clip",
    )
    _require(
        train.timestep_sampling != "loss_second_moment",
        "train.timestep_sampling",
        train.timestep_sampling,
        "needs a loss per timestep, which the contrastive loss does not have",
        "use uniform or power with model.family=noised_clip",
    )
    for name in ("loss_type", "loss_weighting", "low_pass_factors", "student_loss"):
        value, default = getattr(train, name), getattr(defaults.TrainConfig, name)
        rule = "has no effect with model.family=noised_clip"
        remedy = f"leave it at {default!r}"
        _require(value == default, f"train.{name}", value, rule, remedy)


def _check_respacing(config: defaults.Config) -> None:
    """Checks that the default sampling schedule fits the training chain."""
    try:
        respacing.kept_timesteps(
            config.diffusion.num_timesteps,
            config.sample.respacing,
            config.diffusion.schedule,
        )
    except UserError as error:
        raise UserError(f"sample.{error}") from error


def _check_prediction(config: defaults.Config) -> None:
    """Checks that the loss and the sampler can read what the network predicts."""
    prediction, train = config.diffusion.prediction, config.train
    reads_both = prediction == "x_and_eps"
    rule = f"does not fit diffusion.prediction={prediction}"
    model = config.model
    assert isinstance(model, defaults.Text2ImConfig)
    has_x_start = prediction in choices.WITH_X_START
    _require(
        not model.residual_low_res or (bool(model.low_res_px) and has_x_start),
        *("model.residual_low_res", model.residual_low_res),
        "is for an upsampler that predicts x or x_and_eps",
        "use False",
    )
    _require(
        not reads_both or train.loss_type == "truncated_snr",
        *("train.loss_type", train.loss_type, rule + ", which has no variance"),
        "use truncated_snr",
    )
    _require(
        prediction == "eps" or not train.low_pass_factors,
        *("train.low_pass_factors", train.low_pass_factors, rule),
        "leave it empty",
    )
    is_weighted = train.loss_weighting != "none"
    _require(
        not is_weighted or train.loss_type in ("mse", "hybrid", "mse_vb"),
        *("train.loss_weighting", train.loss_weighting),
        f"weights a squared error that train.loss_type={train.loss_type} does not have",
        "use none, or train.loss_type=hybrid",
    )
    _require(
        not is_weighted or not train.low_pass_factors,
        *("train.loss_weighting", train.loss_weighting),
        f"does not weight train.low_pass_factors={train.low_pass_factors}",
        "use one of the two",
    )
    _require(
        is_weighted or train.loss_weighting_snr == 5.0,
        *("train.loss_weighting_snr", train.loss_weighting_snr),
        "has no effect with train.loss_weighting=none",
        "leave it at 5.0, or use min_snr or sigmoid",
    )
    _require(
        not reads_both or config.sample.sampler != "ddpm",
        *("sample.sampler", config.sample.sampler, rule + ", which has no variance"),
        "use ddim",
    )


def _check_student(config: defaults.Config, model: defaults.Text2ImConfig) -> None:
    """Checks the settings of a distillation against each other."""
    train, scales = config.train, model.guidance_range
    steps = train.student_steps
    matches = train.student_loss == "match_moments"
    is_range = len(scales) == 2 and scales[0] < scales[1] and not model.low_res_px
    _require(
        not scales or is_range,
        *("model.guidance_range", scales, "is not a range of guidance scales"),
        "give two growing numbers for a base model, e.g. (1.0, 5.0), or ()",
    )
    scale = config.sample.guidance_scale
    outside = f"is outside of model.guidance_range={scales}"
    _require(
        not scales or scales[0] <= scale <= scales[1],
        *("sample.guidance_scale", scale, outside),
        "give a scale of the range, or train a wider one",
    )
    if not train.teacher:
        for path, value in (
            ("train.student_steps", steps),
            ("model.guidance_range", scales),
        ):
            _require(not value, path, value, "needs a teacher", "set train.teacher")
    _require(
        bool(steps) or not matches,
        *("train.student_loss", train.student_loss, "is for a student of few steps"),
        "give train.student_steps and train.teacher",
    )
    if not train.teacher:
        return
    _require(
        bool(steps or scales),
        *("train.student_steps", steps, "gives the student nothing to learn"),
        "give its number of steps, or fold guidance by model.guidance_range=(1.0, 5.0)",
    )
    for path, value, wanted in (
        ("train.loss_type", train.loss_type, "truncated_snr"),
        ("train.loss_weighting", train.loss_weighting, "none"),
        ("sample.sampler", config.sample.sampler, "ddim"),
        ("sample.eta", config.sample.eta, 1.0 if matches else 0.0),
        ("sample.respacing", config.sample.respacing, f"grid{steps}"),
        ("train.low_pass_factors", train.low_pass_factors, ()),
    ):
        is_free = path == "sample.respacing" and not steps
        rule = "is not that of a student (train.teacher)"
        _require(is_free or value == wanted, path, value, rule, f"use {wanted!r}")
    _require(
        train.timestep_sampling != "loss_second_moment",
        *("train.timestep_sampling", train.timestep_sampling),
        *("is not for a student (train.teacher)", "use uniform or power"),
    )


def _check_data(config: defaults.Config) -> None:
    data = config.data
    _require(bool(data.sources), "data.sources", data.sources, "is empty", "give one")
    _require(
        len(data.weights) in (1, len(data.sources)),
        "data.weights",
        data.weights,
        f"does not match the {len(data.sources)} data.sources",
        "give one weight for each source, or one for equal shares",
    )
    _require(
        data.low_res_corruption == "none" or _is_upsampler(config),
        "data.low_res_corruption",
        data.low_res_corruption,
        "corrupts low_res, which this model does not take",
        "use none, or an upsampler (model.low_res_px)",
    )


def _is_upsampler(config: defaults.Config) -> bool:
    model = config.model
    return isinstance(model, defaults.Text2ImConfig) and bool(model.low_res_px)


def _check_train(config: defaults.Config) -> None:
    train, image_px = config.train, config.model.image_px
    is_long_enough = train.stall_secs == 0 or train.stall_secs >= 10
    rule, remedy = "is shorter than a slow step", "use 10 or more, or 0 for never"
    _require(is_long_enough, "train.stall_secs", train.stall_secs, rule, remedy)
    _require(
        train.skip_loss_above == 0 or train.skip_loss_above > 1,
        "train.skip_loss_above",
        train.skip_loss_above,
        "skips ordinary losses",
        "use more than 1, e.g. 3, or 0 for never",
    )
    _require(
        not train.timestep_power or train.timestep_sampling == "power",
        "train.timestep_power",
        train.timestep_power,
        f"has no effect with train.timestep_sampling={train.timestep_sampling!r}",
        "use 0, or train.timestep_sampling=power",
    )
    factors = train.low_pass_factors
    _require(
        all(image_px % factor == 0 for factor in factors),
        "train.low_pass_factors",
        factors,
        f"contains a factor that does not divide model.image_px={image_px}",
        "use e.g. (4, 8)",
    )
    _require(
        len(set(factors)) == len(factors),
        "train.low_pass_factors",
        factors,
        "contains a factor twice",
        "leave one out",
    )
    _check_remat(config)


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


def _check_ema(ema: defaults.EmaConfig) -> None:
    _require(bool(ema.decays), "ema.decays", ema.decays, "is empty", "use (0.9999,)")
    is_distinct = len(set(ema.decays)) == len(ema.decays)
    rule = "contains a decay twice"
    _require(is_distinct, "ema.decays", ema.decays, rule, "leave one out")


def _check_mesh(mesh: defaults.MeshConfig) -> None:
    names = ("data", "fsdp", "tensor", "data_dcn", "fsdp_dcn", "tensor_dcn")
    sizes = {name: getattr(mesh, name) for name in names}
    for name, size in sizes.items():
        remedy = "use 1 or more, or -1 for all remaining devices"
        _require(size != 0, f"mesh.{name}", size, "is not allowed", remedy)
    remaining = [name for name, size in sizes.items() if size == -1]
    rule, remedy = "are all -1", "leave one at -1 and give the others"
    _require(len(remaining) <= 1, "mesh", ", ".join(remaining), rule, remedy)


def _check_checkpoint(config: defaults.Config) -> None:
    """Checks that local steps come between saved ones, which have the best's metric."""
    saved, validated = config.checkpoint.every_steps, config.log.validate_every_steps
    path, local = "checkpoint.local_every_steps", config.checkpoint.local_every_steps
    rule = f"is not below checkpoint.every_steps={saved}"
    _require(local < saved, path, local, rule, "use fewer steps, or 0 for none")
    is_validated = validated > 0 and saved % validated == 0
    count, metric = config.checkpoint.keep_best, config.checkpoint.best_metric
    _require(
        not (count and metric.startswith("validation/"))
        or (is_validated and bool(config.data.validation_sources)),
        "checkpoint.keep_best",
        count,
        f"selects by {metric}, which some saved steps do not have",
        "give data.validation_sources and a log.validate_every_steps that divides "
        f"checkpoint.every_steps={saved}",
    )


def _check_evaluate(config: defaults.Config) -> None:
    evaluate = config.evaluate
    if not evaluate.every_steps:
        return
    path, value = "evaluate.every_steps", evaluate.every_steps
    is_text2im = config.model.family == "text2im"
    rule = "needs a model that samples images, not a noised CLIP"
    _require(is_text2im, path, value, rule, "use 0")
    for name, needed in (
        ("evaluate.features", evaluate.features),
        ("evaluate.reference", evaluate.reference),
        ("data.validation_sources", config.data.validation_sources),
    ):
        _require(bool(needed), path, value, f"needs {name}", "set it, or use 0")


def _check_sample(config: defaults.Config) -> None:
    from glide_jax.diffusion import samplers

    sample = config.sample
    is_used = samplers.SAMPLERS[sample.sampler].uses_eta or not sample.eta
    rule = f"has no effect with sample.sampler={sample.sampler!r}"
    remedy = "use 0, or sample.sampler=ddim"
    _require(is_used, "sample.eta", sample.eta, rule, remedy)
    _require(
        _is_upsampler(config) or not sample.match_low_res,
        "sample.match_low_res",
        sample.match_low_res,
        "has no effect on a model without low_res",
        "use False, or a model with model.low_res_px",
    )
