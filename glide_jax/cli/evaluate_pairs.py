"""Makes blinded pairs of pictures, and a page on which people choose between them.

    glide evaluate pairs --samples=out/cfg --samples=out/clip --output=out/study
    glide evaluate pairs --samples=out/a --samples=out/b --samples=out/c \\
        --num_pairs=1000 --seed=1 --output=out/study

Each --samples is a folder of `glide sample`, all of the same prompts. Raters receive
only the folder rater/: vote.html, which needs no network, or sheet.csv and the
pictures. key.json is not for raters: with it `glide evaluate elo` reads their answers.
"""

from __future__ import annotations

import pathlib

from absl import flags

from glide_jax.cli import define, output_folders, stopping
from glide_jax.errors import UserError
from glide_jax.runtime import wording


def define_flags(values: flags.FlagValues) -> None:
    """Defines flags for the folders of samples, the pairs and the output."""
    add = define.Define(values)
    add.paths("samples", "folder of `glide sample`, e.g. out/cfg; one for each model")
    add.whole(
        "num_pairs",
        "pairs, spread evenly over the models (the paper: 1000); all by default",
        least=1,
    )
    add.whole("seed", "seed of order and sides", 0, least=0)
    add.path("output", "folder of the study, e.g. out/study")


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Plans the pairs and writes the study."""
    from glide_jax.eval import picture_folder
    from glide_jax.study import pairs

    if arguments:
        raise UserError(
            f"{arguments[0]!r} is not a flag; give folders as --samples=DIR"
        )
    given = values.samples or []
    if len(given) < 2:
        raise UserError(
            f"{len(given)} folders of samples given; give two or more, as"
            " --samples=out/cfg --samples=out/clip"
        )
    if not values.output:
        raise UserError("--output is missing, e.g. --output=out/study")
    names = picture_folder.names_of(given)
    folders = {
        name: picture_folder.read(path) for name, path in zip(names, given, strict=True)
    }
    study = pairs.plan(folders, num_pairs=values.num_pairs, seed=values.seed)
    record = {
        "seed": values.seed,
        "models": {
            name: str(pathlib.Path(path).resolve())
            for name, path in zip(names, given, strict=True)
        },
    }
    with (
        output_folders.made_folder(values.output) as folder,
        stopping.on_signal() as poll,
    ):
        pairs.write(folder, study, record, poll)
    print(
        f"{wording.counted(len(study.pairs), 'pair')} of {', '.join(names)}\n"
        f"for raters: {folder / 'rater'} (open vote.html)\n"
        f"not for raters: {folder / 'key.json'}"
    )
    return 0
