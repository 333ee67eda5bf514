"""Pictures from prompts.

    glide sample --base=runs/cfg/bundle --upsampler=runs/up/bundle \\
        --prompt="a small red circle on a black background" --output=out/circle
    glide sample --base=runs/cfg/bundle --clip=runs/clip/bundle --num_images=4 \\
        --guidance_mode=cfg+clip --guidance_scale=3 --prompt_file=prompts.txt \\
        --output=out/guided
"""

from __future__ import annotations

import math

from absl import flags

from glide_jax.cli import sampling
from glide_jax.errors import UserError


def define_flags(fv: flags.FlagValues) -> None:
    """The flags of every sampling verb."""
    sampling.define_flags(fv)


def run(fv: flags.FlagValues, args: list[str]) -> int:
    """Draws every prompt and writes the pictures with their record."""
    if args:
        raise UserError(f"{args[0]!r} is no flag; prompts are --prompt={args[0]!r}")
    prompts, output = sampling.read_prompts(fv), sampling.read_output(fv)
    models = sampling.load_cascade(fv)
    total = len(prompts) * models.num_stages
    with sampling.progress_bar(total) as progress:
        result = models.sample(prompts, progress=progress, **sampling.read_options(fv))
    columns = fv.num_images if fv.num_images > 1 else math.isqrt(len(prompts) - 1) + 1
    sampling.write_result(output, models, prompts, columns, result, verb="sample")
    print(f"{len(prompts)} pictures and samples.json are in {output}")
    return 0
