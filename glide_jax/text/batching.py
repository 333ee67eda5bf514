"""Ragged token lists to the rectangular (tokens, text_mask) pair models take."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import ftfy
import numpy as np

from glide_jax import array_types
from glide_jax.errors import UserError


def truncate(ids: Sequence[int], context: int, *, closing: int) -> list[int]:
    """At most `context` ids; the last `closing` ids survive, the middle is cut.

    Raises:
      UserError: `context` leaves no room for the ids that must survive.
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
    """Tokens int32 (B, L) padded on the right with `pad_id`, mask True on real ids."""
    tokens = np.full((len(rows), context), pad_id, dtype=np.int32)
    mask = np.zeros((len(rows), context), dtype=np.bool_)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    return tokens, mask


def lower_case(text: str) -> str:
    """`text` in lower case, as GLIDE reads captions; nothing else is changed.

    Raises:
      UserError: half a surrogate pair in `text`: no Unicode text, so no UTF-8.
    """
    lowered = text.lower()
    try:
        lowered.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text {text!r} is not valid Unicode at character {error.start}; "
            f"give it in UTF-8"
        ) from error
    return lowered


def clip_clean(text: str) -> str:
    """openai/CLIP's cleaning: mend mojibake, unescape HTML twice, one space, lower."""
    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", mended).strip().lower()
