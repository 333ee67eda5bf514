"""Writes any source as a tensorflow_datasets data set in ArrayRecord files.

Worth it for sets that are read many times from a network disk: one open file per
shard, and records found by position without an index of our own.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from glide_jax import errors
from glide_jax.data import fault, schema


def _encoded(image: bytes | np.ndarray) -> bytes:
    """The file as it is, or drawn pixels as PNG."""
    if isinstance(image, bytes):
        return image
    # tfds encodes arrays through TensorFlow; bytes it stores untouched.
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


class CaptionedImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Pictures with captions, from one source, as the one split "train"."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded, so tfds need not look for checksums beside this module;
    # its search imports importlib_resources, which it does not declare.
    code_path = None

    def __init__(
        self,
        *,
        name: str,
        source: schema.Source,
        faults: fault.FaultCounter,
        **kwargs: object,
    ) -> None:
        # tfds would name the data set after the class.
        self.name = name
        self._source = source
        self._faults = faults
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
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, object]]]:
        for index in range(len(self._source)):
            try:
                example = self._source[index]
            except schema.BadRecordError as bad:
                self._faults.count_bad(bad)
                continue
            self._faults.count_good()
            yield (
                str(index),
                {
                    "image": _encoded(example.image),
                    "caption": example.caption,
                    "key": example.key,
                },
            )


def build_array_records(
    source: schema.Source,
    directory: pathlib.Path,
    name: str,
    *,
    max_bad_frac: float = 0.01,
) -> pathlib.Path:
    """Writes the source under directory/name and returns the version's folder.

    Read it back with the source "tfds:FOLDER".

    Args:
      source: the records; those without a caption or image are left out and counted.
      directory: made if it does not exist.
      name: lower-case letters, digits and underscores, starting with a letter.
      max_bad_frac: left-out records beyond this share stop the work.

    Raises:
      UserError: a name that is taken or cannot be one, or too many bad records.
    """
    if not (name.isidentifier() and name.islower() and name.isascii()):
        raise errors.UserError(
            f"data set name {name!r} is not lower-case letters, digits and underscores"
            " starting with a letter; choose such a name"
        )
    if (directory / name).exists():
        raise errors.UserError(
            f"{directory / name} exists; remove it, or choose another name or directory"
        )
    builder = CaptionedImages(
        name=name,
        source=source,
        faults=fault.FaultCounter(max_bad_frac),
        data_dir=directory,
        file_format="array_record",
    )
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)
