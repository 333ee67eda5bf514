"""Change a picture or finish a sketch to fit a prompt; its layout is kept.

    glide edit --base=runs/cfg/bundle --upsampler=runs/up/bundle --image=sketch.png \\
        --prompt="a red circle" --strength=0.6 --output=out/finished
    glide edit --base=runs/cfg/bundle --image=photo.png --strength=0.8 \\
        --source_prompt="a red circle" --prompt="a blue circle" --output=out/edited

The picture is noised up to a share --strength of the timesteps and denoised from there:
0 returns it, 1 keeps nothing of it. With --source_prompt, the caption of the picture,
the noise is computed by DDIM inversion and not drawn.

The picture may have any size, which is the result's as well. It is padded to a square
with its border pixels, drawn at the models' size, resized and cropped; so above 0 a
larger picture loses detail.

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
    """Defines the flags of all sampling verbs, the picture and the strength."""
    sampling.define_flags(fv)
    add = define.Define(fv)
    add.path("image", "picture to change, of any size and shape")
    add.number("strength", "0 returns the picture, 1 keeps nothing of it", 0.6)
    add.text("source_prompt", "caption of the picture, for DDIM inversion")


def run(fv: flags.FlagValues, args: list[str]) -> int:
    """Edits the picture for every prompt and writes the results."""
    from glide_jax.sample import image_io, region

    sampling.refuse_arguments(args)
    if not fv.image:
        raise UserError("give the picture as --image=FILE")
    asked = sampling.read_prompts(fv)
    image = image_io.read_image(fv.image, "--image")

    def draw(models: Glide, numbers: range, **options) -> CascadeOutput:
        part = [asked[number] for number in numbers]
        return models.edit(
            image,
            part,
            strength=fv.strength,
            source_prompts=fv.source_prompt,
            **options,
        )

    def statements(models: Glide) -> list[str]:
        height, width, _ = image.shape
        square = region.around_all(height, width)
        return [region.statement((height, width), square, models.image_px)]

    drawing.run(
        fv,
        drawing.Work(
            "edit",
            asked,
            draw,
            {"image": sampling.file_record(fv.image)},
            statements=statements,
        ),
    )
    return 0
