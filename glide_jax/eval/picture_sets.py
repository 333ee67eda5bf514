"""The pictures that are judged, by index: drawn ones, saved ones or real ones.

Each kind answers `read(first, stop)`, so that any number of them passes through memory
a few at a time, and work that was cut off goes on at any index.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from glide_jax.data import bad_records, caption_text, schema, sources, transforms
from glide_jax.errors import UserError
from glide_jax.eval import npz_files, picture_folder
from glide_jax.runtime import paths, wording
from glide_jax.sample import cascade, image_io
from glide_jax.sample import options as sampling_options

# Records read to find a caption in place of one that cannot be used.
_ATTEMPTS = 100


class Shown(NamedTuple):
    """Some pictures; a record that cannot be read is left out.

    Attributes:
      indices: (n,) int64, each picture's number.
      pixels: uint8 (n, px, px, 3).
      captions: n of them, or None.
    """

    indices: np.ndarray
    pixels: np.ndarray
    captions: list[str] | None


@runtime_checkable
class PictureSet(Protocol):
    """Any number of square pictures.

    Attributes:
      count: How many there are.
      px: Their side.
      has_captions: Whether each has one.
      captions: Those that are known beforehand; of a data source None.
      record: What they are, as JSON values: another record, other pictures.
    """

    count: int
    px: int
    has_captions: bool
    captions: Sequence[str] | None
    record: dict[str, Any]

    def read(self, first: int, stop: int) -> Shown: ...


class Drawn:
    """What a cascade draws of captions: picture i is `first_index` + i of the seed."""

    has_captions = True

    def __init__(
        self,
        models: cascade.Glide,
        prompts: Sequence[str],
        options: dict[str, Any],
        bundles: dict[str, Any],
    ):
        """`options` are those of `Glide.sample`, `bundles` what names the models.

        Raises:
          UserError: An option that is unknown or out of range.
        """
        chosen = sampling_options.make_options(options)
        self._models, self.captions, self._options = models, prompts, dict(options)
        self._first = self._options.pop("first_index", 0)
        self.count, self.px = len(prompts), models.image_px
        self.record = {
            # How many at once changes no picture.
            **{k: v for k, v in options.items() if k != "batch_size"},
            "base": dataclasses.asdict(chosen.base(models.base.config.sample)),
            "compute_dtype": models.base.config.model.compute_dtype,
            "bundles": bundles,
            "captions": digest_of(prompts),
        }

    def read(self, first: int, stop: int) -> Shown:
        """Draws them."""
        asked = list(self.captions[first:stop])
        # With several candidates of each, an index for every one of them.
        start = self._first + first * self._options.get("candidates", 1)
        drawn = self._models.sample(asked, first_index=start, **self._options).images
        return Shown(_numbers(first, len(drawn)), drawn, asked)


class Saved:
    """The pictures of a sample batch, array arr_0 of a .npz file (N, px, px, 3)."""

    def __init__(self, path: str | pathlib.Path, prompts: Sequence[str] | None = None):
        """Raises UserError for another kind of array or another number of prompts."""
        self._reader = npz_files.RowReader(path, "arr_0")
        shape, dtype = self._reader.shape, self._reader.dtype
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or dtype != "uint8":
            raise UserError(
                f"{path}: arr_0 is {dtype} {shape}; pictures are uint8 (N, H, H, 3)"
            )
        self.count, self.px = shape[0], shape[1]
        check_prompts(prompts, self.count, path)
        self.captions = prompts
        self.has_captions = prompts is not None
        self.record = {
            "images": str(path),
            "count": self.count,
            "pixels": self._reader.checksum,
            "captions": digest_of(prompts),
        }

    def read(self, first: int, stop: int) -> Shown:
        """Reads them."""
        pixels = self._reader.rows(first, stop)
        asked = None if self.captions is None else list(self.captions[first:stop])
        return Shown(_numbers(first, len(pixels)), pixels, asked)


class Folder:
    """Picture files in natural order of their names, or as samples.json lists them.

    Files of `glide sample` bring their captions along.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        prompts: Sequence[str] | None,
        flag: str = "--images",
    ):
        """`flag` names the folder in lines of output and errors.

        Raises:
          UserError: No pictures, not square, or another number of prompts.
        """
        folder = pathlib.Path(folder)
        self._files, found = picture_folder.list_pictures(folder, f"{flag}={folder}")
        check_prompts(prompts, len(self._files), folder)
        self.captions = found if prompts is None else prompts
        self.count, self.has_captions = len(self._files), self.captions is not None
        self.px = image_io.read_image(self._files[0]).shape[0]
        self.record = {
            "images": str(folder),
            "files": _stamp_of(self._files),
            "captions": digest_of(self.captions),
        }

    def read(self, first: int, stop: int) -> Shown:
        """Reads them.

        Raises:
          UserError: A picture of another size than the first.
        """
        found = []
        for path in self._files[first:stop]:
            found.append(image_io.read_image(path))
            if found[-1].shape[:2] != (self.px, self.px):
                height, width = found[-1].shape[:2]
                raise UserError(
                    f"{path} is {width} x {height}, the first picture {self.px} high; "
                    "all have to be square and of one size"
                )
        asked = None if self.captions is None else list(self.captions[first:stop])
        return Shown(_numbers(first, len(found)), np.stack(found), asked)


class Real:
    """The pictures of a data source in its order: centre crop, never mirrored.

    Without `captions_required` a picture that has no caption is one of them, too.
    """

    captions = None

    def __init__(
        self,
        spec: str,
        px: int,
        most: int | None = None,
        *,
        captions_required: bool = True,
    ):
        """The validation split, where there are splits; the first `most` of it.

        Raises:
          UserError: As `sources.open_source`; a source without records.
        """
        source = sources.open_source(
            spec, split="validation", captions_required=captions_required
        )
        self.has_captions = captions_required
        is_drawn = isinstance(source, schema.Drawable)
        self._source = source.at_px(px) if is_drawn else source
        self._faults = bad_records.FaultCounter(
            1.0, len(source), bad_records.log_left_out
        )
        self.count = len(source) if most is None else min(most, len(source))
        if not self.count:
            raise UserError(f"{spec} holds no records; check its path")
        self.px = px
        self.record = {"source": spec, "count": self.count, "px": px}
        self.record["files"] = _stamp_of_source(spec)

    def read(self, first: int, stop: int) -> Shown:
        """Decodes them; a bad record is left out."""
        indices, pixels, found = [], [], []
        for index in range(first, min(stop, self.count)):
            try:
                example = self._source[index]
                picture = transforms.load_image(example, self.px)
            except schema.BadRecordError as bad:
                self._faults.count(0, [bad_records.bad_at(index, index, bad)])
                continue
            indices.append(index)
            pixels.append(picture)
            found.append(example.caption)
        shown = np.array(pixels, np.float32).reshape(-1, self.px, self.px, 3)
        numbers = np.array(indices, np.int64)
        texts = found if self.has_captions else None
        return Shown(numbers, image_io.to_pixels(shown), texts)


def open_saved(
    spec: str,
    prompts: Sequence[str] | None,
    *,
    px: int | None = None,
    most: int | None = None,
) -> PictureSet:
    """What --images names: a .npz file, a folder, or a data source.

    Args:
      spec: The name.
      prompts: One for each picture, where they are known.
      px: The side at which a source is read.
      most: The most pictures of a source; None: all.

    Raises:
      UserError: None of them; a source without `px`, or with prompts; files with
          `px` or `most`.
    """
    is_source = spec.partition(":")[0] in {k.partition(":")[0] for k in sources.KINDS}
    if not is_source and (px or most):
        raise UserError(
            f"--images={spec} has pictures of its own size and number; --px and "
            "--num_images are for data sources, leave them out"
        )
    if not is_source:
        spec = paths.local_text(spec, "--images")
        if pathlib.Path(spec).is_dir():
            return Folder(spec, prompts)
        if spec.endswith(".npz"):
            return Saved(spec, prompts)
        raise UserError(
            f"--images={spec} is no .npz file, folder or data source; name one"
        )
    if not px:
        raise UserError(
            f"--images={spec} is a data source; add --px, the side to read it at"
        )
    if prompts is not None:
        raise UserError(
            f"--images={spec} has captions of its own; leave out the prompts"
        )
    return Real(spec, px, most)


def captions_of(spec: str, count: int) -> list[str]:
    """`count` captions spread over a source's validation split, which it may repeat.

    One that cannot be used is replaced by the next that can.

    Raises:
      UserError: As `sources.open_source`; a hundred in a row that cannot be used.
    """
    source = sources.open_source(spec, split="validation")
    size = len(source)
    if not size:
        raise UserError(f"{spec} holds no records; check its path")
    spread = [i * size // count if count <= size else i % size for i in range(count)]
    return [_caption_at(source, spec, start) for start in spread]


def digest_of(lines: Sequence[str] | None) -> str | None:
    """Names a list of texts in a few letters."""
    if lines is None:
        return None
    text = json.dumps(list(lines), ensure_ascii=False)
    return f"{len(lines)}:{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def check_prompts(
    prompts: Sequence[str] | None, count: int, where: str | pathlib.Path
) -> None:
    """Raises UserError unless there is a prompt for each picture, or none at all."""
    if prompts is not None and len(prompts) != count:
        raise UserError(
            f"{where} holds {wording.counted(count, 'picture')} and there are"
            f" {wording.counted(len(prompts), 'prompt')}; give one for each, in the"
            " order of the pictures"
        )


def _caption_at(source: schema.Source, spec: str, start: int) -> str:
    for index in range(start, start + _ATTEMPTS):
        try:
            example = source[index % len(source)]
            caption_text.check(example.caption, example.key)
        except schema.BadRecordError as bad:
            last = bad
            bad_records.log_left_out(bad_records.bad_at(start, index, bad))
        else:
            return example.caption
    raise UserError(
        f"{spec}: {_ATTEMPTS} records in a row have no usable caption (the last: "
        f"{last.key}: {last.reason}); check the data"
    )


def _stamp_of(files: Sequence[pathlib.Path]) -> str:
    """Names files as they are: another size or time of change, another stamp.

    Raises:
      UserError: One is gone, or may not be read.
    """
    try:
        found = [(path.name, path.stat()) for path in files]
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}); check the folder"
        ) from error
    return digest_of([f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in found])


def _stamp_of_source(spec: str) -> str | None:
    """Of a source's files; None: drawn by the program, or a data set of one version."""
    files = sources.list_files(spec, split="validation")
    return None if files is None else _stamp_of(files)


def _numbers(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.int64)
