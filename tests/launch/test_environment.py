"""launch/environment.sh: machines without a supported Python, variables for CPUs."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.launch import launchers

BASICS = ("bash", "cat", "chmod", "dirname", "mkdir", "mktemp", "rm", "touch")
# Says what version it is, and is no other thing.
OLD = 'case "$1" in -c) exit 1;; --version) echo "Python 3.10.12";; *) {}; esac'
# As uv, with a Python that notes what it is asked.
UV = r"""
echo "uv $*" >>calls
mkdir -p .venv/bin
printf '#!/bin/sh\necho "python $*" >>calls\n' >.venv/bin/python
chmod +x .venv/bin/python
"""


@pytest.fixture
def machine(tmp_path):
    """A folder of programs, all that the machine has."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in BASICS:
        (folder / name).symlink_to(shutil.which(name))
    return folder


def make(folder: pathlib.Path, path, **environment: str) -> subprocess.CompletedProcess:
    """make_environment in a checkout that is the folder."""
    if not (folder / "setup.py").exists():
        (folder / "setup.py").touch()
    script = f'. {launchers.LAUNCH}/environment.sh; make_environment "[tpu]"'
    return subprocess.run(
        [shutil.which("bash"), "-c", script],
        cwd=folder,
        env={"PATH": str(path), "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
    )


def calls(folder: pathlib.Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


INSTALL = "python -m pip install --quiet --disable-pip-version-check -e .[tpu]"
PIP = "python -m ensurepip"
VENV = "uv venv --quiet --no-project --python 3.12 .venv"


def test_uv_installs_a_supported_python(machine, tmp_path):
    installs = f'echo "old $*" >>calls; mkdir -p "$7/bin"; cp {tmp_path}/uv "$7/bin/uv"'
    launchers.write_program(tmp_path, "uv", UV)
    (machine / "cp").symlink_to(shutil.which("cp"))
    launchers.write_program(machine, "python3", OLD.format(installs))
    result = make(tmp_path, machine, TMPDIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    install, *others = calls(tmp_path)
    assert install.startswith("old -m pip install ")
    assert install.endswith(" uv>=0.5,<1")
    assert others == [VENV, PIP, INSTALL]
    assert "uv downloads Python 3.12" in result.stdout
    assert not list(tmp_path.glob("tmp.*")), "uv itself is not kept"


def test_an_installed_uv_is_used(machine, tmp_path):
    launchers.write_program(machine, "uv", UV)
    assert make(tmp_path, machine).returncode == 0
    assert calls(tmp_path) == [VENV, PIP, INSTALL]
    # A second start has it all.
    assert make(tmp_path, machine).returncode == 0
    assert len(calls(tmp_path)) == 3


@pytest.mark.parametrize(
    "programs",
    [
        {},  # no Python at all
        {"python3": OLD.format("exit 1")},  # no pip
        {"python3": OLD.format("true")},  # pip that installs nothing
        {"uv": "mkdir .venv; echo 'no network' >&2; exit 2"},
    ],
)
def test_without_a_python_the_remedy_is_reported(machine, tmp_path, programs):
    for name, script in programs.items():
        launchers.write_program(machine, name, script)
    result = make(tmp_path, machine)
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith(
        "Python 3.11 or 3.12 is not installed, and uv could not install it;"
    )
    assert "PYTHON=/path/to/python3.12" in last
    assert not (tmp_path / ".venv").exists(), "half of one is not kept"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_python_3_10_and_the_real_uv_make_an_environment(machine, tmp_path):
    """Only what uv downloads is here already: this machine's own Python, as uv's."""
    own = pathlib.Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10")
    old = next((str(path) for path in own), shutil.which("python3.10"))
    if not old or subprocess.run([old, "-c", "import pip"]).returncode:
        pytest.skip("no python3.10 with pip here")
    (machine / "python3").symlink_to(old)
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    probe = (
        f'. {launchers.LAUNCH}/environment.sh; NEW_PYTHON={minor}; make_environment ""'
    )
    base = pathlib.Path(sys.base_prefix)
    full = ".".join(map(str, sys.version_info[:3]))
    kept = tmp_path / "pythons" / f"cpython-{full}-linux-{os.uname().machine}-gnu"
    kept.mkdir(parents=True)
    for part in base.iterdir():
        (kept / part.name).symlink_to(part)
    setup = "from setuptools import setup\nsetup(name='alone', py_modules=[])\n"
    (tmp_path / "setup.py").write_text(setup)
    result = subprocess.run(
        [shutil.which("bash"), "-c", probe],
        cwd=tmp_path,
        env={
            **{k: v for k, v in os.environ.items() if k.startswith(("PIP_", "UV_"))},
            "PATH": str(machine),
            "HOME": os.environ["HOME"],
            "UV_PYTHON_INSTALL_DIR": str(kept.parent),
            "UV_PYTHON_DOWNLOADS": "never",
        },
        capture_output=True,
        text=True,
    )
    if "No matching distribution found for uv" in result.stderr:
        pytest.skip("the package index cannot be reached")
    assert result.returncode == 0, result.stderr
    made = [
        tmp_path / ".venv" / "bin" / "python",
        "-c",
        "import sys; print(sys.version)",
    ]
    shown = subprocess.run(made, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(full)
    assert (tmp_path / ".venv" / ".installed").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "cpu glibc.malloc.hugetlb=1"),
        ({"GLIDE_JAX_PLATFORMS": "cuda"}, "cuda glibc.malloc.hugetlb=1"),
        ({"GLIDE_JAX_PLATFORMS": "", "GLIBC_TUNABLES": ""}, " "),
    ],
)
def test_scripts_for_cpus_set_the_platform_and_huge_pages(given, expected):
    script = f". '{launchers.LAUNCH}/environment.sh'; use_cpu; "
    script += 'printf "%s" "$JAX_PLATFORMS $GLIBC_TUNABLES"'
    result = subprocess.run(
        [shutil.which("bash"), "-euc", script],
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == expected
