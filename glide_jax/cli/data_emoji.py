"""Build a captioned set of emoji as webdataset tars.

    glide data emoji --output=runs/emoji

It reads Debian's fonts-noto-color-emoji and unicode-data packages. SIGTERM or Ctrl-C
stops it with exit code 42, and the same command starts over.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import data_flags, define, output_folders, stopping


def define_flags(values: flags.FlagValues) -> None:
    """Defines --output."""
    define.Define(values).path("output", "output folder")


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Builds the set."""
    data_flags.check_arguments(values, arguments)
    from glide_jax.data import emoji
    from glide_jax.runtime import progress

    with (
        stopping.on_signal() as poll,
        output_folders.made_folder(values.output) as folder,
        progress.ProgressBar(len(emoji.read_names()), "drawing emoji") as bar,
    ):

        def on_progress(done: int, total: int) -> None:
            del done, total
            poll()
            bar.update()

        paths = emoji.build_emoji(folder, on_progress=on_progress)
    for split, path in paths.items():
        print(f"{split}: {path}")
    return 0
