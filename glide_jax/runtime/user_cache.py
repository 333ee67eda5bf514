"""The cache folder: compiled programs and downloads that are kept between runs."""

from __future__ import annotations

import os
import pathlib
import sys

from glide_jax.runtime import paths

FOLDER_VARIABLE = "GLIDE_JAX_CACHE"
# JAX's own, read when it is imported.
PROGRAMS_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
LEAST_SECS_VARIABLE = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# JAX caches programs that compile for 1 s; `glide sample` has several shorter ones.
_LEAST_SECS = 0.2


def folder() -> pathlib.Path:
    """$GLIDE_JAX_CACHE, else $XDG_CACHE_HOME/glide_jax, else ~/.cache/glide_jax."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return paths.local_path(given, FOLDER_VARIABLE)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return paths.local_path(given, "XDG_CACHE_HOME") / "glide_jax"
    return paths.local_path("~/.cache", "the cache folder") / "glide_jax"


def keep_programs() -> None:
    """Enables JAX's compilation cache in this folder, unless it is configured already.

    Raises:
      UserError: FOLDER_VARIABLE is a URL.
    """
    os.environ.setdefault(PROGRAMS_VARIABLE, str(folder() / "programs"))
    least_secs = float(os.environ.setdefault(LEAST_SECS_VARIABLE, str(_LEAST_SECS)))
    # If JAX was imported earlier, it has already read its environment.
    jax = sys.modules.get("jax")
    if jax is not None and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", os.environ[PROGRAMS_VARIABLE])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least_secs)
