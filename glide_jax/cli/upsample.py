"""Enlarge pictures by the upsampler's factor, e.g. 4; no base model is needed.

    glide upsample --upsampler=runs/up/bundle --image=photo.png \\
        --prompt="a red circle" --output=out/large

A picture of the upsampler's input size is enlarged as by `glide sample`. A larger one
is enlarged in squares of that size, which overlap by at least a quarter and are blended
there, each with noise of its own. A picture smaller than a square is continued by its
border, and cut back.
"""

from __future__ import annotations

import itertools

from absl import flags

from glide_jax.cli import define, output, sampling
from glide_jax.errors import UserError
from glide_jax.runtime import counts


def define_flags(fv: flags.FlagValues) -> None:
    """The upsampler, the pictures, and what of sampling concerns it."""
    add = define.Define(fv)
    add.path("upsampler", "bundle of the upsampler, e.g. runs/up/bundle")
    sampling.define_devices(add)
    add.paths("image", "picture to enlarge; may be given again")
    add.texts("prompt", "what the pictures show; given again, one for each --image")
    sampling.define_output(add)
    sampling.define_upsampler_steps(add)


def run(fv: flags.FlagValues, args: list[str]) -> int:
    """Enlarges every picture and writes the results."""
    from glide_jax.sample import cascade, images, output_folder, tiles

    if args:
        raise UserError(f"{args[0]!r} is no flag; prompts are --prompt={args[0]!r}")
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
    pictures = [images.read_image(path, "--image") for path in fv.image]
    options = sampling.read_options(fv)
    if not fv.output:
        raise UserError("--output is missing, e.g. --output=out/large")
    with output.made_folder(fv.output) as folder, output.alone(folder):
        first = output_folder.choose_first_index(
            folder,
            append=fv.append,
            asked=fv.first_index if fv["first_index"].present else None,
            span=len(pictures),
        )
        models = cascade.Glide.load(
            upsampler=fv.upsampler, fsdp=fv.fsdp, compute_dtype=fv.compute_dtype
        )
        px = models.base_px
        grids = [tiles.Tiles(len(one), len(one[0]), px) for one in pictures]
        for path, grid in zip(fv.image, grids, strict=True):
            print(f"{path}: {grid.statement(models.image_px // px)}")
        results = []
        with sampling.progress_bar(sum(map(len, grids)), "squares drawn") as progress:
            # Pictures of one size that follow each other are drawn together.
            numbers = range(len(pictures))
            for _, group in itertools.groupby(numbers, lambda i: pictures[i].shape):
                group = list(group)
                results.append(
                    models.upsample(
                        [pictures[i] for i in group],
                        [prompts[i] for i in group],
                        progress=progress,
                        **{**options, "first_index": first + group[0]},
                    )
                )
        entries = [
            {
                "index": first + i,
                "prompt": prompt,
                "file": f"{first + i:06d}.png",
                "image": sampling.file_record(path),
            }
            for i, (prompt, path) in enumerate(zip(prompts, fv.image, strict=True))
        ]
        drawn = [image for result in results for image in result.images]
        names = [entry["file"] for entry in entries]
        output_folder.add(
            folder,
            list(zip(names, drawn, strict=True)),
            {
                "verb": "upsample",
                "bundles": sampling.name_bundles(models),
                "settings": results[0].settings,
                "images": entries,
            },
        )
        print(f"{counts.counted(len(drawn), 'picture')} and samples.json: {folder}")
    return 0
