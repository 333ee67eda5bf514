"""Repaint a part of a picture to fit a prompt, or continue it beyond its sides.

    glide inpaint --base=runs/inpaint/bundle --upsampler=runs/up_inpaint/bundle \\
        --image=photo.png --mask=mask.png --prompt="a red circle" --output=out/filled
    glide inpaint --base=runs/inpaint/bundle --image=photo.png --extend=0,0,64,0 \\
        --prompt="a red circle" --num_images=4 --output=out/wider

The mask has the picture's size: white is repainted; or, of a copy of the picture with
a hole rubbed out, what is transparent. --mask_from reads other masks. Every other pixel
is kept. The picture has any size and shape, and so has the result: a square around what
is repainted is drawn at the model's size and pasted back. Its detail is the model's, so
a part of a large photo is sharper the smaller it is.

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
    """The flags of every sampling verb and what is to be filled."""
    sampling.define_flags(fv)
    add = define.Define(fv)
    add.path("image", "picture to repaint")
    add.path("mask", "white or transparent where to repaint, of the picture's size")
    add.choice(
        "mask_from",
        ["white", "black", "alpha", "opaque", "nonzero"],
        "what the mask repaints: what is white, black, transparent (alpha), opaque "
        "(strokes on a transparent layer), or above 0 (labels); if left out, white, or "
        "alpha of a copy of the picture",
    )
    meaning = "instead of --mask: pixels to add at the left, top, right and bottom"
    add.numbers("extend", meaning)
    sampling.define_options(add, "inpaint")


def run(fv: flags.FlagValues, args: list[str]) -> int:
    """Repaints the picture for every prompt and writes the results."""
    from glide_jax.sample import image_io, inpaint_conditions, mask_files, outpaint

    if args:
        raise UserError(
            f"{args[0]!r} is not a flag; give prompts as --prompt={args[0]!r}"
        )
    if not fv.image or bool(fv.mask) == bool(fv.extend):
        raise UserError(
            "give the picture as --image=FILE and its mask as --mask=FILE, or "
            "--extend=LEFT,TOP,RIGHT,BOTTOM"
        )
    if fv.mask_from and not fv.mask:
        raise UserError(
            f"--mask_from={fv.mask_from} is for a mask, and no --mask is given"
        )
    prompts = sampling.read_prompts(fv)
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
    asked = [prompt for prompt in prompts for _ in range(fv.num_images)]

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
