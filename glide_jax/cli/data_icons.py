"""Build a captioned set of icons: four styles of emoji, and clip art.

    glide data icons --output=runs/icons
    glide data check 'webdataset:runs/icons/train?captions=random'

It downloads packages by npm and apt-get, once, to the user's cache folder, and draws
them with resvg-py (`pip install -e ".[icons]"`). A package that cannot be reached is
left out. The splits are the folders train, seen, val_pairs and val_concepts; README.md
in the output is the data card.

SIGTERM or Ctrl-C stops it with exit code 42, and the same command starts over with the
packages that it has.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from absl import flags

from glide_jax.cli import data_flags, define, output_folders, stopping


def define_flags(values: flags.FlagValues) -> None:
    """Defines the output and its variants."""
    add = define.Define(values)
    add.path("output", "output folder")
    add.switch("skin_tones", "include emoji in the five skin tones", False)
    add.switch(
        "array_records",
        "write the set as ArrayRecord files too, in records/, one caption a picture",
        False,
    )


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Builds the set."""
    data_flags.check_arguments(values, arguments)
    from glide_jax.data import icon_drawing, icon_packages, icon_splits, icons
    from glide_jax.runtime import progress

    icon_drawing.version()
    with (
        stopping.on_signal() as poll,
        output_folders.made_folder(values.output) as folder,
    ):
        icon_splits.check_output(folder)
        found = icons.fetch(icon_packages.cache_folder(), poll)
        for remark in found.remarks:
            print(remark, flush=True)
        drawings = icons.list_drawings(found, skin_tones=values.skin_tones)
        with progress.ProgressBar(len(drawings), "drawing icons") as bar:

            def on_progress() -> None:
                poll()
                bar.update()

            icons.draw_all(found, drawings, on_progress)

        def complete(draft: pathlib.Path) -> None:
            if values.array_records:
                _build_records(draft, poll)

        counts, total = icon_splits.write(
            folder, found, on_progress=poll, complete=complete
        )
    for (style, reason), count in sorted(found.skipped.items()):
        print(f"left out, {style}: {count} ({reason})")
    for name, count in counts.items():
        print(f"{name}: {count} pictures, webdataset:{folder / name}")
    known = icon_splits.describe_digest(total, found, skin_tones=values.skin_tones)
    print(f"digest: {known}")
    return 0


def _build_records(draft: pathlib.Path, poll: Callable[[], None]) -> None:
    """Writes all splits to records/icons, with a random caption in training."""
    from glide_jax.data import builders, icon_splits, sources

    for name in icon_splits.SPLITS:
        if not any((draft / name).iterdir()):
            continue
        options = "?captions=random" if name == icon_splits.TRAIN else ""
        source = sources.open_source(f"webdataset:{draft / name}{options}")
        builders.build_array_records(
            source, draft / "records", "icons", split=name, on_progress=poll
        )
