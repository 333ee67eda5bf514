"""Enlarge pictures by the upsampler's factor, e.g. 4; no base model is needed.

    glide upsample --upsampler=runs/up/bundle --image=photo.png \\
        --prompt="a red circle" --output=out/large

A picture of the upsampler's input size is enlarged as by `glide sample`. A larger one
is enlarged in squares of that size, each with its own noise, which overlap by at least
a quarter and are blended there. A picture smaller than a square is padded with its
border pixels and cropped afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import define, drawing, sampling
from glide_jax.errors import UserError

if TYPE_CHECKING:
    from glide_jax.sample.cascade import Glide
    from glide_jax.sample.request import CascadeOutput


def define_flags(fv: flags.FlagValues) -> None:
    """Defines the upsampler, the pictures, and the options of the upsampler."""
    add = define.Define(fv)
    add.path("upsampler", "bundle of the upsampler, e.g. runs/up/bundle")
    sampling.define_devices(add)
    add.paths("image", "picture to enlarge; may be repeated")
    add.texts("prompt", "caption of all pictures, or repeated, one for each --image")
    sampling.define_output(add)
    sampling.define_options(add, "upsampler")


def run(fv: flags.FlagValues, args: list[str]) -> int:
    """Enlarges every picture and writes the results."""
    from glide_jax.sample import cascade, image_io, region

    sampling.refuse_arguments(args)
    if not fv.upsampler or not fv.image or not fv.prompt:
        raise UserError(
            "give the model as --upsampler=BUNDLE, the picture as --image=FILE and what"
            ' it shows as --prompt="..."'
        )
    if len(fv.prompt) not in (1, len(fv.image)):
        raise UserError(
            f"--prompt is given {len(fv.prompt)} times and --image {len(fv.image)} "
            "times; give one prompt for all pictures, or one for each"
        )
    prompts = fv.prompt if len(fv.prompt) > 1 else fv.prompt * len(fv.image)
    pictures = [image_io.read_image(path, "--image") for path in fv.image]

    def load(values: flags.FlagValues) -> Glide:
        return cascade.Glide.load(
            upsampler=values.upsampler,
            fsdp=values.fsdp,
            compute_dtype=values.compute_dtype,
        )

    def cut(models: Glide, number: int) -> region.Tiles:
        height, width, _ = pictures[number].shape
        return region.Tiles(height, width, models.base_px)

    def statements(models: Glide) -> Iterator[str]:
        factor = models.image_px // models.base_px
        for number, path in enumerate(fv.image):
            yield f"{path}: {cut(models, number).statement(factor)}"

    def draw(models: Glide, numbers: range, **options) -> CascadeOutput:
        (number,) = numbers
        return models.upsample(pictures[number], prompts[number], **options)

    drawing.run(
        fv,
        drawing.Work(
            "upsample",
            prompts,
            draw,
            {"images_enlarged": [sampling.file_record(path) for path in fv.image]},
            load=load,
            statements=statements,
            num_squares=lambda models, number: len(cut(models, number)),
            at_once=1,
        ),
    )
    return 0
