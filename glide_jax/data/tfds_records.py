"""Data sets of tensorflow_datasets in ArrayRecord files, read without TensorFlow.

ArrayRecord's chunks carry hashes, so a damaged one is found; a file that was cut loses
the index at its end, and with it all of its records.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf import json_format, message

from glide_jax import errors
from glide_jax.data import captions, disk, schema

_FORMAT = "array_record"
_FEATURES = "features.json"
_AS_STORED = tfds.decode.SkipDecoding()
# What tfds, ArrayRecord and protobuf raise on damaged records.
_BROKEN = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    message.Error,
    json_format.Error,
)


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
        _check_executes_nothing(versions[0].parent / _FEATURES)
        try:
            return tfds.builder_from_directory(versions[0].parent)
        except _BROKEN as fault:
            raise errors.UserError(
                f"{versions[0].parent} does not describe a data set"
                f" ({_first_line(fault)}); copy it again"
            ) from fault
    try:
        return tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError) as fault:
        raise errors.UserError(
            f"tfds:{name} is no folder and no known data set ({_first_line(fault)});"
            " give the folder that holds dataset_info.json, or prepare the data set"
            " first"
        ) from fault


def _first_line(fault: Exception) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]


def _check_executes_nothing(path: pathlib.Path) -> None:
    """Raises UserError if reading the data set would import modules that it names."""
    try:
        described = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as fault:
        raise errors.UserError(
            f"{path} cannot be read ({_first_line(fault)}); copy the data set again"
        ) from fault
    for name in _class_names(described):
        if not str(name).startswith("tensorflow_datasets.core.features."):
            raise errors.UserError(
                f"{path} names the class {name!r}, for which its module would be run;"
                " only features of tensorflow_datasets itself are read"
            )


def _class_names(described: Any) -> Iterator[Any]:
    """Every pythonClassName in a features.json; tfds imports the modules of these."""
    left = [described]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            names = ("pythonClassName", "python_class_name")
            yield from (node[name] for name in names if name in node)
            left += node.values()
        elif isinstance(node, list):
            left += node


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
        *,
        captions_required: bool = True,
    ) -> None:
        self._name, self._split = name, split
        self._image, self._caption = image, caption
        builder = _open_builder(name)
        self._has_captions = captions_required or caption in builder.info.features
        self._check_features(builder)
        try:
            self._records = builder.as_data_source(
                split=split,
                # The picture stays a file, and what we do not read stays as it is.
                decoders=dict.fromkeys(builder.info.features, _AS_STORED),
                file_format=_FORMAT,
            )
        except (ValueError, KeyError, NotImplementedError, OSError) as fault:
            splits = ", ".join(builder.info.splits) or "none, not prepared"
            raise errors.UserError(
                f"tfds:{name} cannot be read at split {split!r} (splits: {splits};"
                f" file format: {builder.info.file_format}); choose a split, or prepare"
                " it with file_format='array_record'"
            ) from fault
        self._shards = _Shards(builder, split)

    def _check_features(self, builder: tfds.core.DatasetBuilder) -> None:
        needed = {self._image, *([self._caption] if self._has_captions else [])}
        missing = needed - set(builder.info.features)
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
        key = f"{self._name}/{self._split}/{index}"
        self._shards.check_unchanged(index, key)
        try:
            record = self._records[index]
            image = record[self._image]
            text = record[self._caption] if self._has_captions else ""
            if not isinstance(image, bytes):
                raise TypeError(f"the picture is a {type(image).__name__}")
            while not isinstance(text, bytes | str):
                text = text[0] if len(text) else ""
        except _BROKEN as fault:
            detail = f"{type(fault).__name__}: {_first_line(fault)}"
            raise schema.BadRecordError("broken record", key, detail) from fault
        if isinstance(text, bytes):
            text = captions.from_text(text, key)
        if len(image) > disk.MAX_IMAGE_BYTES:
            raise schema.BadRecordError("huge image", key, f"{len(image)} bytes")
        return schema.Example(image, text.strip(), key)


class _Shards:
    """The files of a split, as they were when it was opened."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        parts = builder.info.splits[split].file_instructions
        self._paths = [pathlib.Path(part.filename) for part in parts]
        self._ends = list(itertools.accumulate(part.take for part in parts))
        self._stamps = []
        for path in self._paths:
            try:
                descriptor, stamp = disk.open_file(path)
            except OSError as fault:
                raise errors.UserError(
                    f"{path}, a shard of split {split!r}, cannot be read"
                    f" ({fault.strerror}); copy the data set again"
                ) from fault
            os.close(descriptor)
            self._stamps.append(stamp)

    def check_unchanged(self, index: int, key: str) -> None:
        """Raises BadRecordError if the file of the record is gone or another."""
        shard = bisect.bisect_right(self._ends, index)
        disk.check_unchanged(self._paths[shard], self._stamps[shard], key)
