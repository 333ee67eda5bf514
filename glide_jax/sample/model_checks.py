"""Checks that the models of a cascade fit together."""

from __future__ import annotations

from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.sample import restore


def check_models(
    base: restore.SampleModel | None,
    upsampler: restore.SampleModel | None,
    clip: restore.SampleModel | None,
) -> None:
    """Raises UserError, naming bundle, value and rule, where models do not fit."""
    if upsampler is not None and role(upsampler) != "upsampler":
        raise UserError(
            f"{upsampler.folder} is not an upsampler (model.low_res_px=0); give "
            "the bundle of an upsample256 run"
        )
    if base is None:
        if upsampler is None or clip is not None:
            raise UserError(
                "no base model was given; give its bundle (only an upsampler can do "
                "without, to enlarge pictures)"
            )
        return
    size = base.config.model
    if role(base) != "base":
        raise UserError(
            f"{base.folder} is not a base model; give an upsampler as --upsampler "
            "and a noised CLIP as --clip"
        )
    if upsampler is not None:
        low_res_px = getattr(upsampler.config.model, "low_res_px", 0)
        if low_res_px != size.image_px:
            raise UserError(
                f"{upsampler.folder} enlarges pictures of {low_res_px} px, but "
                f"{base.folder} draws {size.image_px} px; give the upsampler that was "
                "trained for this base model"
            )
        if upsampler.tokenizer.digest() != base.tokenizer.digest():
            raise UserError(
                f"{upsampler.folder} and {base.folder} have different tokenizers; give "
                "models that were trained with one"
            )
    if clip is not None:
        _check_clip(base, clip)


def _check_clip(base: restore.SampleModel, clip: restore.SampleModel) -> None:
    size = clip.config.model
    if role(clip) != "noised_clip":
        raise UserError(
            f"{clip.folder} is not a noised CLIP (model.family={size.family}); give "
            "the bundle of a noised_clip run"
        )
    if size.image_px != base.config.model.image_px:
        raise UserError(
            f"{clip.folder} reads {size.image_px} px, but {base.folder} draws "
            f"{base.config.model.image_px} px; give a CLIP of that size"
        )
    if clip.config.diffusion != base.config.diffusion:
        raise UserError(
            f"{clip.folder} was trained under {clip.config.diffusion}, {base.folder} "
            f"under {base.config.diffusion}; a CLIP guides only the noise it has seen"
        )


def role(model: restore.SampleModel) -> str:
    """Returns "base", "upsampler" or "noised_clip"."""
    return build.role_of(model.config.model)
