"""Prompts become tokens; what is cut off is named."""

from __future__ import annotations

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.sample import prompt_tokens

RED, GREEN = "a big r circle", "a small g circle"


def test_each_prompt_stands_as_often_as_it_is_asked_for():
    assert prompt_tokens.as_prompts(RED, 2) == [RED, RED]
    assert prompt_tokens.as_prompts([RED, GREEN], 2) == [RED, RED, GREEN, GREEN]
    blend = {RED: 0.5, GREEN: 0.5}
    assert prompt_tokens.as_prompts(blend, 1) == [blend]


class Column:
    """A column of a table: iterable and indexable, but no Sequence, as in pandas."""

    ndim = 1

    def __init__(self, values):
        self._values = values

    def __iter__(self):
        return iter(self._values)

    def __bool__(self):
        raise ValueError("The truth value of a column is ambiguous")


@pytest.mark.parametrize(
    "asked",
    [
        (RED, GREEN),
        np.array([RED, GREEN]),
        np.array([RED, GREEN], object),
        Column([RED, GREEN]),
        iter([RED, GREEN]),
        dict(enumerate([RED, GREEN])).values(),
    ],
    ids=["tuple", "array", "objects", "column", "iterator", "values"],
)
def test_prompts_may_come_in_anything_that_has_an_order(asked):
    found = prompt_tokens.as_prompts(asked, np.int64(1))
    assert found == [RED, GREEN]
    assert {type(prompt) for prompt in found} == {str}


def test_an_array_of_one_thing_is_one_prompt():
    assert prompt_tokens.as_prompts(np.array(RED), 2) == [RED, RED]
    assert prompt_tokens.as_prompts(np.str_(RED), 1) == [RED]
    blends = np.array([{RED: np.float32(1)}, GREEN], object)
    assert prompt_tokens.as_prompts(blends, 1) == [{RED: 1.0}, GREEN]


@pytest.mark.parametrize(
    ("asked", "count", "named"),
    [
        ([], 1, "no prompts"),
        (RED, 0, "num_images=0"),
        ({}, 1, "names no prompt"),
        ({RED: -1.0}, 1, "weight -1.0"),
        ([RED, {RED: float("nan")}], 1, "weight nan"),
        (np.array([]), 1, "no prompts"),
        (np.array([[RED], [GREEN]]), 1, "2 dimensions"),
        (np.array([RED, None], object), 1, "None is not a prompt"),
        (Column([RED, float("nan")]), 1, "nan is not a prompt"),
        (np.array([1.5]), 1, "is not a prompt"),
        ({RED, GREEN}, 1, "a set, which has no order"),
        (RED.encode(), 1, "is not a prompt"),
        (None, 1, "None is not a prompt"),
    ],
)
def test_what_is_no_prompt_is_refused(asked, count, named):
    with pytest.raises(errors.UserError, match=named):
        prompt_tokens.as_prompts(asked, count)


def test_a_blend_takes_a_row_for_each_caption_and_others_are_filled_up(models):
    asked = [{RED: 1.0, GREEN: 3.0}, GREEN]
    caption = prompt_tokens.encode(models["base"], asked)
    context = models["base"].config.model.text_context
    assert caption.tokens.shape == (2, 2, context)
    alone = prompt_tokens.encode(models["base"], [GREEN])
    np.testing.assert_array_equal(caption.tokens[0, 1], alone.tokens[0, 0])
    np.testing.assert_array_equal(caption.tokens[1, 0], alone.tokens[0, 0])
    assert not caption.text_mask[1, 1].any()
    np.testing.assert_array_equal(prompt_tokens.weights(asked), [[1, 3], [1, 0]])


def test_the_cut_end_of_a_long_prompt_is_named_once(models, caplog):
    long = RED + " beside a huge xylophone"
    prompt_tokens.encode(models["base"], [long, long, RED])
    messages = [m for m in caplog.messages if "not seen" in m]
    assert len(messages) == 1
    assert "xylophone" in messages[0]
    assert "circle" not in messages[0].split("not seen")[1]


def test_the_empty_caption_is_all_padding_and_a_negative_prompt_is_not(models):
    assert not prompt_tokens.encode_empty(models["base"], "").text_mask.any()
    assert prompt_tokens.encode_empty(models["base"], RED).text_mask.any()
