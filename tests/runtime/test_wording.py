from __future__ import annotations

import pytest

from glide_jax.runtime import wording


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 pictures"), (1, "1 picture"), (2, "2 pictures"), (3000, "3,000 pictures")],
)
def test_a_noun_is_plural_but_for_one(count, text):
    assert wording.counted(count, "picture") == text
