"""Data sets of tensorflow_datasets in ArrayRecord files, read without TensorFlow."""

from __future__ import annotations

import pathlib

import tensorflow_datasets as tfds

from glide_jax import errors
from glide_jax.data import schema


def _open_builder(name: str) -> tfds.core.DatasetBuilder:
    """The builder in a folder, else the named one of the user's data folder."""
    folder = pathlib.Path(name).expanduser()
    if folder.is_dir():
        versions = sorted(folder.glob("**/dataset_info.json"))
        if len(versions) != 1:
            raise errors.UserError(
                f"tfds:{name} holds {len(versions)} data sets (files named"
                " dataset_info.json); give the folder of one version of one data set"
            )
        return tfds.builder_from_directory(versions[0].parent)
    try:
        return tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError) as fault:
        reason = str(fault).strip().splitlines()[0]
        raise errors.UserError(
            f"tfds:{name} is no folder and no known data set ({reason}); give the"
            " folder that holds dataset_info.json, or prepare the data set first"
        ) from fault


class TfdsRecords:
    """A source over one split of a prepared data set.

    Args:
      name: a folder holding dataset_info.json, or a name tfds knows.
      split: e.g. "train", "train[:1%]".
      image: the feature that holds the picture; read as the encoded file.
      caption: the feature that holds the text; of several texts the first is taken.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        image: str = "image",
        caption: str = "caption",
    ) -> None:
        self._name, self._split = name, split
        self._image, self._caption = image, caption
        builder = _open_builder(name)
        self._check_features(builder)
        try:
            self._records = builder.as_data_source(
                split=split, decoders={image: tfds.decode.SkipDecoding()}
            )
        except (ValueError, KeyError, NotImplementedError, OSError) as fault:
            splits = ", ".join(builder.info.splits) or "none, not prepared"
            raise errors.UserError(
                f"tfds:{name} cannot be read at split {split!r} (splits: {splits};"
                f" file format: {builder.info.file_format}); choose a split, or prepare"
                " it with file_format='array_record'"
            ) from fault

    def _check_features(self, builder: tfds.core.DatasetBuilder) -> None:
        missing = {self._image, self._caption} - set(builder.info.features)
        if missing:
            raise errors.UserError(
                f"tfds:{self._name} has no feature {' or '.join(sorted(missing))}, only"
                f" {', '.join(builder.info.features)}; name the right ones as"
                f" tfds:{self._name}?image=FEATURE&caption=FEATURE"
            )

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"tfds:{self._name}[{self._split}]"

    def __getitem__(self, index: int) -> schema.Example:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self!r}")
        record = self._records[index]
        key = f"{self._name}/{self._split}/{index}"
        text = record[self._caption]
        while not isinstance(text, bytes | str):
            if not len(text):
                raise schema.BadRecordError("missing caption", key)
            text = text[0]
        try:
            caption = text.decode() if isinstance(text, bytes) else text
        except UnicodeDecodeError as fault:
            raise schema.BadRecordError("broken caption", key, "not UTF-8") from fault
        return schema.Example(bytes(record[self._image]), caption.strip(), key)
