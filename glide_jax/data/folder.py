"""A folder of pictures, each with its caption in a text file beside it."""

from __future__ import annotations

import pathlib

from glide_jax import errors
from glide_jax.data import captions, disk, schema

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


class Folder:
    """A source over NAME.jpg|jpeg|png|webp with NAME.txt, at any depth, by name."""

    def __init__(self, directory: str, *, captions_required: bool = True) -> None:
        self._captions_required = captions_required
        self._root = pathlib.Path(directory).expanduser()
        if not self._root.is_dir():
            raise errors.UserError(
                f"folder:{directory} is not a folder; give the folder of the pictures"
            )
        self._images = sorted(
            path for path in self._root.rglob("*") if path.suffix.lower() in SUFFIXES
        )
        if not self._images:
            raise errors.UserError(
                f"folder:{directory} holds no picture ({', '.join(sorted(SUFFIXES))});"
                " put some there, each NAME.jpg with its caption in NAME.txt"
            )
        if captions_required and not any(
            image.with_suffix(".txt").is_file() for image in self._images
        ):
            raise errors.UserError(
                f"folder:{directory} has {len(self._images)} pictures and no captions;"
                f" put the caption of {self._images[0].name} in"
                f" {self._images[0].with_suffix('.txt').name} beside it, and so on"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __repr__(self) -> str:
        return f"folder:{self._root}"

    def __getitem__(self, index: int) -> schema.Example:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self!r}")
        path = self._images[index]
        key = str(path.relative_to(self._root))
        text = path.with_suffix(".txt")
        image = disk.read_whole(path, disk.MAX_IMAGE_BYTES, "huge image", key)
        if not self._captions_required and not text.is_file():
            return schema.Example(image, "", key)
        content = disk.read_caption(text, path, key)
        return schema.Example(image, captions.from_text(content, key), key)
