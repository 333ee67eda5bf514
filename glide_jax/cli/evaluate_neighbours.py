"""The training pictures nearest to samples: did the model copy what it was trained on?

    glide evaluate neighbours --samples=out/corgi --clip=runs/clip/bundle \\
        --source="webdataset:DIR/{00000..00099}.tar" --output=out/neighbours

Looks once through the whole source, a batch at a time, and keeps for each sample the
nearest pictures by the features of a noised CLIP at its least noise. neighbours.png
shows the samples with the nearest neighbours of all, neighbours.json lists every one.
How near is near is for eyes to tell: samples of training captions are nearer than
others without being copies.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import define, output_folders, sampling
from glide_jax.errors import UserError
from glide_jax.runtime import wording


def define_flags(values: flags.FlagValues) -> None:
    """Samples, training pictures, the CLIP and where the answer goes."""
    add = define.Define(values)
    add.path("samples", "folder of `glide sample`, e.g. out/corgi")
    add.text("source", "the training pictures, as in data.sources; its train split")
    add.path("clip", "bundle of a noised CLIP, e.g. runs/clip/bundle")
    add.path("output", "folder for neighbours.png and neighbours.json")
    add.whole("count", "training pictures to keep for each sample", 5, least=1)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Searches the source and writes what is nearest."""
    if arguments:
        raise UserError(f"{arguments[0]!r} is no flag; samples are --samples=DIR")
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
        with sampling.progress_bar(total, "pictures looked at") as progress:
            found = neighbours.search(
                extractor, samples, source, count=values.count, on_progress=progress
            )
        sheet = neighbours.draw(extractor, found, samples, source)
        image_io.write_png(folder / "neighbours.png", sheet)
        record = {
            "schema": neighbours.SCHEMA,
            "verb": "evaluate neighbours",
            "extractor": {"name": extractor.name, "digest": extractor.digest},
            "source": values.source,
            "searched": found.searched,
            "left_out": found.left_out,
            "samples": neighbours.as_json(found, samples),
        }
        image_io.write_sidecar(folder / "neighbours.json", record)
    first = record["samples"][0]
    print(
        f"nearest pair: {first['file']} and {first['nearest'][0]['record']},"
        f" {extractor.name} similarity {first['nearest'][0]['similarity']:.4f}\n"
        f"{wording.counted(len(samples), 'sample')} and"
        f" {wording.counted(found.searched, 'training picture')}"
        f" ({found.left_out} left out); look at {folder / 'neighbours.png'}"
    )
    return 0
