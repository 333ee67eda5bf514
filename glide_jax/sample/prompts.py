"""Prompts as a model's tokens: one caption an image, or several blended by weight."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np

from glide_jax import errors
from glide_jax.sample import restore
from glide_jax.sample.stage_inputs import Caption
from glide_jax.text import tokenizers

# A caption, or captions with the weight each has in one picture.
Prompt = str | Mapping[str, float]


def as_prompts(prompts: Prompt | Sequence[Prompt], num_images: int) -> list[Prompt]:
    """A list of prompts, each `num_images` times over.

    Raises:
        UserError: No prompt, or a blend whose weights are not positive numbers.
    """
    if isinstance(prompts, str | Mapping):
        prompts = [prompts]
    if not prompts:
        raise errors.UserError("no prompts given; give at least one")
    if num_images < 1:
        raise errors.UserError(f"num_images={num_images}; give at least 1")
    for prompt in prompts:
        if isinstance(prompt, Mapping):
            _check_blend(prompt)
    return [prompt for prompt in prompts for _ in range(num_images)]


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
        lost = model.tokenizer.decode(ids[context - 1 :])
        logging.warning(
            "%s reads %d tokens, this prompt has %d; not seen: %r",
            model.folder.name,
            context,
            len(ids),
            lost.strip(),
        )


def _check_blend(blend: Mapping[str, float]) -> None:
    if not blend:
        raise errors.UserError("a blend names no prompt; give {prompt: weight, ...}")
    for text, weight in blend.items():
        if not math.isfinite(weight) or weight <= 0:
            raise errors.UserError(
                f"weight {weight} of {text!r} is not a positive number; leave the "
                "prompt out, or put it into negative_prompt"
            )
