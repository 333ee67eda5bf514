"""Cleans captions, and stacks token lists to arrays (tokens, text_mask)."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import ftfy
import numpy as np

from glide_jax import array_types
from glide_jax.errors import UserError


def truncate(ids: Sequence[int], context: int, *, closing: int) -> list[int]:
    """Truncates ids to at most `context`, and keeps the last `closing` of them.

    Raises:
      UserError: `context` is not larger than `closing`.
    """
    if context < closing + 1:
        raise UserError(
            f"context={context} is too short: this tokenizer needs at least "
            f"{closing + 1} positions; raise the text context"
        )
    if len(ids) <= context:
        return list(ids)
    return [*ids[: context - closing], *ids[len(ids) - closing :]]


def stack(
    rows: Sequence[Sequence[int]], context: int, pad_id: int
) -> tuple[array_types.Tokens, array_types.TextMask]:
    """Returns tokens int32 (B, L), padded right, and mask (B, L), True = real."""
    tokens = np.full((len(rows), context), pad_id, dtype=np.int32)
    mask = np.zeros((len(rows), context), dtype=np.bool_)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    return tokens, mask


def lower_case(text: str) -> str:
    """Returns the text in lower case, GLIDE's only normalisation of captions.

    Raises:
      UserError: the text contains an unpaired surrogate, so it is not valid Unicode.
    """
    lowered = text.lower()
    try:
        lowered.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text {text!r} is not valid Unicode at character {error.start}; "
            "give it in UTF-8"
        ) from error
    return lowered


def clip_clean(text: str) -> str:
    """Cleans a text as openai/CLIP does.

    Repairs wrongly decoded characters, unescapes HTML twice, replaces each run of
    white space by one space, and converts to lower case.
    """
    repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", repaired).strip().lower()
