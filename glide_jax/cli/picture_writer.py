"""Writes the pictures of a run as they are drawn, by one process or by several."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from glide_jax.cli import stopping
from glide_jax.eval import contact_sheet
from glide_jax.parallel import distributed, sharing
from glide_jax.runtime import wording
from glide_jax.sample import (
    cascade,
    image_io,
    output_folder,
    part_folders,
    prompt_tokens,
    request,
)

# Most pictures in grid.png.
MAX_GRID = 100

# (all pictures of a run, those of the base model) -> sheets of them by file name
Sheets = Callable[[list[np.ndarray], list[np.ndarray]], dict[str, np.ndarray]]


class Left(NamedTuple):
    """What is left of a run, as all of its processes know it.

    Attributes:
      first_index: index of the first picture of the whole run.
      num_done: number of pictures of the run in samples.json, the first ones.
      parts: the numbers of the pictures that are written as parts, see
        `part_folders`.
      batches: the pictures to draw, in the order of their numbers.
    """

    first_index: int
    num_done: int
    parts: list[sharing.Span]
    batches: list[sharing.Span]

    @property
    def in_parts(self) -> bool:
        """Whether pictures are written as parts, as those of several processes are."""
        return bool(self.parts) or distributed.process_count() > 1


class Writer:
    """Writes the pictures of a run into its folder, in the order of the prompts."""

    def __init__(
        self,
        prompts: Sequence[prompt_tokens.Prompt],
        models: cascade.Glide,
        folder: pathlib.Path,
        left: Left,
        record: dict[str, Any],
        *,
        num_images: int,
        sheets: Sheets | None,
    ):
        """Takes the work, what is left of it, and the start of its record.

        Args:
          prompts: one for each picture.
          models: the models that draw them.
          folder: the output folder.
          left: what is left.
          record: the run's record without settings and pictures.
          num_images: of each prompt.
          sheets: see `Sheets`; None: only grid.png.
        """
        self._prompts, self._models, self._folder = prompts, models, folder
        self._left, self._draw_sheets = left, sheets
        spans = [(0, left.num_done), *left.parts]
        self._num_kept = sum(stop - first for first, stop in spans)
        self._columns = _grid_columns(num_images, len(prompts))
        self._record = record

    def kept(self) -> str:
        """Returns a line about the pictures that a signal leaves."""
        if not self._num_kept:
            return stopping.NOTHING_KEPT
        asked = wording.counted(len(self._prompts), "picture")
        return f"{self._num_kept:,} of {asked} kept; the same command continues"

    def write(self, result: request.CascadeOutput, span: sharing.Span) -> None:
        """Writes the pictures of a batch, and the sheets with the last ones."""
        first, stop = span
        pictures, entries = [], []
        for i, prompt in enumerate(self._prompts[first:stop]):
            index = result.seeds[i][1]
            entry = {"index": index, "prompt": prompt, "file": f"{index:06d}.png"}
            pictures.append((entry["file"], result.images[i]))
            if self._models.num_stages > 1:
                entry["base_file"] = f"{index:06d}_base.png"
                pictures.append((entry["base_file"], result.base_images[i]))
            entries.append(entry)
        settings = {**result.settings, "first_index": self._left.first_index}
        record = {**self._record, "settings": settings, "images": entries}
        if self._left.in_parts:
            part_folders.write(self._folder, span, pictures, record)
        else:
            if stop == len(self._prompts):
                pictures += self._sheets(result)
            output_folder.add(self._folder, pictures, record)
        self._num_kept += stop - first

    def finish(self) -> None:
        """Collects the parts of all processes, with their sheets, on process 0."""
        if not (self._left.in_parts and sharing.is_first()):
            return
        for span in sharing.of_others(self._left.batches):
            record = part_folders.record_of(self._folder, span)
            sharing.wait_for_file(record, flag="--output")
        spans = sorted([*self._left.parts, *self._left.batches])
        last = output_folder.read_record(part_folders.path(self._folder, spans[-1]))
        part_folders.collect(
            self._folder,
            spans,
            self._sheets(None, spans),
            {**self._record, "settings": last["settings"] if last else {}},
        )

    def _sheets(
        self, result: request.CascadeOutput | None, spans: Sequence[sharing.Span] = ()
    ) -> list[tuple[str, np.ndarray]]:
        """Returns the sheets of the run; `result` or the parts have the last ones."""
        count = len(self._prompts)
        has_grid = 1 < count <= MAX_GRID
        if not has_grid and self._draw_sheets is None:
            return []
        large, small = self._all_drawn(result, spans)
        sheets = {}
        if has_grid:
            captions = [prompt_tokens.as_text(prompt) for prompt in self._prompts]
            sheets["grid.png"] = contact_sheet.draw_grid(large, captions, self._columns)
        if self._draw_sheets is not None:
            sheets |= self._draw_sheets(large, small)
        return list(sheets.items())

    def _all_drawn(
        self, result: request.CascadeOutput | None, spans: Sequence[sharing.Span]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns all pictures and base pictures; earlier batches are read."""
        own = []
        if self._left.num_done or (result is not None and self._num_kept):
            record = output_folder.read_record(self._folder)
            entries = output_folder.own_entries(record) if record else []
            own = [(entry, self._folder) for entry in entries]
        for span in spans:
            own += part_folders.files(self._folder, span)

        def joined(name: str, last: Iterable[np.ndarray]) -> list[np.ndarray]:
            files = [folder / entry[name] for entry, folder in own]
            return [*map(image_io.read_image, files), *last]

        large = small = joined("file", () if result is None else result.images)
        if self._models.num_stages > 1:
            last = () if result is None else result.base_images
            small = joined("base_file", last)
        return large, small


def _grid_columns(num_images: int, count: int) -> int:
    """Returns the columns: a row per prompt, or a square for one or single pictures."""
    return num_images if 1 < num_images < count else math.isqrt(count - 1) + 1
