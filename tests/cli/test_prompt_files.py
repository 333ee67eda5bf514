"""A --prompt_file: which lines are prompts, and what is logged about the others."""

from __future__ import annotations

import pytest

from glide_jax import errors
from glide_jax.cli import sampling


@pytest.fixture
def read(tmp_path, caplog):
    """read(bytes) -> prompts of such a file, and the one line that is logged."""
    caplog.set_level("INFO")

    def run(content: bytes) -> tuple[list[str], str]:
        path = tmp_path / "p.txt"
        path.write_bytes(content)
        prompts = sampling.read_lines(str(path))
        (record,) = caplog.records
        return prompts, record.getMessage().removeprefix(f"--prompt_file={path}: ")

    return run


@pytest.mark.parametrize(
    "inside",
    ["\u2028", "\u2029", "\x0c", "\x0b", "\x85", "\x1c", "\x1d", "\x1e"],
    ids=ascii,
)
def test_a_prompt_keeps_letters_that_unicode_calls_line_ends(read, inside):
    prompts, told = read(f"a red circle{inside}on white\na square\n".encode())
    assert prompts == [f"a red circle{inside}on white", "a square"]
    assert told == "2 prompts"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=ascii)
def test_lines_end_as_files_of_all_systems_do(read, end):
    text = end.join(["\ufeffa", "", "  b ", "\t", "c"])
    prompts, told = read(text.encode())
    assert prompts == ["a", "b", "c"]
    assert told == "3 prompts (2 empty lines skipped)"


def test_a_file_of_empty_lines_is_refused(read):
    with pytest.raises(errors.UserError, match=r"prompt_file=.* has no prompt"):
        read(b"\n \n")
