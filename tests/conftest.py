"""Sets up JAX and run-time type checks, before the package is imported."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import shutil
import signal
import tempfile

import jaxtyping
import numpy as np
import pytest

# Before the first import of jax, which reads these once; child processes inherit them.
# A GPU test run sets JAX_PLATFORMS itself.
if os.environ.setdefault("JAX_PLATFORMS", "cpu") == "cpu":
    # Programs run for milliseconds here; optimising them would take most of the time.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # The older code generator compiles in less than half of the time. XLA ends a
    # process that names an unknown flag, so only releases with it are given it.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

# A program that several tests or their child processes need is compiled once. The cache
# lasts for one run of the suite, unless the caller names a folder.
_OWN_CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _OWN_CACHE = tempfile.mkdtemp(prefix="glide_jax_cache.")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _OWN_CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Checks array shapes and dtypes of every annotated function while tests run. The hook
# acts on imports, so it precedes the first import of the package.
jaxtyping.install_import_hook("glide_jax", "beartype.beartype")

TESTS = pathlib.Path(__file__).parent


def pytest_configure(config):
    """Makes Ctrl-C work in child processes, and removes the cache at the end."""
    if hasattr(config, "workerinput"):
        return
    # A shell starts background commands with SIGINT ignored, and their children inherit
    # that. They do not inherit a handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if _OWN_CACHE:
        config.add_cleanup(lambda: shutil.rmtree(_OWN_CACHE, ignore_errors=True))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Runs files with slow tests first, so that all workers end at about one time."""
    heavy = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in heavy)


@pytest.fixture(scope="session")
def golden():
    """golden("tiny") -> the arrays of tests/golden/tiny.npz by name."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(TESTS / "golden" / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def vocab_folder() -> pathlib.Path:
    """The folder of the published GPT-2 and CLIP vocabularies."""
    folder = os.environ.get("GLIDE_JAX_VOCAB")
    if not folder:
        pytest.skip("GLIDE_JAX_VOCAB names no folder with the published vocabularies")
    return pathlib.Path(folder)
