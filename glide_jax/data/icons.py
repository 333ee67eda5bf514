"""Collects the pictures of the set of icons: four styles of emoji, and clip art.

The pictures come from packages of npm and apt (`icon_packages`), the captions from
their names and from lists of keywords (`icon_captions`). The pixels and the captions
are a function of the versions of the packages and of resvg-py.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Callable, Iterator

from PIL import Image

from glide_jax.data import icon_captions, icon_drawing, icon_packages
from glide_jax.errors import UserError

EMOJIBASE = icon_packages.Package(
    "emojibase-data",
    icon_packages.NPM,
    "17.0.0",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
EMOJILIB = icon_packages.Package(
    "emojilib",
    icon_packages.NPM,
    "4.0.3",
    "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
)
# Pictures of one name in one style; the archive has 1,375 stars.
MOST_OF_A_NAME = 20


@dataclasses.dataclass(frozen=True)
class Source:
    """A package of pictures in one style."""

    package: icon_packages.Package
    style: icon_captions.Style


def _emoji(name: str, version: str, sha256: str, style: str) -> Source:
    package = icon_packages.Package(
        f"@iconify-json/{name}", icon_packages.NPM, version, sha256
    )
    article = "an" if style[0] in "AEIOU" else "a"
    return Source(package, icon_captions.Style(style, f"{article} {style} emoji"))


SOURCES = (
    _emoji(
        "noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Noto",
    ),
    _emoji(
        "openmoji",
        "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        "OpenMoji",
    ),
    _emoji(
        "twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "Twemoji",
    ),
    _emoji(
        "fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "Fluent",
    ),
    Source(
        icon_packages.Package(
            "openclipart-svg",
            icon_packages.APT,
            "1:0.18+dfsg-19",
            "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
        ),
        icon_captions.Style("clip art", "clip art"),
    ),
)


@dataclasses.dataclass(frozen=True)
class Picture:
    """One captioned picture.

    Attributes:
      source: its package and style.
      place: the icon in an npm package, or the file in the archive of clip art.
      name: of the object.
      captions: the plain one first.
      license: SPDX name, or "public domain".
      author: "" if unknown.
      png: RGB pixels, as a PNG file.
      pixels: digest of the pixels.
    """

    source: Source
    place: str
    name: str
    captions: tuple[str, ...]
    license: str
    author: str
    png: bytes
    pixels: str

    @property
    def style(self) -> str:
        """The name of the style."""
        return self.source.style.name

    @property
    def concept(self) -> str:
        """What the splits are made by."""
        return icon_captions.concept(self.name)


@dataclasses.dataclass(frozen=True)
class Drawing:
    """An SVG file before it is drawn; the fields are those of `Picture`."""

    source: Source
    place: str
    text: icon_captions.Text
    license: str
    author: str
    svg: str


@dataclasses.dataclass
class Collection:
    """The pictures in order, and what was left out.

    Attributes:
      pictures: by source, shorter names first.
      skipped: numbers of pictures by (style, reason).
      fetched: the packages that were read.
      remarks: a line for each package that is missing or unlike the known one.
    """

    pictures: list[Picture] = dataclasses.field(default_factory=list)
    skipped: collections.Counter[tuple[str, str]] = dataclasses.field(
        default_factory=collections.Counter
    )
    fetched: list[icon_packages.Fetched] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)


def fetch(
    folder: pathlib.Path, on_package: Callable[[], None] = lambda: None
) -> Collection:
    """Fetches the packages; a collection without pictures.

    Args:
      folder: keeps the package files.
      on_package: called after each package; may raise to stop.

    Raises:
      UserError: no package of pictures can be reached.
    """
    found = Collection()
    for package in (EMOJIBASE, EMOJILIB, *(s.package for s in SOURCES)):
        try:
            fetched = icon_packages.fetch(package, folder)
        except icon_packages.UnreachableError as error:
            found.remarks.append(f"{package.name} is left out: {error}")
        else:
            found.fetched.append(fetched)
            if fetched.remark:
                found.remarks.append(f"{package.name} has {fetched.remark}")
        on_package()
    named = {fetched.package for fetched in found.fetched}
    if not any(source.package in named for source in SOURCES):
        raise UserError(
            f"no package of pictures can be reached ({'; '.join(found.remarks[-2:])});"
            f" connect to a network once, or copy the package files to {folder}"
        )
    return found


def list_drawings(found: Collection, *, skin_tones: bool) -> list[Drawing]:
    """Reads the fetched packages; counts in `found.skipped` what is left out.

    Args:
      found: of `fetch`.
      skin_tones: whether emoji with one of the five skin tones are included.

    Raises:
      UserError: a package file is damaged.
    """
    by_package = {fetched.package: fetched for fetched in found.fetched}
    base, keywords = by_package.get(EMOJIBASE), by_package.get(EMOJILIB)
    texts = icon_captions.EmojiTexts(
        icon_packages.read_json(base, "en/data.json") if base else (),
        icon_packages.read_json(keywords, "dist/emoji-en-US.json") if keywords else {},
    )
    drawings = []
    for source in SOURCES:
        fetched = by_package.get(source.package)
        if fetched is None:
            continue
        if source.package.manager == icon_packages.APT:
            each = _clip_art(source, fetched, found.skipped)
        else:
            each = _icons(source, fetched, texts, found.skipped, skin_tones)
        # Of equal pictures the first is kept: the flag of a country with a shorter name
        # than its islands.
        drawings += sorted(each, key=lambda d: (len(d.text.name), d.place))
    return drawings


def _icons(
    source: Source,
    fetched: icon_packages.Fetched,
    texts: icon_captions.EmojiTexts,
    skipped: collections.Counter[tuple[str, str]],
    skin_tones: bool,
) -> Iterator[Drawing]:
    """Yields the icons of a package in Iconify's format."""
    content = icon_packages.read_json(fetched, "icons.json")
    info = icon_packages.read_json(fetched, "info.json")
    try:
        author, license_name = info["author"]["name"], info["license"]["spdx"]
    except KeyError as error:
        raise UserError(
            f"{fetched.path} names no {error.args[0]} in info.json; remove it, and "
            f"version {source.package.version} is downloaded"
        ) from error
    codes = collections.defaultdict(list)
    for code, icon in icon_packages.read_json(fetched, "chars.json").items():
        codes[icon].append(code)
    style = source.style.name
    if aliases := content.get("aliases"):
        skipped[style, "it is a further name of a picture, or mirrors one"] = len(
            aliases
        )
    for place, icon in content["icons"].items():
        if icon.get("hidden") or place not in codes:
            skipped[style, "it is an old name of another emoji"] += 1
            continue
        text = texts.find(place, codes[place])
        if text.has_skin_tone and not skin_tones:
            skipped[style, "it has a skin tone (--skin_tones includes them)"] += 1
            continue
        size = {
            key: icon.get(key, content.get(key, default))
            for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        }
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg"'
            ' xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="'
            f'{size["left"]} {size["top"]} {size["width"]} {size["height"]}">'
            f"{icon['body']}</svg>"
        )
        yield Drawing(source, place, text, license_name, author, svg)


def _clip_art(
    source: Source,
    fetched: icon_packages.Fetched,
    skipped: collections.Counter[tuple[str, str]],
) -> Iterator[Drawing]:
    arts, svgs = [], []
    for path, content in icon_packages.read_svgs(fetched):
        try:
            svg = content.decode("utf-8")
        except UnicodeDecodeError:
            svg = content.decode("latin-1")
        arts.append(icon_captions.read_clip_art(path, svg))
        svgs.append(svg)
    texts = icon_captions.clip_art_texts(arts)
    for art, svg, text in zip(arts, svgs, texts, strict=True):
        if not text.name or not art.is_free:
            why = "it has no name" if not text.name else "its licence restricts it"
            skipped[source.style.name, why] += 1
            continue
        yield Drawing(source, art.path, text, "public domain", art.author, svg)


def draw_all(
    found: Collection, drawings: list[Drawing], on_progress: Callable[[], None]
) -> None:
    """Draws the files into `found.pictures`; counts what is left out.

    Args:
      found: of `fetch`.
      drawings: of `list_drawings`.
      on_progress: called before each file; may raise to stop.

    Raises:
      UserError: resvg-py is not installed.
    """
    seen: set[tuple[str, str]] = set()
    named: collections.Counter[tuple[str, str]] = collections.Counter()
    for drawing in drawings:
        on_progress()
        style = drawing.source.style.name
        is_clip_art = drawing.source.package.manager == icon_packages.APT
        name = (style, drawing.text.name)
        try:
            if named[name] >= MOST_OF_A_NAME:
                reason = f"{MOST_OF_A_NAME} others have its name"
                raise icon_drawing.UndrawableError(reason)
            icon_drawing.check_content(drawing.svg)
            image = icon_drawing.draw(drawing.svg, is_cropped=is_clip_art)
            pixels = hashlib.sha256(image.tobytes()).hexdigest()
            if (style, pixels) in seen:
                raise icon_drawing.UndrawableError("it equals another picture")
        except icon_drawing.UndrawableError as error:
            found.skipped[style, str(error)] += 1
            continue
        seen.add((style, pixels))
        named[name] += 1
        found.pictures.append(_picture(drawing, image, pixels))


def _picture(drawing: Drawing, image: Image.Image, pixels: str) -> Picture:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return Picture(
        drawing.source,
        drawing.place,
        drawing.text.name,
        tuple(icon_captions.make_captions(drawing.text, drawing.source.style)),
        drawing.license,
        drawing.author,
        stream.getvalue(),
        pixels,
    )


def to_json(picture: Picture, key: str) -> bytes:
    """The JSON file of a record, in img2dataset's layout."""
    record = {
        "key": key,
        "caption": picture.captions,
        "style": picture.style,
        "name": picture.name,
        "concept": picture.concept,
        "source": picture.source.package.name,
        "place": picture.place,
        "license": picture.license,
        "author": picture.author,
        "width": icon_drawing.SIZE_PX,
        "height": icon_drawing.SIZE_PX,
    }
    return json.dumps(record, ensure_ascii=False).encode()
