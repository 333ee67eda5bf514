"""Builds a small real image-text set from Debian's emoji font and Unicode's names.

The sources are two Debian packages: fonts-noto-color-emoji (pictures, SIL OFL 1.1) and
unicode-data (names). With unicode-data 15 the set has 3,655 pictures of 128 x 128
pixels with captions such as "man farmer: medium skin tone" and "flag: Italy", as
webdataset tars in img2dataset's layout. The bytes are a function of the package
versions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
import tarfile
from collections.abc import Callable, Iterator

from PIL import Image, ImageDraw, ImageFont, features

from glide_jax.errors import UserError
from glide_jax.runtime import files

FONT_PATH = pathlib.Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
NAMES_PATH = pathlib.Path("/usr/share/unicode/emoji/emoji-test.txt")
SIZE_PX = 128
# One of this many names is for validation; training contains most of its words.
VAL_EVERY = 20
JPEG_QUALITY = 93
# The font contains bitmaps of one size, 136 x 128 pixels, at this nominal size.
_STRIKE = 109
_STRIKE_PX = (136, 128)


@dataclasses.dataclass(frozen=True)
class Emoji:
    """One line of Unicode's list of emoji."""

    codepoints: tuple[int, ...]
    name: str
    group: str
    subgroup: str

    @property
    def split(self) -> str:
        """The split, train or val: a function of the name, so that it is stable."""
        digest = int(hashlib.sha1(self.name.encode()).hexdigest(), 16)
        return "val" if digest % VAL_EVERY == 0 else "train"


def read_names(path: pathlib.Path = NAMES_PATH) -> list[Emoji]:
    """Reads the fully qualified emoji of Unicode's emoji-test.txt, in its order.

    Raises:
      UserError: the file is missing or contains none.
    """
    _check_file(path, "unicode-data")
    group = subgroup = ""
    emojis = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ")
        elif "; fully-qualified" in line:
            # 1F600 ; fully-qualified # (the character) E1.0 grinning face
            codes, _, comment = line.partition(";")
            name = comment.partition("#")[2].split(maxsplit=2)[2]
            points = tuple(int(code, 16) for code in codes.split())
            emojis.append(Emoji(points, name, group, subgroup))
    if not emojis:
        raise UserError(
            f"{path} contains no fully-qualified emoji; reinstall Debian's unicode-data"
        )
    return emojis


def load_font(path: pathlib.Path = FONT_PATH) -> ImageFont.FreeTypeFont:
    """Loads Debian's colour emoji font.

    Raises:
      UserError: it is missing, has no bitmaps, or Pillow cannot shape sequences.
    """
    _check_file(path, "fonts-noto-color-emoji")
    if not (features.check("raqm") and features.check("fribidi")):
        raise UserError(
            "this Pillow cannot shape emoji sequences (no raqm or fribidi); install"
            " Pillow's wheel and Debian's libfribidi0"
        )
    try:
        return ImageFont.truetype(str(path), _STRIKE)
    except OSError as fault:
        raise UserError(
            f"{path} has no bitmaps of size {_STRIKE} ({fault});"
            " use the font of Debian's fonts-noto-color-emoji"
        ) from fault


def _check_file(path: pathlib.Path, package: str) -> None:
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; install the Debian package {package}:"
            " apt-get install fonts-noto-color-emoji unicode-data"
        )


def draw(emoji: Emoji, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draws an emoji on white, RGB (SIZE_PX, SIZE_PX), with its aspect ratio."""
    width, height = _STRIKE_PX
    canvas = Image.new("RGB", (width, width), "white")
    text = "".join(map(chr, emoji.codepoints))
    corner = (0, (width - height) // 2)
    ImageDraw.Draw(canvas).text(corner, text, font=font, embedded_color=True)
    return canvas.resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS)


def _members(
    key: str, emoji: Emoji, font: ImageFont.FreeTypeFont
) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents of the files of one record."""
    stream = io.BytesIO()
    # No chroma subsampling, because of flat colours and thin lines.
    draw(emoji, font).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    record = {
        "key": key,
        "caption": emoji.name,
        "group": emoji.group,
        "subgroup": emoji.subgroup,
        "codepoints": [hex(point) for point in emoji.codepoints],
        "width": SIZE_PX,
        "height": SIZE_PX,
    }
    yield f"{key}.jpg", stream.getvalue()
    yield f"{key}.txt", emoji.name.encode()
    yield f"{key}.json", json.dumps(record).encode()


def build_emoji(
    output_dir: pathlib.Path,
    *,
    font_path: pathlib.Path = FONT_PATH,
    names_path: pathlib.Path = NAMES_PATH,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, pathlib.Path]:
    """Writes the set as two tars and returns their paths by split.

    Args:
      output_dir: created if missing; receives emoji128-train-00000.tar and
        emoji128-val-00000.tar.
      font_path: the font of the Debian package.
      names_path: the names of the Debian package.
      on_progress: called with (done, total) after each emoji; may raise to stop.

    Returns:
      {"train": path, "val": path}.

    Raises:
      UserError: a Debian package is missing.
    """
    emojis = read_names(names_path)
    font = load_font(font_path)
    output_dir.mkdir(parents=True, exist_ok=True)
    paths = {
        split: output_dir / f"emoji{SIZE_PX}-{split}-00000.tar"
        for split in ("train", "val")
    }
    with contextlib.ExitStack() as stack:
        drafts = {
            split: stack.enter_context(files.scratch(path))
            for split, path in paths.items()
        }
        _write_tars(drafts, emojis, font, on_progress)
    return paths


def _write_tars(
    drafts: dict[str, pathlib.Path],
    emojis: list[Emoji],
    font: ImageFont.FreeTypeFont,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    with (
        tarfile.open(drafts["train"], "w") as train,
        tarfile.open(drafts["val"], "w") as val,
    ):
        tars = {"train": train, "val": val}
        for number, emoji in enumerate(emojis):
            for name, content in _members(f"{number:09d}", emoji, font):
                # TarInfo has no owner and no time by default.
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tars[emoji.split].addfile(info, io.BytesIO(content))
            if on_progress:
                on_progress(number + 1, len(emojis))
