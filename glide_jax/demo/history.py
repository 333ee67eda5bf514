"""What was drawn, in a folder: pictures, the inputs of their commands, and a record.

A ticket has a folder 0001, 0002, ...; of several works each has a folder in it. Such a
folder is one that `glide sample` writes, with the inputs and the command in addition.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import re
import threading
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from glide_jax.demo import bundles, commands
from glide_jax.demo.commands import Work
from glide_jax.errors import UserError
from glide_jax.eval import contact_sheet
from glide_jax.runtime import files
from glide_jax.sample import image_io, request, restore

_NUMBER = re.compile(r"\d{4,}")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The pictures of one work.

    Attributes:
      work: what was drawn.
      folder: where it is.
      pictures: the files, in order.
      command: draws the pictures again.
    """

    work: Work
    folder: pathlib.Path
    pictures: tuple[pathlib.Path, ...]
    command: str


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """The pictures of one ticket.

    Attributes:
      folder: where they are.
      runs: one for each work.
    """

    folder: pathlib.Path
    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        """A line for a list."""
        work = self.runs[0].work
        return f"{self.folder.name}  {work.verb}: {work.prompt:.60}"

    @property
    def command(self) -> str:
        """The commands of all runs."""
        return "\n\n".join(run.command for run in self.runs)

    @property
    def captioned(self) -> list[tuple[str, str]]:
        """(file, caption) of each picture."""
        return [
            (str(file), ", ".join(filter(None, [run.work.label, f"picture {i}"])))
            for run in self.runs
            for i, file in enumerate(run.pictures)
        ]

    @property
    def settings(self) -> list[dict[str, Any]]:
        """The settings of each run, as JSON values."""
        return [
            {
                "verb": run.work.verb,
                "prompt": run.work.prompt,
                "pictures": run.work.count,
                **({"strength": run.work.strength} if run.work.verb == "edit" else {}),
                **run.work.options,
            }
            for run in self.runs
        ]

    def pixels(self, run: int, picture: int) -> np.ndarray:
        """Returns a picture, uint8 (H, W, 3)."""
        return image_io.read_image(self.runs[run].pictures[picture])


class History:
    """The folder of a page, and the items that it drew since its start."""

    def __init__(self, folder: pathlib.Path):
        """`folder` exists; items of earlier starts stay there and are not listed."""
        self.folder = folder.resolve()
        self._shown = folder  # as in commands
        self._lock = threading.Lock()
        self.items: list[Item] = []

    def add(
        self,
        runs: Sequence[tuple[Work, request.CascadeOutput]],
        models: bundles.Models,
        *,
        is_listed: bool = True,
    ) -> Item:
        """Writes what was drawn.

        Raises:
          UserError: the folder cannot be written.
        """
        folder = self._new_folder()
        found = []
        for number, (work, drawn) in enumerate(runs, start=1):
            place = folder if len(runs) == 1 else folder / str(number)
            shown = self._shown / place.relative_to(self.folder)
            command = commands.command(work, models, str(shown))
            found.append(_write(place, work, drawn, models, command))
        item = Item(folder, tuple(found))
        if is_listed:
            with self._lock:
                self.items.append(item)
        return item

    def _new_folder(self) -> pathlib.Path:
        with self._lock:
            names = [path.name for path in self.folder.iterdir()]
            numbers = [int(name) for name in names if _NUMBER.fullmatch(name)]
            folder = self.folder / f"{max(numbers, default=0) + 1:04}"
            try:
                folder.mkdir()
            except OSError as error:
                raise UserError(
                    f"cannot write {folder} ({error.strerror}); free some space, or "
                    "start with another --output"
                ) from error
        return folder


def _write(
    folder: pathlib.Path,
    work: Work,
    drawn: request.CascadeOutput,
    models: bundles.Models,
    command: str,
) -> Run:
    entries, pictures = [], []
    for image, (_, index) in zip(drawn.images, drawn.seeds, strict=True):
        name = f"{index:06d}.png"
        entries.append({"index": index, "prompt": work.prompt, "file": name})
        pictures.append((name, image))
    record = {
        "verb": work.verb,
        "command": command,
        "bundles": {
            name: {
                "folder": place,
                "digest": restore.bundle_digest(pathlib.Path(place)),
            }
            for name, place in models.bundles.flags(work.verb)
        },
        "settings": drawn.settings,
        "images": entries,
    }
    inputs = [(f"{name}.png", pixels) for name, pixels in work.inputs.items()]
    image_io.write_all(folder, [*inputs, *pictures], record)
    return Run(work, folder, tuple(folder / name for name, _ in pictures), command)


def strip_of(item: Item) -> pathlib.Path:
    """Returns a picture of the runs as columns and their pictures as rows, labelled.

    Raises:
      UserError: it cannot be written.
    """
    path = item.folder / "strip.png"
    if not path.exists():
        image_io.write_png(path, _draw_strip(item))
    return path


def _draw_strip(item: Item) -> np.ndarray:
    columns = [
        [image_io.read_image(file) for file in run.pictures] for run in item.runs
    ]
    side = max(columns[0][0].shape)
    rows = [
        (f"picture {i}", list(pictures))
        for i, pictures in enumerate(zip(*columns, strict=True))
    ]
    titles = [run.work.label for run in item.runs]
    section = contact_sheet.Section("", item.runs[0].work.prompt, titles, rows)
    return contact_sheet.draw_contact_sheet(
        "", "", [section], tile_px=contact_sheet.whole_tile_px(side)
    )


def write_zip(item: Item) -> pathlib.Path:
    """Returns a zip file of an item, written beside it.

    Raises:
      UserError: it cannot be written.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for run in item.runs:
            for path in sorted(run.folder.iterdir()):
                archive.write(path, path.relative_to(item.folder.parent))
        archive.writestr(
            f"{item.folder.name}/settings.json", json.dumps(item.settings, indent=1)
        )
    target = item.folder.with_suffix(".zip")
    try:
        files.write_bytes(target, content.getvalue(), is_shared=True)
    except OSError as error:
        raise UserError(f"cannot write {target} ({error.strerror})") from error
    return target
