"""From what a record holds as its caption to text that every tokenizer takes."""

from __future__ import annotations

import json

from glide_jax.data import disk, schema


def from_text(content: bytes, key: str) -> str:
    """The text of a caption file, without the mark that Windows begins files with.

    Raises:
      BadRecordError: not UTF-8.
    """
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as fault:
        raise schema.BadRecordError("broken caption", key, "not UTF-8") from fault


def from_json(content: bytes, key: str) -> str:
    """The "caption" of img2dataset's JSON.

    Raises:
      BadRecordError: not JSON, or without a caption.
    """
    try:
        caption = json.loads(content)["caption"]
    except (ValueError, LookupError, TypeError, RecursionError):
        # A few thousand brackets are enough for RecursionError.
        caption = None
    if not isinstance(caption, str):
        raise schema.BadRecordError("missing caption", key)
    return caption.strip()


def check(caption: str, key: str) -> None:
    """Passes what a tokenizer takes.

    Raises:
      BadRecordError: empty, longer than `disk.MAX_CAPTION_BYTES`, or not Unicode: JSON
        may spell half a surrogate pair.
    """
    if not caption.strip():
        raise schema.BadRecordError("empty caption", key)
    try:
        size = len(caption.encode())
    except UnicodeEncodeError as fault:
        raise schema.BadRecordError("broken caption", key, "not Unicode") from fault
    if size > disk.MAX_CAPTION_BYTES:
        raise schema.BadRecordError("huge caption", key, f"{size} bytes")
