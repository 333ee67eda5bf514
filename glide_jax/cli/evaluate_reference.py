"""Extracts features of the real pictures that samples are compared with.

    glide evaluate reference --source="webdataset:coco/val2014-*.tar" --px=256 \\
        --features=inception_tf1:inception.pt --output=coco256.npz
    glide evaluate reference --source=shapes:quickstart --max_images=2000 --px=16 \\
        --features=clip:runs/clip/bundle --output=ref.npz

The paper's protocol: every record of the validation split, in order, centre-cropped,
never mirrored. Captions are not needed. --source may also be a folder of pictures, read
as folder:DIR, a folder of glide sample, or a .npz file with pictures (arr_0) of --px.

The file has the layout of OpenAI's evaluator: with --keep_images the pictures (arr_0),
and statistics of their features. These are mu, sigma, mu_s and sigma_s for
inception_tf1, whose features are the evaluator's, and e.g. noised_clip_mu for others.
It also has the features of every picture (pool), for KID, precision and recall, and a
record of its own settings.

A signal ends the command with exit code 42; the same command continues from there.
"""

from __future__ import annotations

import pathlib

from absl import flags

from glide_jax.cli import define, processes, stopping
from glide_jax.errors import UserError
from glide_jax.runtime import wording


def define_flags(values: flags.FlagValues) -> None:
    """Defines flags for the pictures, the extractor and the output."""
    add = define.Define(values)
    meaning = "folder, .npz file or data source, whose validation split is read"
    add.path_or_source("source", meaning)
    add.whole("px", "side of the pictures that are compared with it", least=8)
    meaning = "inception_tf1:FILE, inception:FILE, efficientnet_lite0 or clip:BUNDLE"
    add.kind_and_path("features", meaning)
    add.path("output", "file to write, e.g. ref.npz")
    add.whole("max_images", "pictures to read at most; all by default", least=2)
    add.switch("keep_images", "store the pictures, too, for other evaluators", False)
    add.whole("batch_size", "pictures at once; changes no metric", 64, least=1)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Writes the file."""
    from glide_jax.eval import extractors, reference_files
    from glide_jax.parallel import device_mesh, sharing
    from glide_jax.runtime import progress

    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag; give the source as --source")
    for name in ("source", "px", "features", "output"):
        if not values[name].value:
            raise UserError(f"--{name} is missing; see glide evaluate reference --help")
    path = pathlib.Path(values.output)
    if path.suffix != ".npz":
        raise UserError(
            f"--output={path} does not end in .npz; give e.g. --output=ref.npz"
        )
    with (
        processes.joined(values),
        stopping.on_signal(stopping.ALL_KEPT) as poll,
        processes.shared_folder(str(path.parent), path),
    ):
        pictures = reference_files.open_pictures(
            values.source, values.px, values.max_images
        )
        extractor = extractors.load(values.features, mesh=device_mesh.make_local_mesh())
        with progress.ProgressBar(
            pictures.count, "pictures read", enabled=sharing.is_first()
        ) as bar:

            def on_batch(count: int) -> None:
                bar.update(count)
                poll()

            record = reference_files.build(
                pictures,
                extractor,
                path,
                keep_images=values.keep_images,
                batch_size=values.batch_size,
                on_batch=on_batch,
            )
    if not sharing.is_first():
        return 0
    left_out = f", {record['unreadable']} left out" if record["unreadable"] else ""
    print(
        f"{wording.counted(record['count'], 'picture')} of {record['px']} px by"
        f" {record['extractor']} {record['digest']}{left_out}: {path}"
    )
    return 0
