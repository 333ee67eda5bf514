"""Opens the pictures of a reference, as --source names them."""

from __future__ import annotations

from glide_jax import errors
from glide_jax.data import sources
from glide_jax.eval import pictures
from glide_jax.runtime import paths


def open_pictures(spec: str, px: int, most: int | None = None) -> pictures.Pictures:
    """The pictures of a data source, a folder or a .npz file.

    A folder is read as the source folder:DIR; one of `glide sample`, with samples.json,
    as that lists its pictures. No picture needs a caption.

    Args:
        spec: The name.
        px: The side of the pictures; those of a file are not resized.
        most: The first so many; None: all.

    Raises:
        UserError: None of them, or pictures of another side.
    """
    if spec.partition(":")[0] in {kind.partition(":")[0] for kind in sources.KINDS}:
        return pictures.Real(spec, px, most, captions_required=False)
    place = paths.local_path(spec, "--source")
    if place.is_dir() and not (place / "samples.json").is_file():
        return pictures.Real(f"folder:{place}", px, most, captions_required=False)
    if not (place.is_dir() or place.suffix == ".npz"):
        raise errors.UserError(
            f"--source={spec} is not a folder, a .npz file or a data source; give a "
            f"path, or one of {', '.join(sources.KINDS)}"
        )
    if place.is_dir():
        found = pictures.Folder(place, None, "--source")
    else:
        found = pictures.Saved(place)
    if found.px != px:
        raise errors.UserError(
            f"--source={spec} holds pictures of {found.px} px and --px={px}; they are "
            f"not resized, give --px={found.px}"
        )
    found.count = min(found.count, most or found.count)
    found.record = {**found.record, "count": found.count}
    return found
