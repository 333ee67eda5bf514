"""Write a source as a data set of ArrayRecord files.

    glide data build --source=folder:photos --name=photos --output=records
    glide data build --source=folder:more --name=photos --output=records \\
        --split=validation
    glide data build --source=folder:photos --name=small --output=records --px=128

With --px a larger picture is stored with a short side of that many pixels, as JPEG of
quality 95. Smaller pictures keep their size. Copies are faster to decode than large
photos.

SIGTERM or Ctrl-C stops it with exit code 42. The data set appears under its name when
it is complete. The same command starts over, and removes the files of a killed one.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import data_flags, define, output_folders, sampling, stopping


def define_flags(values: flags.FlagValues) -> None:
    """Defines the source, the output and the size of the copies."""
    add = define.Define(values)
    data_flags.define_source(add)
    add.path("output", "output folder")
    add.text("name", "name of the data set", "captioned_images")
    add.text(
        "split",
        "split that is read, if the source has splits, and written; it is added to an "
        "existing data set of the same --output and --name",
        "train",
    )
    add.whole(
        "px", "largest short side of the stored pictures; default: no limit", least=8
    )
    add.number(
        "max_bad_frac", "share of bad records above which the command fails", 0.01
    )


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Writes the data set."""
    data_flags.check_arguments(values, arguments)
    from glide_jax.data import builders

    with (
        stopping.on_signal() as poll,
        output_folders.made_folder(values.output) as folder,
    ):
        source = data_flags.open_source(values.source, values.split)
        with sampling.progress_bar(len(source), "writing records") as update:

            def on_progress() -> None:
                poll()
                update(1)

            place = builders.build_array_records(
                source,
                folder,
                values.name,
                split=values.split,
                px=values.px,
                max_bad_frac=values.max_bad_frac,
                on_progress=on_progress,
            )
    spec = f"tfds:{place}?split={values.split}"
    setting = "sources" if values.split == "train" else "validation_sources"
    print(f"records: {place}; use them with '--config.data.{setting}={spec}'")
    return 0
