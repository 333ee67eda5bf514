"""Errors of sweep files are one line with the file, the rule and the remedy."""

from __future__ import annotations

import pathlib
import re

import pytest

from glide_jax.errors import UserError
from glide_jax.sweep import sweep_file


def refused(path: pathlib.Path) -> str:
    with pytest.raises(UserError) as error:
        sweep_file.load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_sweep_file_has_a_name_a_command_and_runs(write_sweep):
    path = write_sweep("seeds(2)", "evaluate --base='my bundle'")
    assert sweep_file.load(path) == (
        "small",
        ("evaluate", "--base=my bundle"),
        [{"seed": 0}, {"seed": 1}],
    )


@pytest.mark.parametrize(
    ("runs", "named"),
    [
        ("[]", "returned no runs"),
        ("listed('a', [])", "returned no runs"),
        ("{'a': 1}", "returned a dict; return a list"),
        ("None", "returned a NoneType; return a list"),
        ("[1]", "run 0 of .* is 1; return a dict"),
        ("[{1: 2}]", "has the key 1"),
        ("[{'a': {1, 2}}]", r"run 0 .*: a=\{1, 2\} is a set, which"),
        ("[{'a': 1}, {'a': None}]", "run 1 .*: a=None is a NoneType, which"),
        ("[{'a': float('nan')}]", "a=nan is a float, which"),
        ("[{'a': (1, {})}]", r"a=\(1, \{\}\) is a tuple, which"),
        ("undefined", "line 5: NameError: name 'undefined' is not defined"),
        (
            "1 / 0",
            "line 5: ZeroDivisionError: division by zero; correct the sweep file",
        ),
        ("zipped(seeds(1), seeds(2))", r"line 5: zipped\(\) of parts of 1, 2 runs"),
    ],
)
def test_what_sweep_returns_is_checked(write_sweep, runs, named):
    message = refused(write_sweep(runs))
    assert re.search(named, message), message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("COMMAND = 'train'", "has no function sweep()"),
        ("COMMAND = 'train'\nsweep = 3", "has no function sweep()"),
        ("def sweep(): return []", "has no COMMAND, which its runs start"),
        ("COMMAND = ['train']", "has no COMMAND, which its runs start"),
        ("import absent_module", "line 1: ModuleNotFoundError"),
        ("a = 1\ndef sweep(:", "line 2: SyntaxError"),
        ("raise ValueError('one\\ntwo')", "line 1: ValueError: one two"),
    ],
)
def test_a_file_without_what_a_sweep_has_is_refused(tmp_path, text, named):
    path = tmp_path / "broken.py"
    path.write_text(text)
    assert named in refused(path)


def test_a_file_that_is_absent_or_no_python_is_refused(tmp_path):
    assert "there is no sweep file" in refused(tmp_path / "absent.py")
    (tmp_path / "sweep.txt").write_text("seed: 1")
    assert "is not a Python file" in refused(tmp_path / "sweep.txt")
