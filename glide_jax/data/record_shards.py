"""Writes a tensorflow_datasets data set in ArrayRecord files, shard by shard.

Each worker writes its shards with the serializer of tensorflow_datasets, and the
metadata, which make them a data set, come last. The builder of `data.builders` writes
all shards in one process, in an order of its own.
"""

from __future__ import annotations

import contextlib
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue] (compiled)
)
from etils import epath

from glide_jax.runtime import files

VERSION = "1.0.0"
_TYPES = {int: np.int64, float: np.float32, str: tfds.features.Text}
# Readers take records by index: one record of a group is read without the others.
_OPTIONS = "group_size:1"


@runtime_checkable
class Naming(Protocol):
    """The names of a data set and of one of its splits."""

    @property
    def name(self) -> str:
        """The data set."""
        ...

    @property
    def split(self) -> str:
        """Its split."""
        ...


def features(row: Mapping[str, Any]) -> dict[str, Any]:
    """The features of the columns of a pair, apart from picture and caption."""
    return {
        name: _TYPES[type(value)]
        for name, value in row.items()
        if name not in ("image", "caption")
    }


def _all_features(columns: Mapping[str, Any]) -> tfds.features.FeaturesDict:
    made = {
        name: kind() if kind is tfds.features.Text else kind
        for name, kind in columns.items()
    }
    return tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "caption": tfds.features.Text(), **made}
    )


def _template(folder: pathlib.Path, naming: Naming) -> Any:
    return tfds.core.ShardedFileTemplate(
        dataset_name=naming.name,
        data_dir=epath.Path(folder),
        split=naming.split,
        filetype_suffix="array_record",
    )


def write_shard(
    folder: pathlib.Path,
    naming: Naming,
    number: int,
    count: int,
    examples: Iterable[dict[str, Any]],
) -> pathlib.Path:
    """Writes a shard, which appears complete; returns its path.

    Args:
      folder: of the version of the data set.
      naming: of the data set and the split.
      number: of the shard.
      count: the number of all shards.
      examples: "image", bytes of a file; "caption"; and columns of numbers and texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    template = _template(folder, naming)
    path = pathlib.Path(template.sharded_filepath(shard_index=number, num_shards=count))
    made: tfds.features.FeaturesDict | None = None
    with files.scratch(path, is_shared=True) as draft:
        writer = array_record_module.ArrayRecordWriter(str(draft), _OPTIONS)
        try:
            for example in examples:
                if made is None:
                    made = _all_features(features(example))
                # tfds needs TensorFlow to encode pictures; it stores files as they are.
                writer.write(made.serialize_example(made.encode_example(example)))
        finally:
            writer.close()
    return path


def write_metadata(
    folder: pathlib.Path,
    naming: Naming,
    columns: Mapping[str, Any],
    lengths: Sequence[int],
    description: str,
) -> None:
    """Writes the files that make the shards a data set.

    Args:
      folder: of the version of the data set.
      naming: of the data set and the split.
      columns: as `features` returns them.
      lengths: the number of examples of each shard.
      description: of the data set.
    """
    template = _template(folder, naming)
    paths = [
        pathlib.Path(template.sharded_filepath(shard_index=i, num_shards=len(lengths)))
        for i in range(len(lengths))
    ]
    split = tfds.core.SplitInfo(
        name=naming.split,
        shard_lengths=list(lengths),
        num_bytes=sum(path.stat().st_size for path in paths),
        filename_template=template,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=_all_features(columns),
            split_infos=[split],
            filename_template=template,
            description=description,
            check_data=False,
        )
