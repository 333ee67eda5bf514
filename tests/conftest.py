"""One CPU device for every test, types checked at run time, shared fixtures."""

from __future__ import annotations

import os
import pathlib
import shutil
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


@pytest.fixture(scope="session", autouse=True)
def compilation_cache():
    """Programs that several tests compile are compiled once; gone after the run."""
    folder = tempfile.mkdtemp(prefix="glide_jax_cache.")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    shutil.rmtree(folder, ignore_errors=True)


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
