"""Writes any source as a tensorflow_datasets data set in ArrayRecord files.

Worth it for sets that are read many times from a network disk: one open file per
shard, and records found by position without an index of our own.
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
    """The picture's file as it is, its shrunk copy as JPEG, or drawn pixels as PNG.

    Raises:
      BadRecordError: the picture cannot be decoded; so none is stored that training
        would have to replace.
    """
    stream = io.BytesIO()
    image = transforms.decode(example)
    if px is not None and min(image.size) > px:
        shrunk = transforms.shrink(image, px)
        # No chroma subsampling: a model reads the copy pixel by pixel.
        shrunk.save(stream, format="JPEG", quality=95, subsampling=0)
        return stream.getvalue()
    if isinstance(example.image, bytes):
        return example.image
    # tfds encodes arrays through TensorFlow; bytes it stores untouched.
    Image.fromarray(example.image).save(stream, format="PNG")
    return stream.getvalue()


class CaptionedImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Pictures with captions, from one source, as one split."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded, so tfds need not look for checksums beside this module;
    # its search imports importlib_resources, which it does not declare.
    code_path = None

    def __init__(
        self,
        *,
        name: str,
        split: str,
        source: schema.Source,
        faults: bad_records.FaultCounter,
        px: int | None,
        on_progress: Callable[[], None],
        **kwargs: object,
    ) -> None:
        # tfds would name the data set after the class.
        self.name = name
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
        for index in range(len(self._source)):
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
                f"{self._source!r} has no usable record ({kinds}); each needs a picture"
                " and its caption"
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
    """Writes the source under directory/name and returns the version's folder.

    Read it back with the source "tfds:FOLDER" or "tfds:FOLDER?split=SPLIT". Nothing is
    left under that name by work that failed; what a killed process has left beside it
    is removed by the next that writes under that name.

    Args:
      source: the records; those without a caption or image are left out and counted.
      directory: made if it does not exist.
      name: lower-case letters, digits and underscores, starting with a letter.
      split: spelt like a name; added to the data set, if that was written by us and
        lacks it.
      px: stores pictures whose short side is longer with a short side of px.
      max_bad_frac: left-out records beyond this share stop the work.
      on_progress: called with every record; what it raises ends the work.

    Raises:
      UserError: a name or split that is taken or cannot be one; too many bad records.
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
                max_bad_frac, len(source), bad_records.log_left_out
            ),
            on_progress=on_progress,
            data_dir=str(draft),
            file_format=_RECORDS,
        )
        # tfds would tell of the draft, and of progress in its own way.
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
    # tfds takes "all" for every split at once.
    if not (word.isidentifier() and word.islower() and word.isascii()) or word == "all":
        raise UserError(
            f"{what} {word!r} is not lower-case letters, digits and underscores"
            " starting with a letter; choose such a name"
        )


def _read_info(place: pathlib.Path) -> dict[str, Any]:
    """What tfds keeps about a data set: its splits, among others."""
    return json.loads((place / _INFO).read_text(encoding="utf-8"))


def _check_lacks(place: pathlib.Path, split: str) -> None:
    """Raises UserError unless `place` holds a data set of ours without this split."""
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
    """Moves the one split of `built` into the data set at `place`."""
    for path in built.glob(f"*.{_RECORDS}*"):
        files.rename(path, place / path.name)
    info = _read_info(place)
    info["splits"] += _read_info(built)["splits"]
    # From here on the new records are part of the data set.
    files.write_text(place / _INFO, json.dumps(info, indent=2))
