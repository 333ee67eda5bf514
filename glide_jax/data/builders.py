"""Writes a source as a tensorflow_datasets data set in ArrayRecord files.

Useful for sets that are read many times from a network disk: a shard is one file, and
records are read by position without a separate index.
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from glide_jax.data import bad_records, caption_text, schema, transforms
from glide_jax.errors import UserError
from glide_jax.runtime import files, scratch_dirs

_RECORDS = "array_record"
_INFO = "dataset_info.json"


def _encoded(example: schema.Example, px: int | None) -> bytes:
    """Returns the picture's file, its shrunk copy as JPEG, or raw pixels as PNG.

    Raises:
      BadRecordError: the picture cannot be decoded.
    """
    stream = io.BytesIO()
    image = transforms.decode(example)
    if px is not None and min(image.size) > px:
        shrunk = transforms.shrink(image, px)
        # No chroma subsampling, since training uses the copy at its own size.
        shrunk.save(stream, format="JPEG", quality=95, subsampling=0)
        return stream.getvalue()
    if isinstance(example.image, bytes):
        return example.image
    # tfds needs TensorFlow to encode arrays; it stores bytes as they are.
    Image.fromarray(example.image).save(stream, format="PNG")
    return stream.getvalue()


class CaptionedImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One split with the captioned pictures of one source."""

    VERSION = tfds.core.Version("1.0.0")
    # Disables the search for download checksums, which imports importlib_resources, an
    # undeclared dependency of tfds.
    code_path = None  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        *,
        name: str,
        split: str,
        source: schema.Source,
        faults: bad_records.FaultCounter,
        px: int | None,
        on_progress: Callable[[], None],
        **kwargs: Any,
    ) -> None:
        # tfds names a data set after its class, by a class property.
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]
        self._split = split
        self._source = source
        self._faults = faults
        self._px = px
        self._on_progress = on_progress
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(),
                "caption": tfds.features.Text(),
                "key": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, description=f"{self._source!r}", features=features
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, object]]]]:
        del dl_manager
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, object]]]:
        count = 0
        for index in schema.announced(self._source, range(len(self._source))):
            self._on_progress()
            try:
                example = caption_text.draw(self._source[index], 0, index)
                caption_text.check(example.caption, example.key)
                image = _encoded(example, self._px)
            except schema.BadRecordError as error:
                self._faults.count(0, [bad_records.bad_at(index, index, error)])
                continue
            self._faults.count(1, [])
            count += 1
            yield (
                str(index),
                {
                    "image": image,
                    "caption": example.caption,
                    "key": example.key,
                },
            )
        if not count:
            kinds = ", ".join(
                f"{n} {kind}" for kind, n in self._faults.by_kind().items()
            )
            raise UserError(
                f"{self._source!r} has no usable record ({kinds}); each record needs a"
                " picture and a caption"
            )


def build_array_records(
    source: schema.Source,
    directory: pathlib.Path,
    name: str,
    *,
    split: str = "train",
    px: int | None = None,
    max_bad_frac: float = 0.01,
    on_progress: Callable[[], None] = lambda: None,
) -> pathlib.Path:
    """Writes a source to directory/name and returns the folder of the version.

    The source "tfds:FOLDER?split=SPLIT" reads it. The data set appears under its name
    when it is complete; the next call for that name removes the files of a killed one.

    Args:
      source: the records; bad ones are skipped and counted.
      directory: created if missing.
      name: lower-case letters, digits and underscores, starting with a letter.
      split: like `name`; added to an existing data set that this function wrote and
        that lacks it.
      px: largest short side of the stored pictures, pixels; None: no limit.
      max_bad_frac: share of bad records that raises UserError.
      on_progress: called before every record; may raise to stop.

    Raises:
      UserError: the name or the split is invalid or exists; too many bad records.
    """
    _check_word("data set name", name)
    _check_word("split", split)
    place = directory / name / str(CaptionedImages.VERSION)
    if (directory / name).exists():
        _check_lacks(place, split)
    directory.mkdir(parents=True, exist_ok=True)
    with scratch_dirs.made(directory, name) as draft:
        builder = CaptionedImages(
            name=name,
            split=split,
            source=source,
            px=px,
            faults=bad_records.FaultCounter(
                max_bad_frac, len(source), bad_records.log_skipped
            ),
            on_progress=on_progress,
            data_dir=str(draft),
            file_format=_RECORDS,
        )
        # tfds prints the scratch folder and its own progress bar.
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
        built = pathlib.Path(builder.data_dir)
        if place.exists():
            _add_split(built, place)
        else:
            files.rename(built.parent, directory / name)
    return place


def _check_word(what: str, word: str) -> None:
    # tfds reserves "all" for all splits at once.
    if not (word.isidentifier() and word.islower() and word.isascii()) or word == "all":
        raise UserError(
            f"{what} {word!r} is not allowed; use lower-case letters, digits and"
            " underscores, starting with a letter"
        )


def _read_info(place: pathlib.Path) -> dict[str, Any]:
    """Reads dataset_info.json, which lists the splits."""
    return json.loads((place / _INFO).read_text(encoding="utf-8"))


def _check_lacks(place: pathlib.Path, split: str) -> None:
    """Raises UserError unless `place` is a data set that lacks this split."""
    try:
        info = _read_info(place)
        is_ours = info["moduleName"] == CaptionedImages.__module__
        splits = [entry["name"] for entry in info["splits"]]
    except (OSError, ValueError, KeyError, TypeError):
        is_ours, splits = False, []
    if not is_ours or split in splits:
        raise UserError(
            f"{place.parent} exists{' and has split ' + split if is_ours else ''};"
            " remove it, or choose another name, split or directory"
        )


def _add_split(built: pathlib.Path, place: pathlib.Path) -> None:
    """Moves the split of `built` to the data set at `place`."""
    for path in built.glob(f"*.{_RECORDS}*"):
        files.rename(path, place / path.name)
    info = _read_info(place)
    info["splits"] += _read_info(built)["splits"]
    # From here on the new records are part of the data set.
    files.write_text(place / _INFO, json.dumps(info, indent=2), is_shared=True)
