"""Help, start-up and exit codes of the `glide` command."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys

import pytest

import glide_jax
from glide_jax.cli import main
from tests import fake_devices


def run_python(code: str) -> str:
    """The output of some code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=fake_devices.ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_importing_the_package_or_asking_for_help_starts_neither_jax_nor_flax():
    loaded = run_python(
        "import sys, glide_jax\n"
        "from glide_jax.cli import main\n"
        "assert main.run(['help']) == 0\n"
        "print([m for m in ('jax', 'flax', 'orbax', 'numpy') if m in sys.modules])"
    )
    assert loaded.splitlines()[-1] == "[]"


def test_the_help_of_any_verb_starts_no_jax():
    loaded = run_python(
        "import sys\n"
        "from glide_jax.cli import main\n"
        "for verb in main.VERBS:\n"
        "    before = set(sys.modules)\n"
        "    assert main.run([*verb.split(), '--help']) == 0\n"
        "    if {'jax', 'flax'} & (set(sys.modules) - before):\n"
        "        sys.exit(verb)\n"
        "print([m for m in ('jax', 'flax') if m in sys.modules])"
    )
    assert loaded.splitlines()[-1] == "[]"


@pytest.mark.parametrize("first", ["import glide_jax", "import jax, glide_jax"])
def test_compiled_programs_are_kept_from_one_start_to_the_next(first, tmp_path):
    code = (
        "import os\n"
        "os.environ.pop('JAX_COMPILATION_CACHE_DIR')\n"
        f"os.environ['GLIDE_JAX_CACHE'] = {str(tmp_path)!r}\n"
        f"{first}\n"
        "glide_jax.Glide\n"
        "import jax, jax.numpy as jnp\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))\n"
    )
    run_python(code)
    kept = set((tmp_path / "programs").iterdir())
    assert kept
    run_python(code)
    assert {p.name for p in kept if p.name.endswith("-cache")} == {
        p.name for p in (tmp_path / "programs").iterdir() if p.name.endswith("-cache")
    }


COMPILE_TWO = """
import logging, os, resource, sys
logging.basicConfig(level="WARNING", format="%(message)s", stream=sys.stdout)
from glide_jax.runtime import user_cache
user_cache.keep_programs()
import jax, jax.numpy as jnp

def compile_two():
    jax.clear_caches()
    with user_cache.failures_logged_once():
        for size in (3, 4):
            jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((size, size)))
"""


def test_programs_that_cannot_be_kept_are_one_line(tmp_path):
    """No file may grow, as on a full disk; JAX leaves empty files behind."""
    folder = tmp_path / "programs"
    code = (
        f"import os; os.environ['JAX_COMPILATION_CACHE_DIR'] = {str(folder)!r}"
        f"{COMPILE_TWO}"
        "unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited[1]))\n"
        "compile_two()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)\n"
        "compile_two()\n"
    )
    written, read = run_python(code).splitlines()
    for line in (written, read):
        assert str(folder) in line
        assert "JAX_COMPILATION_CACHE_DIR" in line
    assert "free space" in written
    assert "delete what is damaged" in read


def test_a_cache_folder_that_cannot_be_made_is_a_line_each_for_reading_and_writing(
    tmp_path,
):
    (tmp_path / "file").touch()
    code = (
        "import os; os.environ['JAX_COMPILATION_CACHE_DIR'] = "
        f"{str(tmp_path / 'file' / 'programs')!r}{COMPILE_TWO}"
        "compile_two()\n"
    )
    lines = run_python(code).splitlines()
    assert 1 <= len(lines) <= 2
    assert all(str(tmp_path) in line for line in lines)


@pytest.mark.parametrize("argv", [["help"], ["--help"], ["-h"]])
def test_help_lists_every_verb(argv, capsys):
    assert main.run(argv) == 0
    text = capsys.readouterr().out
    for verb, meaning in main.VERBS.items():
        assert f"  {verb} " in text
        assert meaning in text


def test_no_verb_prints_the_same_and_fails(capsys):
    assert main.run([]) == 2
    assert main.VERBS["train"] in capsys.readouterr().out


@pytest.mark.parametrize("verb", main.VERBS)
def test_the_help_of_a_verb_shows_examples_and_every_flag(verb, capsys):
    assert main.run([*verb.split(), "--help"]) == 0
    captured = capsys.readouterr()
    assert f"glide {verb} " in captured.out, "an example to copy"
    assert captured.err == ""
    module = importlib.import_module(f"glide_jax.cli.{verb.replace(' ', '_')}")
    values = main.flags.FlagValues()
    module.define_flags(values)
    for name in values:
        assert f"  --{name}\n" in captured.out or f"  --[no]{name}\n" in captured.out
        assert values[name].help.split()[-1] in captured.out


def test_the_module_run_by_itself_shows_the_same_help(capsys):
    assert main.run(["export", "--help"]) == 0
    told = run_python(
        "import runpy, sys\n"
        "sys.argv = ['main', 'export', '--help']\n"
        "runpy.run_module('glide_jax.cli.main', run_name='__main__')"
    )
    assert told == capsys.readouterr().out
    assert "  --output\n" in told


def test_the_examples_of_the_help_name_flags_that_exist():
    for verb in main.VERBS:
        module = importlib.import_module(f"glide_jax.cli.{verb.replace(' ', '_')}")
        values = main.flags.FlagValues()
        module.define_flags(values)
        used = set(re.findall(r"--([a-z_]+)", module.__doc__))
        assert used <= set(values), verb


def test_the_version_is_that_of_the_package(capsys):
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"glide {glide_jax.__version__}\n"


PLAN = [
    "plan",
    "--config=experiments/configs/base64.py:tiny",
    "--topology=v5e:2x2",
    "--json",
]


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["--version"], PLAN])
def test_a_reader_that_goes_away_ends_the_command_quietly(argv):
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "glide_jax.cli.main", *argv],
        cwd=fake_devices.ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    os.close(reading)  # before anything is written
    _, told = process.communicate(timeout=120)
    assert told == ""
    assert process.returncode == main.READER_GONE == 141


def test_another_pipe_that_breaks_is_an_error(capfd, monkeypatch):
    def run(argv):
        raise BrokenPipeError

    monkeypatch.setattr(main, "run", run)
    with pytest.raises(BrokenPipeError):
        main.main([])


def test_a_mistake_in_a_variable_is_one_line():
    result = subprocess.run(
        [sys.executable, "-m", "glide_jax.cli.main", "--version"],
        cwd=fake_devices.ROOT,
        env={**os.environ, "GLIDE_JAX_CACHE": "gs://bucket/cache"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "GLIDE_JAX_CACHE=gs://bucket/cache is a URL" in line
