"""Limit the size of a cache of decoded pictures.

    glide data cache /scratch/pictures --max_gb=50
    glide data cache /scratch/pictures --max_gb=0

The folder is that of the setting `data.cache_dir`, which training fills and never
empties. The pictures that were not used for the longest time are removed until the
others take at most --max_gb. Runs may use the cache meanwhile.
"""

from __future__ import annotations

import math

from absl import flags

from glide_jax.cli import define
from glide_jax.errors import UserError
from glide_jax.runtime import paths, wording


def define_flags(values: flags.FlagValues) -> None:
    """Defines the limit."""
    define.Define(values).number("max_gb", "size of the cache that is kept; 0: none")


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Removes pictures and prints the counts."""
    if len(arguments) != 1:
        raise UserError(
            f"{len(arguments)} folders given; give one, that of data.cache_dir"
        )
    if values.max_gb is None:
        raise UserError("--max_gb is missing, e.g. --max_gb=50")
    if not 0 <= values.max_gb < math.inf:
        raise UserError(f"--max_gb={values.max_gb} is not a size; use 0 or more")
    from glide_jax.data import picture_cache

    folder = paths.local_path(arguments[0], "the cache")
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give that of data.cache_dir")
    found = picture_cache.prune(folder, int(values.max_gb * 1e9))
    print(
        f"{wording.counted(found.removed, 'picture')} removed; "
        f"{wording.counted(found.kept, 'picture')} kept,"
        f" {found.kept_bytes / 1e9:.2f} GB"
    )
    return 0
