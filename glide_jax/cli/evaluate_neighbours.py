"""Finds the training pictures nearest to samples, to detect copies.

    glide evaluate neighbours --samples=out/corgi --clip=runs/clip/bundle \\
        --source="webdataset:DIR/{00000..00099}.tar" --output=out/neighbours

Reads the whole source once, in batches, and keeps for each sample the nearest pictures
by the features of a noised CLIP at its least noise. neighbours.png shows the samples
with the nearest neighbours, neighbours.json lists all. Whether a neighbour is a copy
needs human judgement: samples of training captions are nearer than others without being
copies.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import define, output_folders, sampling
from glide_jax.errors import UserError
from glide_jax.runtime import wording


def define_flags(values: flags.FlagValues) -> None:
    """Defines flags for samples, training pictures, the CLIP and the output."""
    add = define.Define(values)
    add.path("samples", "folder of `glide sample`, e.g. out/corgi")
    add.text("source", "the training pictures, as in data.sources; its train split")
    add.path("clip", "bundle of a noised CLIP, e.g. runs/clip/bundle")
    add.path("output", "folder for neighbours.png and neighbours.json")
    add.whole("count", "training pictures to keep for each sample", 5, least=1)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Searches the source and writes the nearest pictures."""
    if arguments:
        raise UserError(
            f"{arguments[0]!r} is not a flag; give samples as --samples=DIR"
        )
    for name, example in (
        ("samples", "out/corgi"),
        ("source", "folder:photos"),
        ("clip", "runs/clip/bundle"),
        ("output", "out/neighbours"),
    ):
        if not values[name].value:
            raise UserError(f"--{name} is missing, e.g. --{name}={example}")
    from glide_jax.data import schema, sources
    from glide_jax.eval import extractors, neighbours, picture_folder
    from glide_jax.sample import image_io

    samples = picture_folder.read(values.samples)
    source = sources.open_source(values.source)
    with output_folders.made_folder(values.output) as folder:
        extractor = extractors.load(f"clip:{values.clip}")
        if isinstance(source, schema.Drawable):
            source = source.at_px(extractor.px)
        total = len(samples) + len(source)
        with sampling.progress_bar(total, "pictures read") as progress:
            result = neighbours.search(
                extractor, samples, source, count=values.count, on_progress=progress
            )
        sheet = neighbours.draw(extractor, result, samples, source)
        image_io.write_png(folder / "neighbours.png", sheet)
        record = {
            "schema": neighbours.SCHEMA,
            "verb": "evaluate neighbours",
            "extractor": {"name": extractor.name, "digest": extractor.digest},
            "source": values.source,
            "searched": result.searched,
            "left_out": result.left_out,
            "samples": neighbours.as_json(result, samples),
        }
        image_io.write_sidecar(folder / "neighbours.json", record)
    first = record["samples"][0]
    print(
        f"nearest pair: {first['file']} and {first['nearest'][0]['record']},"
        f" {extractor.name} similarity {first['nearest'][0]['similarity']:.4f}\n"
        f"{wording.counted(len(samples), 'sample')} and"
        f" {wording.counted(result.searched, 'training picture')}"
        f" ({result.left_out} left out); see {folder / 'neighbours.png'}"
    )
    return 0
