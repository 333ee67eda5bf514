"""The package works without a checkout: installed from its wheel, in any folder."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import sysconfig
import time
import zipfile

import pytest

from tests import fake_devices

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> pathlib.Path:
    """A folder that holds the package as pip installs it, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = folder / "source"
    # A copy: setuptools leaves build/ and *.egg-info in what it builds.
    source.mkdir()
    for name in ("glide_jax", "experiments", "launch", "setup.py", "pyproject.toml"):
        subprocess.run(["cp", "-r", fake_devices.ROOT / name, source], check=True)
    subprocess.run(["cp", fake_devices.ROOT / "README.md", source], check=True)
    build = ["wheel", source, "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture
def command(installed, tmp_path):
    """command("train", ...) -> arguments of a process that is the installed `glide`."""
    libraries = sysconfig.get_paths()["purelib"]
    start = (
        "import sys, runpy; sys.argv[0] = 'glide'; "
        f"sys.path[:0] = [{str(installed)!r}, {libraries!r}]; "
        "import glide_jax; "
        f"assert glide_jax.__file__.startswith({str(installed)!r}); "
        "runpy.run_module('glide_jax.cli.main', run_name='__main__')"
    )

    def make(*words: str) -> dict:
        return {
            # -S keeps the editable install of the checkout out.
            "args": [sys.executable, "-S", "-c", start, *words],
            "cwd": tmp_path,
            "env": {k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            "text": True,
        }

    return make


@pytest.fixture
def glide(command):
    """glide("train", ...) -> what the installed command prints, in an empty folder."""

    def run(*words: str, code: int = 0) -> str:
        done = subprocess.run(**command(*words), capture_output=True, timeout=240)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return run


def test_the_package_is_marked_as_typed_and_has_its_models(installed):
    assert (installed / "glide_jax" / "py.typed").is_file()
    for name in ("base", "upsampler"):
        folder = installed / "glide_jax" / "shipped" / name
        assert (folder / "params.safetensors").is_file()
        assert (folder / "sentencepiece.model").is_file()


def test_configurations_are_found_by_name_and_by_their_path_in_the_project(glide):
    for name in ("base64:tiny", "experiments/configs/base64.py:tiny"):
        printed = glide("train", f"--config={name}", "--dry_run")
        assert "_project/experiments/configs/base64.py" in printed
        assert "parameters" in printed
    assert "base6" in glide("train", "--config=base6:tiny", "--dry_run", code=2)


def test_sweeps_and_their_templates_are_found_by_name(glide):
    printed = glide("sweep", "lr_batch", "--root=root", "--dry_run")
    assert printed.count("glide train --config=") == 6
    flags = ["--root=root", "--dry_run"]
    assert "#SBATCH" in glide("sweep", "lr_batch", "--runner=slurm", *flags)
    jobset = ["--runner=jobset", "--image=i", "--volume=shared:/nfs"]
    root = ["--root=/nfs/root", "--dry_run"]
    assert "kind: JobSet" in glide("sweep", "lr_batch", *jobset, *root)


def test_the_quickstart_trains(command, tmp_path):
    process = subprocess.Popen(
        **command("quickstart", "--output=out"), stderr=subprocess.PIPE
    )
    metrics = tmp_path / "out" / "base" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    has_trained = False
    try:
        while process.poll() is None and time.monotonic() < deadline:
            # The first row with a loss is written after the first step.
            has_trained = metrics.is_file() and '"loss"' in metrics.read_text()
            if has_trained:
                break
            time.sleep(0.2)
    finally:
        process.kill()
        _, printed = process.communicate()
    assert has_trained, printed
