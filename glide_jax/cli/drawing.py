"""Draws the pictures of a sampling verb, and writes them batch by batch."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from glide_jax.cli import processes, sampling
from glide_jax.errors import UserError
from glide_jax.runtime import wording

if TYPE_CHECKING:
    import numpy as np

    from glide_jax.cli import picture_writer
    from glide_jax.sample.cascade import Glide
    from glide_jax.sample.options import SamplingOptions
    from glide_jax.sample.prompt_tokens import Prompt
    from glide_jax.sample.request import CascadeOutput

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

    The batches of an interrupted run have the same pictures. Several processes share
    the batches out among them.

    Raises:
      UserError: as `Glide`'s methods and `output_folder.start`.
    """
    from glide_jax.cli import picture_writer
    from glide_jax.parallel import sharing
    from glide_jax.sample import options as sampling_options
    from glide_jax.sample import output_folder

    options = sampling.read_options(values)
    chosen = sampling_options.make_options(options)
    sampling_options.check_indices(chosen, len(work.prompts))
    output = sampling.output_of(values)
    with processes.joined(values), processes.shared_folder(output) as folder:
        left = _find_left(values, work, chosen, folder)
        models = work.load(values)
        record = {
            "verb": work.verb,
            **work.inputs,
            "asked": _asked(values, work.prompts),
            "bundles": sampling.name_bundles(models),
        }

        def sheets(
            large: list[np.ndarray], small: list[np.ndarray]
        ) -> dict[str, np.ndarray]:
            assert work.sheets is not None
            return work.sheets(Drawn(work.prompts, large, small), models)

        writer = picture_writer.Writer(
            work.prompts,
            models,
            folder,
            left,
            record,
            num_images=values.num_images if "num_images" in values else 1,
            sheets=sheets if work.sheets else None,
        )
        _draw(work, models, left, writer, options, chosen)
        if not sharing.is_first():
            return
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


def _draw(
    work: Work,
    models: Glide,
    left: picture_writer.Left,
    writer: picture_writer.Writer,
    options: dict[str, Any],
    chosen: SamplingOptions,
) -> None:
    """Draws the batches of this process; process 0 collects those of all."""
    from glide_jax.parallel import sharing

    passes = chosen.candidates + models.num_stages - 1
    mine = sharing.own(left.batches)
    done = [(0, left.num_done), *left.parts]
    before, squares = (
        sum(work.num_squares(models, n) for span in spans for n in range(*span))
        for spans in (done, mine)
    )
    is_one_each = squares == sum(stop - first for first, stop in mine)
    with (
        _repetitions_hidden(),
        sampling.progress_bar(
            before + squares,
            "pictures drawn" if is_one_each else "squares drawn",
            initial=before,
            kept=writer.kept,
            enabled=sharing.is_first(),
        ) as advance,
    ):
        # Printed when the work begins, so that an error is one line.
        statements = iter(work.statements(models) if sharing.is_first() else ())

        def progress(finished: float | int) -> None:
            for line in statements:
                print(line)
            advance(finished / passes)

        for first, stop in mine:
            index = left.first_index + first * chosen.candidates
            result = work.draw(
                models,
                range(first, stop),
                progress=progress,
                **{**options, "first_index": index},
            )
            writer.write(result, (first, stop))
        sharing.wait_for_all("pictures", lambda: advance(0))
        writer.finish()


def _find_left(
    values: flags.FlagValues,
    work: Work,
    chosen: SamplingOptions,
    folder: pathlib.Path,
) -> picture_writer.Left:
    """Returns what is left of the run; process 0 finds it out for all.

    Raises:
      UserError: as `output_folder.start` and `part_folders.complete`, or inputs that
        are not those of process 0.
    """
    from glide_jax.cli import picture_writer
    from glide_jax.parallel import distributed, sharing
    from glide_jax.sample import output_folder, part_folders, restore, shipped

    folders = {name: values[name].value for name in _MODELS if name in values}
    if "base" in folders and not any(folders.values()):
        folders |= shipped.folders()
    request = {
        "verb": work.verb,
        **work.inputs,
        "asked": _asked(values, work.prompts),
        "bundles": {
            name: {"digest": restore.bundle_digest(pathlib.Path(place))}
            # A missing one is refused when the models are read.
            for name, place in folders.items()
            if place and (pathlib.Path(place) / "bundle.json").is_file()
        },
    }

    def find() -> dict[str, Any]:
        first_index, num_done = output_folder.start(
            folder,
            request,
            append=values.append,
            first_index=_given_first_index(values),
            span=len(work.prompts) * chosen.candidates,
        )
        parts = part_folders.complete(folder, request, first_index)
        return {"start": [first_index, num_done, parts], "request": request}

    found = sharing.agree("start of the pictures", find)
    if other := output_folder.difference(found["request"], request):
        raise UserError(
            f"process 0 has other inputs than process {distributed.process_id()}:"
            f" {other}; give every process the same files"
        )
    first_index, num_done, parts = found["start"]
    parts = [(first, stop) for first, stop in parts]
    if parts:
        logging.info(
            "%s are drawn in parts; continuing with the others",
            wording.counted(sum(stop - first for first, stop in parts), "picture"),
        )
    gaps = sharing.missing([(0, num_done), *parts], len(work.prompts))
    batches = sharing.cut(gaps, work.at_once or chosen.batch_size, len(work.prompts))
    return picture_writer.Left(first_index, num_done, parts, batches)


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
