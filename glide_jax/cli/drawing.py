"""Draws the pictures of a sampling verb, and writes them batch by batch."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from glide_jax.cli import output_folders, sampling, stopping
from glide_jax.runtime import wording

if TYPE_CHECKING:
    import numpy as np

    from glide_jax.sample.cascade import Glide
    from glide_jax.sample.options import SamplingOptions
    from glide_jax.sample.output_folder import Start
    from glide_jax.sample.prompt_tokens import Prompt
    from glide_jax.sample.request import CascadeOutput

# Most pictures in grid.png.
MAX_GRID = 100
_MODELS = ("base", "upsampler", "clip")
# Flags that change no picture, or that samples.json has as prompts and digests.
_NOT_COMPARED = (
    *("output", "append", "help", "prompt", "prompt_file", "blend", "image", "mask"),
    *_MODELS,
)

# (models, numbers of some pictures, **options of Glide with progress) -> those pictures
Draw = Callable[..., "CascadeOutput"]


class Drawn(NamedTuple):
    """All pictures of a run with their prompts, uint8 (H, W, 3) each.

    Without an upsampler, `base_images` are `images`.
    """

    prompts: Sequence[Prompt]
    images: list[np.ndarray]
    base_images: list[np.ndarray]


# All pictures of a run and the models -> sheets of them by their file names
Sheets = Callable[[Drawn, "Glide"], "dict[str, np.ndarray]"]


@dataclasses.dataclass(frozen=True)
class Work:
    """The pictures that a verb draws.

    Attributes:
      verb: its name.
      prompts: one for each picture.
      draw: draws some of the pictures.
      inputs: input files in samples.json, see `sampling.file_record`.
      load: loads the models.
      statements: lines for the user, once the models are known.
      num_squares: number of squares of the models' size in a picture, by its number.
      at_once: number of pictures in one call of `draw`; None: the batch size.
      sheets: drawn of all pictures at the end, in addition to grid.png.
    """

    verb: str
    prompts: Sequence[Prompt]
    draw: Draw
    inputs: dict[str, Any] = dataclasses.field(default_factory=dict)
    load: Callable[[flags.FlagValues], Glide] = sampling.load_models
    statements: Callable[[Glide], Iterable[str]] = lambda models: ()
    num_squares: Callable[[Glide, int], int] = lambda models, number: 1
    at_once: int | None = None
    sheets: Sheets | None = None


def run(values: flags.FlagValues, work: Work) -> None:
    """Draws and writes the pictures batch by batch; continues an interrupted run.

    The batches of an interrupted run have the same pictures.

    Raises:
      UserError: as `Glide`'s methods and `output_folder.start`.
    """
    from glide_jax.sample import options as sampling_options
    from glide_jax.sample import output_folder

    options = sampling.read_options(values)
    chosen = sampling_options.make_options(options)
    sampling_options.check_indices(chosen, len(work.prompts))
    with _open(values, work, chosen) as (folder, start):
        models = work.load(values)
        count, at_once = len(work.prompts), work.at_once or chosen.batch_size
        passes = chosen.candidates + models.num_stages - 1
        squares = [work.num_squares(models, number) for number in range(count)]
        writer = _Writer(values, work, models, folder, start)
        with (
            _repetitions_hidden(),
            sampling.progress_bar(
                sum(squares),
                "squares drawn" if max(squares) > 1 else "pictures drawn",
                initial=sum(squares[: start.num_done]),
                kept=writer.kept,
            ) as advance,
        ):
            # Printed when the work begins, so that an error is one line.
            statements = iter(work.statements(models))

            def progress(finished: float | int) -> None:
                for line in statements:
                    print(line)
                advance(finished / passes)

            for first in range(start.num_done, count, at_once):
                index = start.first_index + first * chosen.candidates
                result = work.draw(
                    models,
                    range(first, min(first + at_once, count)),
                    progress=progress,
                    **{**options, "first_index": index},
                )
                writer.write(result)
    record = output_folder.read_record(folder) or {"images": []}
    entries, own = record["images"], output_folder.own_entries(record)
    if len(own) == len(entries):
        print(f"{wording.counted(len(own), 'picture')} and samples.json: {folder}")
    else:
        print(
            f"{wording.counted(len(own), 'picture')} added to {folder}, the first as"
            f" picture {own[0]['index']} of seed {chosen.seed}; samples.json lists"
            f" {len(entries)}"
        )


class _Writer:
    """Writes the pictures of a run into its folder, in the order of the prompts."""

    def __init__(
        self,
        values: flags.FlagValues,
        work: Work,
        models: Glide,
        folder: pathlib.Path,
        start: Start,
    ):
        self._work, self._models, self._folder = work, models, folder
        self._first_index, self._num_done = start
        num_images = values.num_images if "num_images" in values else 1
        self._columns = _grid_columns(num_images, len(work.prompts))
        self._record = {
            "verb": work.verb,
            **work.inputs,
            "asked": _asked(values, work.prompts),
            "bundles": sampling.name_bundles(models),
        }

    def kept(self) -> str:
        """Returns a line about the pictures that a signal leaves."""
        if not self._num_done:
            return stopping.NOTHING_KEPT
        asked = wording.counted(len(self._work.prompts), "picture")
        return f"{self._num_done:,} of {asked} kept; the same command continues"

    def write(self, result: CascadeOutput) -> None:
        """Writes the next pictures, and the sheets with the last ones."""
        from glide_jax.sample import output_folder

        first, stop = self._num_done, self._num_done + len(result.images)
        pictures, entries = [], []
        for i, prompt in enumerate(self._work.prompts[first:stop]):
            index = result.seeds[i][1]
            entry = {"index": index, "prompt": prompt, "file": f"{index:06d}.png"}
            pictures.append((entry["file"], result.images[i]))
            if self._models.num_stages > 1:
                entry["base_file"] = f"{index:06d}_base.png"
                pictures.append((entry["base_file"], result.base_images[i]))
            entries.append(entry)
        if stop == len(self._work.prompts):
            pictures += self._sheets(result)
        settings = {**result.settings, "first_index": self._first_index}
        record = {**self._record, "settings": settings, "images": entries}
        output_folder.add(self._folder, pictures, record)
        self._num_done = stop

    def _sheets(self, result: CascadeOutput) -> list[tuple[str, np.ndarray]]:
        """Returns the sheets of the run; `result` has the last pictures."""
        from glide_jax.eval import contact_sheet
        from glide_jax.sample import prompt_tokens

        count = len(self._work.prompts)
        has_grid = 1 < count <= MAX_GRID
        if not has_grid and self._work.sheets is None:
            return []
        drawn = self._all_drawn(result)
        sheets = {}
        if has_grid:
            captions = [prompt_tokens.as_text(prompt) for prompt in drawn.prompts]
            grid = contact_sheet.draw_grid(drawn.images, captions, self._columns)
            sheets["grid.png"] = grid
        if self._work.sheets is not None:
            sheets |= self._work.sheets(drawn, self._models)
        return list(sheets.items())

    def _all_drawn(self, result: CascadeOutput) -> Drawn:
        """Returns all pictures, those of earlier batches read from the folder."""
        from glide_jax.sample import image_io, output_folder

        own = []
        if self._num_done and (record := output_folder.read_record(self._folder)):
            own = output_folder.own_entries(record)

        def joined(name: str, last: np.ndarray) -> list[np.ndarray]:
            files = [self._folder / entry[name] for entry in own]
            return [*map(image_io.read_image, files), *last]

        large = small = joined("file", result.images)
        if self._models.num_stages > 1:
            small = joined("base_file", result.base_images)
        return Drawn(self._work.prompts, large, small)


@contextlib.contextmanager
def _open(
    values: flags.FlagValues, work: Work, chosen: SamplingOptions
) -> Iterator[tuple[pathlib.Path, Start]]:
    """Yields the output folder and the start of the run in it.

    Raises:
      UserError: a folder that cannot be written or that another program writes to, or
        as `output_folder.start`.
    """
    from glide_jax.sample import output_folder, restore

    folders = {name: values[name].value for name in _MODELS if name in values}
    request = {
        "verb": work.verb,
        **work.inputs,
        "asked": _asked(values, work.prompts),
        "bundles": {
            name: {"digest": restore.bundle_digest(pathlib.Path(folder))}
            # A missing one is refused when the models are read.
            for name, folder in folders.items()
            if folder and (pathlib.Path(folder) / "bundle.json").is_file()
        },
    }
    with (
        output_folders.made_folder(sampling.output_of(values)) as folder,
        output_folders.alone(folder),
    ):
        yield (
            folder,
            output_folder.start(
                folder,
                request,
                append=values.append,
                first_index=_given_first_index(values),
                span=len(work.prompts) * chosen.candidates,
            ),
        )


def _asked(values: flags.FlagValues, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Returns the part of samples.json that identifies the command."""
    given = {
        name: values[name].value
        for name in sorted(values)
        # `values` has short names as well.
        if name == values[name].name and name not in _NOT_COMPARED
    }
    # Without it, the pictures in the folder determine the first index.
    given["first_index"] = _given_first_index(values)
    given = {name: value for name, value in given.items() if value is not None}
    text = json.dumps(list(prompts), ensure_ascii=False)
    return {
        "pictures": len(prompts),
        "prompts_sha256": hashlib.sha256(text.encode()).hexdigest(),
        # As read back from samples.json.
        "flags": json.loads(json.dumps(given)),
    }


def _given_first_index(values: flags.FlagValues) -> int | None:
    flag = values["first_index"]
    return flag.value if flag.present else None


def _grid_columns(num_images: int, count: int) -> int:
    """Returns the columns: a row per prompt, or a square for one or single pictures."""
    return num_images if 1 < num_images < count else math.isqrt(count - 1) + 1


@contextlib.contextmanager
def _repetitions_hidden() -> Iterator[None]:
    """Hides repeated log records: each batch logs those of its prompts."""
    # A logger's own filters do not see the records of other loggers.
    with contextlib.ExitStack() as stack:
        for handler in logging.getLogger().handlers:
            is_new = _OnceFilter()
            handler.addFilter(is_new)
            stack.callback(handler.removeFilter, is_new)
        yield


class _OnceFilter(logging.Filter):
    """Passes the first of equal records."""

    def __init__(self):
        super().__init__()
        self._passed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_new = text not in self._passed
        self._passed.add(text)
        return is_new
