"""Repaint a part of a picture to fit a prompt; every other pixel is kept.

    glide inpaint --base=runs/base_inpaint/bundle --upsampler=runs/up_inpaint/bundle \\
        --image=photo.png --mask=mask.png --prompt="a red circle" --output=out/filled
    glide inpaint --base=runs/base_inpaint/bundle --image=photo.png --mask=hole.png \\
        --prompt="a red circle" --num_images=4 --guidance_scale=5 --output=out/four

The picture is square. The mask has its size: white is repainted; or, in a file with
transparency, what is transparent.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import sampling
from glide_jax.errors import UserError


def define_flags(fv: flags.FlagValues) -> None:
    """The flags of every sampling verb, --image and --mask."""
    sampling.define_flags(fv)
    flags.DEFINE_string("image", None, "picture to repaint, square", flag_values=fv)
    flags.DEFINE_string(
        "mask",
        None,
        "white or transparent where to repaint, of the picture's size",
        flag_values=fv,
    )


def run(fv: flags.FlagValues, args: list[str]) -> int:
    """Repaints the picture for every prompt and writes the results."""
    import numpy as np

    from glide_jax.sample import images

    if args:
        raise UserError(f"{args[0]!r} is no flag; prompts are --prompt={args[0]!r}")
    if not (fv.image and fv.mask):
        raise UserError("give the picture as --image=FILE and its mask as --mask=FILE")
    prompts = sampling.read_prompts(fv)
    image, mask = images.read_image(fv.image), images.read_mask(fv.mask)
    with sampling.open_output(fv) as output:
        models = sampling.load_cascade(fv)
        with sampling.progress_bar(len(prompts) * models.num_stages) as progress:
            result = models.inpaint(
                np.stack([image] * len(prompts)),
                np.stack([mask] * len(prompts)),
                prompts,
                progress=progress,
                **sampling.read_options(fv),
            )
        sampling.write_result(
            output,
            models,
            prompts,
            fv.num_images,
            result,
            verb="inpaint",
            image=sampling.file_record(fv.image),
            mask=sampling.file_record(fv.mask),
        )
    print(f"{len(prompts)} pictures and samples.json are in {output}")
    return 0
