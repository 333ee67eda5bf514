"""Reads data sets of tensorflow_datasets in ArrayRecord files, without TensorFlow.

Hashes of ArrayRecord's chunks detect damage. A truncated file loses the index at its
end, and so all of its records.
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

from glide_jax.data import caption_text, retrying_reads, schema, source_report
from glide_jax.errors import UserError
from glide_jax.runtime import paths, wording

_FORMAT = "array_record"
_FEATURES = "features.json"
_AS_STORED = tfds.decode.SkipDecoding()
# Exceptions of tfds, ArrayRecord and protobuf for damaged records.
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
    """Returns the builder of a folder, else of a name in the user's data folder."""
    folder = paths.local_path(name, "source tfds")
    if folder.is_dir():
        versions = sorted(folder.glob("**/dataset_info.json"))
        if len(versions) != 1:
            raise UserError(
                f"tfds:{name} contains {len(versions)} data sets (files named"
                " dataset_info.json); give the folder of one version of one data set"
            )
        _check_executes_nothing(versions[0].parent / _FEATURES)
        try:
            return tfds.builder_from_directory(versions[0].parent)
        except _BROKEN as fault:
            raise UserError(
                f"{versions[0].parent} is not a valid data set"
                f" ({_first_line(fault)}); copy it again"
            ) from fault
    try:
        return tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError) as fault:
        raise UserError(
            f"tfds:{name} is neither a folder nor a known data set"
            f" ({_first_line(fault)}); give the folder with dataset_info.json, or"
            " prepare the data set first"
        ) from fault


def _first_line(fault: Exception) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]


def _check_executes_nothing(path: pathlib.Path) -> None:
    """Raises UserError if opening the data set would import modules of its own."""
    try:
        described = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as fault:
        raise UserError(
            f"{path} cannot be read ({_first_line(fault)}); copy the data set again"
        ) from fault
    for name in _class_names(described):
        if not str(name).startswith("tensorflow_datasets.core.features."):
            raise UserError(
                f"{path} names the class {name!r}, which would run code of its module;"
                " use only features of tensorflow_datasets"
            )


def _class_names(described: Any) -> Iterator[Any]:
    """Yields each pythonClassName in a features.json; tfds imports their modules."""
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
      name: a folder with dataset_info.json, or a name that tfds knows.
      split: e.g. "train", "train[:1%]".
      image: the feature with the picture, read as the encoded file.
      caption: the feature with a text or a list of texts; a slash separates nested
        features, e.g. "captions/text".
      captions: the policy for several captions, see `caption_text.make_example`.
      captions_required: False: without the feature every caption is "".
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        image: str = "image",
        caption: str = "caption",
        captions: str = "",
        *,
        captions_required: bool = True,
    ) -> None:
        self._policy = captions
        self._captions_required = captions_required
        self._name, self._split = name, split
        self._image, self._caption = image, caption
        builder = _open_builder(name)
        self._check_features(builder)
        try:
            self._records: Any = builder.as_data_source(
                split=split,  # pyright: ignore[reportCallIssue] (decorated method)
                decoders=_decoders(_features(builder)),
                file_format=_FORMAT,
            )
        except (ValueError, KeyError, NotImplementedError, OSError) as fault:
            splits = ", ".join(builder.info.splits) or "none, not prepared"
            raise UserError(
                f"tfds:{name} has no readable split {split!r} (splits: {splits};"
                f" file format: {builder.info.file_format}); use another split, or"
                " prepare it with file_format='array_record'"
            ) from fault
        self._shards = _Shards(builder, split)
        used = wording.counted(len(self), "record")
        self.report = source_report.SourceReport(used)

    def _check_features(self, builder: tfds.core.DatasetBuilder) -> None:
        known = _features(builder)
        features = set(known)
        # "captions/text" is a feature within a feature.
        top = self._caption.partition("/")[0]
        self._has_captions = top in features or self._captions_required
        missing = {self._image, *([top] if self._has_captions else [])} - features
        if missing:
            raise UserError(
                f"tfds:{self._name} has no feature {' or '.join(sorted(missing))}, only"
                f" {', '.join(known)}; select features as"
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
            text: Any = record if self._has_captions else ""
            for name in self._caption.split("/") if self._has_captions else ():
                text = text[name]
            if not isinstance(image, bytes):
                raise TypeError(f"the picture is a {type(image).__name__}")
            texts = [*_each_text(text)]
        except _BROKEN as fault:
            detail = f"{type(fault).__name__}: {_first_line(fault)}"
            raise schema.BadRecordError("broken record", key, detail) from fault
        texts = [
            caption_text.from_text(t, key) if isinstance(t, bytes) else t.strip()
            for t in texts or [""]
        ]
        if len(image) > retrying_reads.MAX_IMAGE_BYTES:
            raise schema.BadRecordError("huge image", key, f"{len(image)} bytes")
        return caption_text.make_example(image, texts, key, self._policy)


def _features(builder: tfds.core.DatasetBuilder) -> tfds.features.FeaturesDict:
    features = builder.info.features
    assert isinstance(features, tfds.features.FeaturesDict)
    return features


def _decoders(features: tfds.features.FeaturesDict) -> dict[str, Any]:
    """Returns decoders that skip decoding, so that a picture remains a file.

    tensorflow_datasets cannot skip the decoding of a sequence.
    """
    return {
        name: _AS_STORED
        for name, feature in features.items()
        if not isinstance(feature, tfds.features.Sequence | tfds.features.Dataset)
    }


def _each_text(value: Any) -> Iterator[bytes | str]:
    """Yields the texts of a feature: a text, or a nested list or array of texts.

    Raises:
      TypeError: the feature contains something else.
    """
    if isinstance(value, bytes | str):
        yield value
    elif isinstance(value, dict):
        raise TypeError(f"the caption has parts: {', '.join(value)}")
    else:
        for part in value:
            yield from _each_text(part)


class _Shards:
    """The files of a split with their stamps at the time of opening."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        parts = builder.info.splits[split].file_instructions
        self._paths = [pathlib.Path(part.filename) for part in parts]
        self._ends = list(itertools.accumulate(part.take for part in parts))
        self._stamps = []
        for path in self._paths:
            try:
                descriptor, stamp = retrying_reads.open_file(path)
            except OSError as fault:
                raise UserError(
                    f"{path}, a shard of split {split!r}, cannot be read"
                    f" ({fault.strerror}); copy the data set again"
                ) from fault
            os.close(descriptor)
            self._stamps.append(stamp)

    def check_unchanged(self, index: int, key: str) -> None:
        """Raises BadRecordError if the file of the record is missing or changed."""
        shard = bisect.bisect_right(self._ends, index)
        retrying_reads.check_unchanged(self._paths[shard], self._stamps[shard], key)
