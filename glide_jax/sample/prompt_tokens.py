"""Converts prompts to tokens of a model: one or several weighted captions an image."""

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

# A caption, or the captions of one picture with their weights.
Prompt = str | Mapping[str, float]

SHOWN_CHARACTERS = 80  # of the part of a prompt that is cut off


def as_prompts(prompts: Any, num_images: int | np.integer) -> list[Prompt]:
    """Returns a list of prompts, each repeated `num_images` times.

    Args:
      prompts: a prompt, or an ordered iterable of them, such as a list, a numpy array
        or a column of a table.
      num_images: number of consecutive occurrences of each.

    Raises:
      UserError: no prompt, something else, or a blend with weights that are not
        positive numbers.
    """
    if not isinstance(num_images, numbers.Integral) or num_images < 1:
        raise UserError(f"num_images={num_images}; give a whole number from 1")
    found = [_as_prompt(prompt) for prompt in _listed(prompts)]
    if not found:
        raise UserError("no prompts given; give at least one")
    return [prompt for prompt in found for _ in range(num_images)]


def _listed(prompts: Any) -> list[Any]:
    """Returns a list; raises UserError for sets and several dimensions."""
    ndim = getattr(prompts, "ndim", 1)
    if ndim not in (0, 1):
        raise UserError(
            f"prompts have {ndim} dimensions; give one, e.g. one column of a table"
        )
    if ndim == 0:
        return [prompts.item()]  # numpy's array of one item
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
        return str(prompt)  # numpy's str is a subclass
    if not isinstance(prompt, Mapping):
        raise UserError(
            f"{prompt!r:.60} is not a prompt; give a text, {{text: weight}} or"
            " several of them"
        )
    _check_blend(prompt)
    return {str(text): float(weight) for text, weight in prompt.items()}


def as_text(prompt: Prompt) -> str:
    """Returns a prompt as one text; a blend as `0.7 a corgi + 0.3 a cat`."""
    if isinstance(prompt, str):
        return prompt
    return " + ".join(f"{weight:g} {text}" for text, weight in prompt.items())


def as_sources(asked: Any, count: int) -> list[Prompt]:
    """Returns the source prompts of `count` pictures, one for each.

    Raises:
      UserError: as `as_prompts`; neither one nor `count` of them.
    """
    found = as_prompts(asked, 1)
    found = found * count if len(found) == 1 else found
    if len(found) != count:
        raise UserError(
            f"{wording.counted(len(found), 'prompt')} in source_prompts for"
            f" {wording.counted(count, 'picture')}; give one for each, or "
            "one for all"
        )
    return found


def weights(prompts: Sequence[Prompt]) -> np.ndarray:
    """Returns the weights of each image's captions, (N, k) float32, padded with 0."""
    rows = [list(p.values()) if isinstance(p, Mapping) else [1.0] for p in prompts]
    longest = max(map(len, rows))
    return np.array([row + [0.0] * (longest - len(row)) for row in rows], np.float32)


def encode(model: restore.SampleModel, prompts: Sequence[Prompt]) -> Caption:
    """Returns the captions of each image, (N, k, L), padded with empty captions.

    A caption longer than the model's context is cut, and the rest is logged as a
    warning.
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
    """Returns the empty caption or the negative prompt, (1, L)."""
    context = model.config.model.text_context
    if not negative_prompt:
        return Caption(*tokenizers.empty_batch(model.tokenizer, 1, context))
    _warn_if_cut(model, negative_prompt, context)
    return Caption(*model.tokenizer.encode_batch([negative_prompt], context))


def _warn_if_cut(model: restore.SampleModel, text: str, context: int) -> None:
    ids = model.tokenizer.encode(text)
    if len(ids) > context:
        seen = model.tokenizer.encode_batch([text], context)[0][0].tolist()
        # The last one may be the end token instead of the text's.
        num_seen = context - (seen[-1] != ids[context - 1])
        lost = model.tokenizer.decode(ids[num_seen:])
        logging.warning(
            "%s reads %d tokens, this prompt has %d; not seen: %r%s",
            model.folder,
            context,
            len(ids),
            # A character may be cut into incomplete bytes.
            lost.strip().strip("\ufffd")[:SHOWN_CHARACTERS],
            "..." if len(lost) > SHOWN_CHARACTERS else "",
        )


def _check_blend(blend: Mapping[Any, Any]) -> None:
    if not blend:
        raise UserError("a blend names no prompt; give {prompt: weight, ...}")
    for text, weight in blend.items():
        is_number = isinstance(text, str) and isinstance(weight, numbers.Real)
        if not is_number or not 1e-6 <= float(weight) <= 1e6:
            raise UserError(
                f"weight {weight} of {text!r} is not a number from 1e-6 to 1e6; leave "
                "the prompt out, or put it into negative_prompt"
            )
