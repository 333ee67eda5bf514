"""Prompts as tokens of a model: one caption per image, or several with weights."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from glide_jax.errors import UserError
from glide_jax.runtime import wording
from glide_jax.sample import restore
from glide_jax.sample.stage_inputs import Caption
from glide_jax.text import tokenizers

# A caption, or captions with the weight each has in one picture.
Prompt = str | Mapping[str, float]

SHOWN_CHARACTERS = 80  # of the part of a prompt that is cut off


def as_prompts(prompts: Any, num_images: int | np.integer) -> list[Prompt]:
    """A list of prompts, each `num_images` times over.

    Args:
      prompts: A prompt, or several in order: a list, a tuple, a numpy array, a column
          of a table, or anything else that can be iterated over.
      num_images: How often each occurs in a row.

    Raises:
      UserError: No prompt, something else, or a blend whose weights are
          not positive numbers.
    """
    if not isinstance(num_images, numbers.Integral) or num_images < 1:
        raise UserError(f"num_images={num_images}; give a whole number from 1")
    found = [_as_prompt(prompt) for prompt in _listed(prompts)]
    if not found:
        raise UserError("no prompts given; give at least one")
    return [prompt for prompt in found for _ in range(num_images)]


def _listed(prompts: Any) -> list[Any]:
    """Raises UserError for what has no order, or more than one dimension."""
    ndim = getattr(prompts, "ndim", 1)
    if ndim not in (0, 1):
        raise UserError(
            f"prompts have {ndim} dimensions; give one, e.g. one column of a table"
        )
    if ndim == 0:
        # numpy gives the one thing that such an array holds.
        return [prompts.item()]
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        return [prompts]
    if isinstance(prompts, Set):
        raise UserError(
            "prompts are a set, which has no order; give a list, so that each picture"
            " has an index"
        )
    return list(prompts)


def _as_prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        # numpy has a class of its own for texts, and others for numbers.
        return str(prompt)
    if not isinstance(prompt, Mapping):
        raise UserError(
            f"{prompt!r:.60} is not a prompt; give a text, {{text: weight}} or"
            " several of them"
        )
    _check_blend(prompt)
    return {str(text): float(weight) for text, weight in prompt.items()}


def as_text(prompt: Prompt) -> str:
    """One text; of a blend `0.7 a corgi + 0.3 a cat`."""
    if isinstance(prompt, str):
        return prompt
    return " + ".join(f"{weight:g} {text}" for text, weight in prompt.items())


def as_sources(asked: Any, count: int) -> list[Prompt]:
    """What each of `count` pictures shows: one prompt of each, or one for all.

    Raises:
      UserError: As `as_prompts`; another number of them.
    """
    found = as_prompts(asked, 1)
    found = found * count if len(found) == 1 else found
    if len(found) != count:
        raise UserError(
            f"{wording.counted(len(found), 'prompt')} in source_prompts for"
            f" {wording.counted(count, 'picture')}; give one of each, or "
            "one for all"
        )
    return found


def weights(prompts: Sequence[Prompt]) -> np.ndarray:
    """(N, k) float32: weights of each image's captions, 0 where it has fewer than k."""
    rows = [list(p.values()) if isinstance(p, Mapping) else [1.0] for p in prompts]
    longest = max(map(len, rows))
    return np.array([row + [0.0] * (longest - len(row)) for row in rows], np.float32)


def encode(model: restore.SampleModel, prompts: Sequence[Prompt]) -> Caption:
    """(N, k, L) tokens and mask for `model`, the empty caption where fewer than k.

    A caption longer than the model's context is cut, and a warning names what of it
    the model does not see.
    """
    texts = [list(p) if isinstance(p, Mapping) else [p] for p in prompts]
    longest = max(map(len, texts))
    context = model.config.model.text_context
    for text in dict.fromkeys(text for row in texts for text in row):
        _warn_if_cut(model, text, context)
    tokens, text_mask = tokenizers.empty_batch(
        model.tokenizer, len(texts) * longest, context
    )
    for i, row in enumerate(texts):
        rows = slice(i * longest, i * longest + len(row))
        tokens[rows], text_mask[rows] = model.tokenizer.encode_batch(row, context)
    shape = (len(texts), longest, context)
    return Caption(tokens.reshape(shape), text_mask.reshape(shape))


def encode_empty(model: restore.SampleModel, negative_prompt: str) -> Caption:
    """(1, L) the empty caption, or what guidance is to steer away from."""
    context = model.config.model.text_context
    if not negative_prompt:
        return Caption(*tokenizers.empty_batch(model.tokenizer, 1, context))
    _warn_if_cut(model, negative_prompt, context)
    return Caption(*model.tokenizer.encode_batch([negative_prompt], context))


def _warn_if_cut(model: restore.SampleModel, text: str, context: int) -> None:
    ids = model.tokenizer.encode(text)
    if len(ids) > context:
        seen = model.tokenizer.encode_batch([text], context)[0][0].tolist()
        # The last may be the closing id, moved up.
        num_seen = context - (seen[-1] != ids[context - 1])
        lost = model.tokenizer.decode(ids[num_seen:])
        logging.warning(
            "%s reads %d tokens, this prompt has %d; not seen: %r%s",
            model.folder,
            context,
            len(ids),
            # A character may be cut in its middle.
            lost.strip().strip("\ufffd")[:SHOWN_CHARACTERS],
            "..." if len(lost) > SHOWN_CHARACTERS else "",
        )


def _check_blend(blend: Mapping[Any, Any]) -> None:
    if not blend:
        raise UserError("a blend names no prompt; give {prompt: weight, ...}")
    for text, weight in blend.items():
        is_number = isinstance(text, str) and isinstance(weight, numbers.Real)
        # In float32, as the program sees it.
        if not is_number or not 1e-6 <= weight <= 1e6:
            raise UserError(
                f"weight {weight} of {text!r} is not a number from 1e-6 to 1e6; leave "
                "the prompt out, or put it into negative_prompt"
            )
