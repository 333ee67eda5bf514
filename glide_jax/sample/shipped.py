"""The models that come with the package: size icons, 128 px, see shipped/README.md."""

from __future__ import annotations

import pathlib

import glide_jax
from glide_jax.errors import UserError

FOLDER = pathlib.Path(glide_jax.__file__).parent / "shipped"
_NAMES = ("base", "upsampler")


def folders() -> dict[str, pathlib.Path]:
    """Returns the bundles by the names of `Models.load`: "base" and "upsampler".

    Raises:
      UserError: the installation lacks them.
    """
    found = {name: FOLDER / name for name in _NAMES}
    for folder in found.values():
        if not (folder / "bundle.json").is_file():
            raise UserError(
                f"{folder} is not a bundle: this installation lacks the models that "
                "come with glide_jax; install it again, or give bundles of your own"
            )
    return found
