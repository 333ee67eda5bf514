from __future__ import annotations

import pytest

from glide_jax.runtime import wording


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\nb\n", ["a", "b"]),
        ("a\r\nb\rc\n\nd", ["a", "b", "c", "", "d"]),
        (
            "a\u2028b\x0cc\x85d\x0be\x1cf\u2029g",
            ["a\u2028b\x0cc\x85d\x0be\x1cf\u2029g"],
        ),
    ],
)
def test_lines_end_at_newlines_and_carriage_returns_only(text, lines):
    assert wording.split_lines(text) == lines
