"""Defines records and batches, the contract between sources, pipeline and trainer.

Batch fields (numpy; B is this process's rows of the global batch):

| field           | dtype, shape      | meaning                                      |
|-----------------|-------------------|----------------------------------------------|
| `image`         | float32 (B,H,W,3) | [-1, 1]                                      |
| `tokens`        | int32 (B,L)       | token ids, padded                            |
| `text_mask`     | bool (B,L)        | True = real token                            |
| `example_index` | int32 (B,)        | (step * global_batch_size + row) modulo 2^31 |
| `low_res`       | float32 (B,h,w,3) | [-1, 1]; only when low_res_px > 0            |
| `inpaint_mask`  | float32 (B,H,W,1) | 1 = known, 0 = to fill; only when inpainting |
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from glide_jax import array_types
from glide_jax.errors import UserError

Batch = dict[str, np.ndarray]
# Records that `announced` announces at once; two for each request of `store_ranges`.
_ANNOUNCED = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One captioned picture.

    Attributes:
      image: an encoded file (JPEG, PNG, WebP), or uint8 pixels (H, W, 3).
      caption: the text, not yet tokenized; the first one of several.
      key: names the record in messages, e.g. "shard-00000.tar:000000017".
      choices: captions of which `caption_text.draw` takes one; empty: `caption` alone.
    """

    image: bytes | np.ndarray
    caption: str
    key: str
    choices: tuple[str, ...] = ()


class BadRecordError(UserError):
    """A record that cannot be used; the pipeline replaces it and counts it.

    Attributes:
      kind: the class of the fault, e.g. "broken image" or "empty caption".
      key: the record, as in `Example.key`.
      reason: the kind with its detail, e.g. "broken caption (not UTF-8)".
    """

    def __init__(self, kind: str, key: str, detail: str = "") -> None:
        self.kind = kind
        # A file name may contain line ends, and a message is one line.
        self.key = key if key.isprintable() else repr(key)[1:-1]
        self.reason = f"{kind} ({detail})" if detail else kind
        super().__init__(
            f"record {self.key}: {self.reason};"
            " repair or remove it, or allow more by data.max_bad_frac"
        )


@runtime_checkable
class Source(Protocol):
    """Random access to records; `__getitem__` may raise `BadRecordError`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@runtime_checkable
class FileSource(Source, Protocol):
    """A source whose records are read from files."""

    def files(self) -> list[pathlib.Path]:
        """Every file that the records are read from."""
        ...


@runtime_checkable
class ObjectSource(Source, Protocol):
    """A source whose records are read from objects of a store."""

    def objects(self) -> list[str]:
        """A line with name, size and version for every object that is read."""
        ...


@runtime_checkable
class AheadSource(Source, Protocol):
    """A source that can read records before they are asked for."""

    def ahead(self, indices: Iterable[int]) -> contextlib.AbstractContextManager[None]:
        """Starts to read records that the block takes, in about this order."""
        ...


def ahead(
    source: Source, indices: Iterable[int]
) -> contextlib.AbstractContextManager[None]:
    """Announces the records that a block takes, to a source that reads ahead."""
    if isinstance(source, AheadSource):
        return source.ahead(indices)
    return contextlib.nullcontext()


def announced(source: Source, indices: Iterable[int]) -> Iterator[int]:
    """Yields the indices, each announced before the record is taken."""
    remaining = iter(indices)
    while chunk := list(itertools.islice(remaining, _ANNOUNCED)):
        with ahead(source, chunk):
            yield from chunk


@runtime_checkable
class Drawable(Protocol):
    """A source that generates its pictures, at any size."""

    def at_px(self, px: int) -> Source:
        """The same records, drawn (px, px)."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """The method of a tokenizer that the pipeline needs."""

    def encode_batch(
        self, texts: Sequence[str], context: int
    ) -> tuple[array_types.Tokens, array_types.TextMask]:
        """Tokens int32 (B, context) and text_mask bool (B, context)."""
        ...
