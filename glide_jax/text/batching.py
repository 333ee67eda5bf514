"""Ragged token lists to the rectangular (tokens, text_mask) pair models take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glide_jax import errors, shapes


def truncate(ids: Sequence[int], context: int, *, closing: int) -> list[int]:
    """At most `context` ids; the last `closing` ids survive, the middle is cut.

    Raises:
        UserError: `context` leaves no room for the ids that must survive.
    """
    if context < closing + 1:
        raise errors.UserError(
            f"context={context} is too short: this tokenizer needs at least "
            f"{closing + 1} positions; raise the text context"
        )
    if len(ids) <= context:
        return list(ids)
    return [*ids[: context - closing], *ids[len(ids) - closing :]]


def stack(
    rows: Sequence[Sequence[int]], context: int, pad_id: int
) -> tuple[shapes.Tokens, shapes.TextMask]:
    """Tokens int32 (B, L) padded on the right with `pad_id`, mask True on real ids."""
    tokens = np.full((len(rows), context), pad_id, dtype=np.int32)
    mask = np.zeros((len(rows), context), dtype=np.bool_)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    return tokens, mask
