"""One CPU device for every test, types checked at run time, shared fixtures."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import tempfile

# Before the first import of jax: its backend reads these once. A GPU test run sets
# JAX_PLATFORMS itself.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jaxtyping
import numpy as np
import pytest

# Array shapes and dtypes of every annotated function are checked while tests run. The
# hook acts on imports, so it has to stand before the first of ours.
jaxtyping.install_import_hook("glide_jax", "beartype.beartype")

TESTS = pathlib.Path(__file__).parent
# JAX's own: what several tests and the processes they start need is compiled once.
CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config):
    """Of several processes the first makes the folder, and the others inherit it."""
    if hasattr(config, "workerinput"):
        return
    # A shell lets what it starts in the background ignore Ctrl-C, and so would all that
    # tests start. A program does not inherit a handler, but the default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tempfile.mkdtemp(prefix="glide_jax_cache.")
    os.environ[CACHE_VARIABLE] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session", autouse=True)
def compilation_cache():
    """The programs of this run of the suite, in a folder that is gone after it."""
    jax.config.update("jax_compilation_cache_dir", os.environ[CACHE_VARIABLE])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Files with heavy proofs first, so that all processes end at about one time."""
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
    """Where the published GPT-2 and CLIP vocabularies lie."""
    folder = os.environ.get("GLIDE_JAX_VOCAB")
    if not folder:
        pytest.skip("GLIDE_JAX_VOCAB names no folder with the published vocabularies")
    return pathlib.Path(folder)
