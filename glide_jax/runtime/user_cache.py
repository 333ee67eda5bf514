"""The cache folder: compiled programs and downloads that are kept between runs."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator

from glide_jax.runtime import paths

FOLDER_VARIABLE = paths.CACHE_VARIABLE
folder = paths.cache_folder
# JAX's own, read when it is imported.
PROGRAMS_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
LEAST_SECS_VARIABLE = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# JAX caches programs that compile for 1 s; `glide sample` has several shorter ones.
_LEAST_SECS = 0.2
# JAX's warning for each program that it cannot keep or read.
_FAILURE = re.compile(
    r"Error (reading|writing) persistent compilation cache entry for '.*': \w+: (.*)",
    re.DOTALL,
)
_FAILURES = {
    "reading": "compiled programs cannot be read from %s (%s) and are compiled again; "
    "delete what is damaged there, or name another folder by %s",
    "writing": "compiled programs cannot be kept in %s (%s) and are compiled again at "
    "the next start; free space, or name another folder by %s",
}


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


@contextlib.contextmanager
def failures_logged_once() -> Iterator[None]:
    """Logs the first failure to read and to write a program; hides JAX's warnings.

    JAX prints two lines of warning for each program, and continues without the cache.
    """
    shown: set[str] = set()
    show = warnings.showwarning

    def show_once(message, category, filename, lineno, file=None, line=None) -> None:
        found = _FAILURE.match(str(message))
        if found is None:
            show(message, category, filename, lineno, file, line)
        elif found[1] not in shown:
            shown.add(found[1])
            where = os.environ.get(PROGRAMS_VARIABLE)
            text, reason = _FAILURES[found[1]], " ".join(found[2].split())
            logging.warning(text, where, reason, PROGRAMS_VARIABLE)

    warnings.showwarning = show_once
    try:
        yield
    finally:
        warnings.showwarning = show
