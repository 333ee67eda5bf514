"""Extracts captions from records, checks them, and draws one of several."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

import numpy as np

from glide_jax.data import retrying_reads, schema
from glide_jax.runtime import random_streams, wording

# Default names of the column or key with the caption, in this order.
DEFAULT_COLUMNS = ("caption", "text")


def from_text(content: bytes, key: str) -> str:
    """Decodes a caption file, with or without a byte order mark.

    Raises:
      BadRecordError: not UTF-8.
    """
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as fault:
        raise schema.BadRecordError("broken caption", key, "not UTF-8") from fault


def from_json(
    content: bytes, key: str, name: str = "", *, required: bool = True
) -> tuple[str, ...]:
    """Returns the captions under a key of a JSON object, a string or a list of them.

    Args:
      content: the file.
      key: of the record.
      name: the key in the object; "": "caption".
      required: False: returns ("",) if there is no caption.

    Raises:
      BadRecordError: not JSON, or without a caption, and `required`.
    """
    try:
        found = from_value(json.loads(content)[name or DEFAULT_COLUMNS[0]])
    except (ValueError, LookupError, TypeError, RecursionError):
        # Deeply nested brackets raise RecursionError.
        found = ()
    if not found and not required:
        return ("",)
    if not found:
        raise schema.BadRecordError("missing caption", key)
    return found


def from_value(value: object) -> tuple[str, ...]:
    """Returns the captions in a JSON value or a table cell; () if there are none."""
    if isinstance(value, str):
        return (value.strip(),)
    if isinstance(value, list | tuple | np.ndarray):
        texts = (text.strip() for text in value if isinstance(text, str))
        return tuple(filter(None, texts))
    return ()


def make_example(
    image: bytes | np.ndarray, texts: Iterable[str], key: str, policy: str
) -> schema.Example:
    """Returns the example of a picture and its captions.

    Args:
      image: as in `schema.Example`.
      texts: the captions of the record, at least one.
      key: names the record.
      policy: one of `source_options.POLICIES`, which treat each line of a text as a
        caption; "": the whole first text.
    """
    texts = list(texts)
    if not policy:
        return schema.Example(image, texts[0], key)
    lines = (line.strip() for text in texts for line in wording.split_lines(text))
    each = list(filter(None, lines)) or [""]
    if policy == "join":
        return schema.Example(image, " ".join(each), key)
    choices = tuple(each) if policy == "random" and len(each) > 1 else ()
    return schema.Example(image, each[0], key, choices)


def draw(example: schema.Example, seed: int, position: int) -> schema.Example:
    """Returns the example with one caption, drawn from its choices if it has any.

    The draw is a function of (seed, position), so a resumed run repeats it, and each
    epoch draws again.
    """
    if not example.choices:
        return example
    rng = random_streams.generator(seed, random_streams.CAPTION, position)
    caption = example.choices[int(rng.integers(len(example.choices)))]
    return dataclasses.replace(example, caption=caption, choices=())


def check(caption: str, key: str) -> None:
    """Checks that tokenizers accept a caption.

    Raises:
      BadRecordError: empty, longer than `retrying_reads.MAX_CAPTION_BYTES`, or not
        Unicode: JSON may spell half a surrogate pair.
    """
    if not caption.strip():
        raise schema.BadRecordError("empty caption", key)
    try:
        size = len(caption.encode())
    except UnicodeEncodeError as fault:
        raise schema.BadRecordError("broken caption", key, "not Unicode") from fault
    if size > retrying_reads.MAX_CAPTION_BYTES:
        raise schema.BadRecordError("huge caption", key, f"{size} bytes")
