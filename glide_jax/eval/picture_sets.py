"""Sets of pictures to evaluate, by index: drawn, saved or real ones.

Each class has `read(first, stop)`, so that pictures pass through memory in batches, and
an interrupted evaluation continues at any index.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from glide_jax.data import (
    bad_records,
    caption_text,
    schema,
    source_kinds,
    sources,
    transforms,
)
from glide_jax.errors import UserError
from glide_jax.eval import npz_files, picture_folder
from glide_jax.runtime import paths, wording
from glide_jax.sample import cascade, image_io
from glide_jax.sample import options as sampling_options

# Records read to find a caption in place of one that cannot be used.
_ATTEMPTS = 100


class PictureBatch(NamedTuple):
    """Some pictures; records that cannot be read are left out.

    Attributes:
      indices: (n,) int64, the index of each picture.
      pixels: uint8 (n, px, px, 3).
      captions: n captions, or None.
    """

    indices: np.ndarray
    pixels: np.ndarray
    captions: list[str] | None


@runtime_checkable
class PictureSet(Protocol):
    """Square pictures of one size, addressed by index.

    Attributes:
      count: The number of pictures.
      px: Side of the pictures.
      has_captions: Whether each picture has a caption.
      record: JSON values that identify the pictures.
    """

    count: int
    px: int
    has_captions: bool
    record: dict[str, Any]

    @property
    def captions(self) -> Sequence[str] | None:
        """The captions, if known before reading; None for a data source."""

    def read(self, first: int, stop: int) -> PictureBatch:
        """Returns the pictures of the indices from `first` to before `stop`."""
        ...


class Drawn:
    """Pictures that a cascade draws; picture i is `first_index` + i of the seed."""

    has_captions = True

    def __init__(
        self,
        models: cascade.Glide,
        prompts: Sequence[str],
        options: dict[str, Any],
        bundles: dict[str, Any],
    ):
        """Takes the options of `Glide.sample` and the digests of the models.

        Raises:
          UserError: An option is unknown or out of range.
        """
        chosen = sampling_options.make_options(options)
        self._models, self.captions, self._options = models, prompts, dict(options)
        self._first = self._options.pop("first_index", 0)
        self.count, self.px = len(prompts), models.image_px
        sample = chosen.resolve("base", models.base.config.sample)
        self.record = {
            # The batch size changes no picture.
            **{k: v for k, v in options.items() if k != "batch_size"},
            "base": dataclasses.asdict(sample),
            "compute_dtype": models.base.config.model.compute_dtype,
            "bundles": bundles,
            "captions": digest_of(prompts),
        }

    def read(self, first: int, stop: int) -> PictureBatch:
        """Draws the pictures."""
        prompts = list(self.captions[first:stop])
        # Every candidate has an index of its own.
        start = self._first + first * self._options.get("candidates", 1)
        drawn = self._models.sample(prompts, first_index=start, **self._options).images
        return PictureBatch(_numbers(first, len(drawn)), drawn, prompts)


class Saved:
    """The pictures of a sample batch, array arr_0 of a .npz file (N, px, px, 3)."""

    def __init__(self, path: str | pathlib.Path, prompts: Sequence[str] | None = None):
        """Opens the file.

        Raises:
          UserError: The array is not of pictures, or the number of prompts differs.
        """
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
            "captions": None if prompts is None else digest_of(prompts),
        }

    def read(self, first: int, stop: int) -> PictureBatch:
        """Reads the pictures."""
        pixels = self._reader.rows(first, stop)
        prompts = None if self.captions is None else list(self.captions[first:stop])
        return PictureBatch(_numbers(first, len(pixels)), pixels, prompts)


class Folder:
    """Picture files in natural order of their names, or as samples.json lists them.

    Files of `glide sample` have captions.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        prompts: Sequence[str] | None,
        flag: str = "--images",
    ):
        """Lists the files; `flag` names the folder in messages.

        Raises:
          UserError: There are no pictures, they are not square, or the number of
            prompts differs.
        """
        folder = pathlib.Path(folder)
        self._files, own = picture_folder.list_pictures(folder, f"{flag}={folder}")
        check_prompts(prompts, len(self._files), folder)
        self.captions = own if prompts is None else prompts
        self.count, self.has_captions = len(self._files), self.captions is not None
        self.px = image_io.read_image(self._files[0]).shape[0]
        self.record = {
            "images": str(folder),
            "files": _stamp_of(self._files),
            "captions": None if self.captions is None else digest_of(self.captions),
        }

    def read(self, first: int, stop: int) -> PictureBatch:
        """Reads the pictures.

        Raises:
          UserError: A picture has another size than the first.
        """
        pictures = []
        for path in self._files[first:stop]:
            pictures.append(image_io.read_image(path))
            height, width = pictures[-1].shape[:2]
            if (height, width) != (self.px, self.px):
                raise UserError(
                    f"{path} is {width} x {height}, the first picture {self.px} high; "
                    "give square pictures of one size"
                )
        prompts = None if self.captions is None else list(self.captions[first:stop])
        indices = _numbers(first, len(pictures))
        return PictureBatch(indices, np.stack(pictures), prompts)


class Real:
    """The pictures of a data source in its order: centre crop, never mirrored.

    Without `captions_required` pictures without a caption are included.
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
        """Opens the first `most` records of the validation split, if there are splits.

        Raises:
          UserError: The source cannot be opened, or has no records.
        """
        source = sources.open_source(
            spec, split="validation", captions_required=captions_required
        )
        self.has_captions = captions_required
        is_drawn = isinstance(source, schema.Drawable)
        self._source = source.at_px(px) if is_drawn else source
        self._faults = bad_records.FaultCounter(
            1.0, len(source), bad_records.log_skipped
        )
        self.count = len(source) if most is None else min(most, len(source))
        if not self.count:
            raise UserError(f"{spec} has no records; check its path")
        self.px = px
        self.record = {"source": spec, "count": self.count, "px": px}
        self.record["files"] = _stamp_of_source(spec)

    def read(self, first: int, stop: int) -> PictureBatch:
        """Decodes the pictures; bad records are left out."""
        indices, pixels, captions = [], [], []
        taken = range(first, min(stop, self.count))
        for index in schema.announced(self._source, taken):
            try:
                example = self._source[index]
                picture = transforms.load_image(example, self.px)
            except schema.BadRecordError as bad:
                self._faults.count(0, [bad_records.bad_at(index, index, bad)])
                continue
            indices.append(index)
            pixels.append(picture)
            captions.append(example.caption)
        images = np.array(pixels, np.float32).reshape(-1, self.px, self.px, 3)
        return PictureBatch(
            np.array(indices, np.int64),
            image_io.to_pixels(images),
            captions if self.has_captions else None,
        )


def open_saved(
    spec: str,
    prompts: Sequence[str] | None,
    *,
    px: int | None = None,
    most: int | None = None,
) -> PictureSet:
    """Opens what --images names: a .npz file, a folder, or a data source.

    Args:
      spec: The value of --images.
      prompts: One for each picture, if known.
      px: The side at which a source is read.
      most: The maximum number of pictures of a source; None: all.

    Raises:
      UserError: `spec` is none of these; a source has no `px`, or has prompts; files
        have `px` or `most`.
    """
    is_source = source_kinds.is_spec(spec)
    if not is_source and (px or most):
        raise UserError(
            f"--images={spec} is not a data source, which --px and --num_images need; "
            "leave them out"
        )
    if not is_source:
        spec = paths.local_text(spec, "--images")
        if pathlib.Path(spec).is_dir():
            return Folder(spec, prompts)
        if spec.endswith(".npz"):
            return Saved(spec, prompts)
        raise UserError(
            f"--images={spec} is not a .npz file, a folder or a data source; name one"
        )
    if not px:
        raise UserError(
            f"--images={spec} is a data source; add --px, the side to read it at"
        )
    if prompts is not None:
        raise UserError(
            f"--images={spec} has its own captions; leave out --prompt_file"
        )
    return Real(spec, px, most)


def captions_of(spec: str, count: int) -> list[str]:
    """Returns `count` captions spread over a source's validation split.

    They repeat if the split is smaller. A caption that cannot be used is replaced by
    the next that can.

    Raises:
      UserError: The source cannot be opened, or a hundred captions in a row cannot be
        used.
    """
    source = sources.open_source(spec, split="validation")
    size = len(source)
    if not size:
        raise UserError(f"{spec} has no records; check its path")
    spread = [i * size // count if count <= size else i % size for i in range(count)]
    return [_caption_at(source, spec, start) for start in spread]


def digest_of(lines: Sequence[str]) -> str:
    """Returns the number of texts and 12 hexadecimal digits that identify them."""
    text = json.dumps(list(lines), ensure_ascii=False)
    return f"{len(lines)}:{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def check_prompts(
    prompts: Sequence[str] | None, count: int, where: str | pathlib.Path
) -> None:
    """Raises UserError unless there are no prompts, or one for each picture."""
    if prompts is not None and len(prompts) != count:
        raise UserError(
            f"{where} has {wording.counted(count, 'picture')} and there are"
            f" {wording.counted(len(prompts), 'prompt')}; give one for each, in the"
            " order of the pictures"
        )


def _caption_at(source: schema.Source, spec: str, start: int) -> str:
    last = None
    for index in range(start, start + _ATTEMPTS):
        try:
            example = source[index % len(source)]
            caption_text.check(example.caption, example.key)
        except schema.BadRecordError as bad:
            last = bad
            bad_records.log_skipped(bad_records.bad_at(start, index, bad))
        else:
            return example.caption
    assert last is not None
    raise UserError(
        f"{spec}: {_ATTEMPTS} records in a row have no usable caption (the last: "
        f"{last.key}: {last.reason}); check the data"
    )


def _stamp_of(files: Sequence[pathlib.Path], objects: Sequence[str] = ()) -> str:
    """Returns a digest of the names, sizes and modification times of files.

    `objects` are lines that identify objects of a store.

    Raises:
      UserError: A file cannot be read.
    """
    try:
        stats = [(path.name, path.stat()) for path in files]
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}); check the folder"
        ) from error
    lines = [f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in stats]
    return digest_of([*lines, *objects])


def _stamp_of_source(spec: str) -> str | None:
    """Returns the stamp of a source's files; None if it has no files of its own."""
    found = sources.list_inputs(spec, split="validation")
    return None if found is None else _stamp_of(*found)


def _numbers(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.int64)
