"""`glide flags` prints exports for a shell."""

from __future__ import annotations

import subprocess

import pytest

from glide_jax.cli import main
from glide_jax.parallel import compiler


def printed(capsys, *argv: str) -> str:
    assert main.run(["flags", *argv]) == 0
    return capsys.readouterr().out


def test_a_shell_sets_the_variables_and_keeps_its_own_flags_last(capsys):
    text = printed(capsys, "--chip=v5p", "--slices=2")
    result = subprocess.run(
        ["bash", "-c", f'{text}\necho "$LIBTPU_INIT_ARGS"'],
        env={"LIBTPU_INIT_ARGS": "--mine=1"},
        capture_output=True,
        text=True,
        check=True,
    )
    *flags, last = result.stdout.split()
    assert flags == compiler.flags_for("v5p", 2)["LIBTPU_INIT_ARGS"].split()
    assert last == "--mine=1"


def test_a_chip_without_flags_prints_a_comment(capsys):
    assert printed(capsys, "--chip=tpu7x") == "# tpu7x needs no flags\n"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--chip is missing; use e.g. glide flags --chip=v5p"),
        (["v5p"], "'v5p' is not a flag"),
        (["--chip=v9"], "chip"),
        (["--chip=v5p", "--slices=0"], "slices"),
    ],
)
def test_mistakes_are_named(refused, argv, named):
    assert named in refused("flags", *argv)
