"""Where is kept, between runs, what can be made or fetched again?"""

from __future__ import annotations

import os
import pathlib

FOLDER_VARIABLE = "GLIDE_JAX_CACHE"


def folder() -> pathlib.Path:
    """$GLIDE_JAX_CACHE, else glide_jax in $XDG_CACHE_HOME, else in ~/.cache."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return pathlib.Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "glide_jax"
