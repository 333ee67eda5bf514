"""Repaint a part of a picture to fit a prompt, or continue it beyond its sides.

    glide inpaint --base=runs/inpaint/bundle --upsampler=runs/up_inpaint/bundle \\
        --image=photo.png --mask=mask.png --prompt="a red circle" --output=out/filled
    glide inpaint --base=runs/inpaint/bundle --image=photo.png --extend=0,0,64,0 \\
        --prompt="a red circle" --num_images=4 --output=out/wider

The mask has the picture's size. White pixels are repainted, or the transparent ones of
a copy of the picture; --mask_from reads other masks. All other pixels are kept. The
picture may have any size, which is the result's as well: a square around the repainted
part is drawn at the model's size and pasted back. A smaller part of a large photo is
sharper.

Pictures are written batch by batch. The same command continues a run that was stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import define, drawing, sampling
from glide_jax.errors import UserError

if TYPE_CHECKING:
    from glide_jax.sample.cascade import Glide
    from glide_jax.sample.request import CascadeOutput


def define_flags(fv: flags.FlagValues) -> None:
    """Defines the flags of all sampling verbs, the picture and its mask."""
    sampling.define_flags(fv)
    add = define.Define(fv)
    add.path("image", "picture to repaint")
    add.path("mask", "picture of the same size, white or transparent to repaint")
    add.choice(
        "mask_from",
        ["white", "black", "alpha", "opaque", "nonzero"],
        "pixels of the mask that are repainted: white, black, transparent (alpha), "
        "opaque (strokes on a transparent layer), or above 0 (labels); default: white, "
        "or alpha for a copy of the picture",
    )
    meaning = "instead of --mask: pixels to add at the left, top, right and bottom"
    add.numbers("extend", meaning)
    sampling.define_options(add, "inpaint")


def run(fv: flags.FlagValues, args: list[str]) -> int:
    """Repaints the picture for every prompt and writes the results."""
    from glide_jax.sample import image_io, inpaint_conditions, mask_files, outpaint

    sampling.refuse_arguments(args)
    if not fv.image or bool(fv.mask) == bool(fv.extend):
        raise UserError(
            "give the picture as --image=FILE and its mask as --mask=FILE, or "
            "--extend=LEFT,TOP,RIGHT,BOTTOM"
        )
    if fv.mask_from and not fv.mask:
        raise UserError(
            f"--mask_from={fv.mask_from} is for a mask; give --mask, or leave it out"
        )
    asked = sampling.read_prompts(fv)
    image = image_io.read_image(fv.image, "--image")
    inputs = {"image": sampling.file_record(fv.image)}
    if fv.mask:
        mask, statement = mask_files.read(
            fv.mask, fv.mask_from, picture=image, name="--mask"
        )
        inputs["mask"] = {**sampling.file_record(fv.mask), "read_as": statement}
        print(f"mask: {statement}")
    else:
        margins = sampling.read_numbers(fv, "extend")
        canvas = outpaint.make_canvas(image[None], outpaint.as_margins(margins))

    def draw(models: Glide, numbers: range, **options) -> CascadeOutput:
        part = [asked[number] for number in numbers]
        if fv.mask:
            return models.inpaint(image, mask, part, **options)
        return models.outpaint(image, part, margins, **options)

    def statements(models: Glide) -> list[str]:
        if not fv.mask:
            return []
        px = models.base_px, models.image_px
        return [inpaint_conditions.statement(image, mask, *px, fv.feather_px)]

    def count_squares(models: Glide, number: int) -> int:
        return 1 if fv.mask else len(outpaint.squares(canvas, models.image_px))

    drawing.run(
        fv,
        drawing.Work(
            "inpaint",
            asked,
            draw,
            inputs,
            statements=statements,
            num_squares=count_squares,
        ),
    )
    return 0
