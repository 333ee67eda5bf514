"""Groups the files of a folder or tar to records of a picture and its caption file.

Names follow webdataset's rule: the key is the folder and the base name up to its first
dot, and the extension is the rest, in any case. `a.jpg`, `a.seg.png` and `a.txt` are
one sample, and its picture is `a.jpg`: an extension without a dot ranks first.

Names such as photo.000001.jpg have a dot in the stem, the name up to the last dot. Such
a stem is a key by itself

- if no file of the first-dot key has an extension without a dot, or
- if it has a picture and a caption or JSON file of its own, or
- if a table contains its picture.

An option with an extension that contains a dot (`image=seg.png`) disables this.
"""

from __future__ import annotations

import collections
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from glide_jax.data import picture_files, picture_listing, source_options
from glide_jax.errors import UserError

IMAGE, TEXT, JSON = "image", "text", "json"
_KINDS = {
    **dict.fromkeys(picture_files.SUFFIXES, IMAGE),
    **dict.fromkeys(source_options.TEXT_SUFFIXES, TEXT),
    ".json": JSON,
}
NO_CAPTION = "picture without a caption"
FURTHER_PICTURE = "further picture of a sample"
FURTHER_CAPTION = "further caption file of a sample"
LONE_CAPTION = "caption file without a picture"
LONE_JSON = "JSON file without a picture"
OTHER_JSON = "JSON file whose extension is longer than json"


class Record(NamedTuple):
    """The files of one record by name; the caption may be missing.

    Attributes:
      key: the stem of the names.
      picture: the picture file.
      text: the caption file, or None.
      json: the JSON file, or None.
    """

    key: str
    picture: str
    text: str | None
    json: str | None


class Assembled(NamedTuple):
    """Unordered records, and the number of unused files by reason.

    Attributes:
      records: records with and without a caption.
      skipped: counts by the reasons of this module and of `picture_listing`.
      dotted: the number of records whose stem has a dot.
    """

    records: list[Record]
    skipped: collections.Counter[str]
    dotted: int


def kind_of(name: str) -> str | None:
    """Returns IMAGE, TEXT or JSON by the suffix of a name in any case, else None."""
    _, dot, suffix = name.rpartition(".")
    return _KINDS.get(dot + suffix.lower())


def assemble(
    names: Iterable[str],
    options: source_options.Options,
    where: str,
    in_tables: Collection[str] = (),
) -> Assembled:
    """Groups files by their names.

    Args:
      names: distinct paths with "/".
      options: the picture and the caption file of a sample that are read.
      where: the folder or tar, for errors.
      in_tables: names of pictures with captions in tables.

    Raises:
      UserError: a sample has two pictures or two caption files of equal rank.
    """
    groups: dict[str, list[str]] = {}
    found = Assembled([], collections.Counter(), 0)
    for name in names:
        if kind_of(name) is None:
            found.skipped[picture_listing.unknown_suffix(name)] += 1
        else:
            folder, slash, base = name.rpartition("/")
            # macOS decomposes accents in names; other systems do not.
            stem = unicodedata.normalize("NFC", base.partition(".")[0])
            key = f"{folder}{slash}{stem}"
            groups.setdefault(key, []).append(name)
    dotted = 0
    for group, members in groups.items():
        for key, own in _stems(group, members, options, in_tables):
            before = len(found.records)
            _add_records(found, _Sample(key, own, where), options, in_tables)
            dotted += 0 if key == group else len(found.records) - before
    return found._replace(dotted=dotted)


def _stems(
    group: str,
    members: list[str],
    options: source_options.Options,
    in_tables: Collection[str],
) -> Iterator[tuple[str, list[str]]]:
    """Yields the keys of a first-dot group and their files, see the module."""
    stems: dict[str, list[str]] = {}
    for name in members:
        stem = unicodedata.normalize("NFC", name.rpartition(".")[0])
        stems.setdefault(stem, []).append(name)
    if "." in options.image or "." in options.text:
        yield group, members
        return
    if group not in stems:
        yield from stems.items()
        return
    rest = []
    for stem, own in stems.items():
        if stem != group and _is_own_key(own, in_tables):
            yield stem, own
        else:
            rest += own
    yield group, rest


def _is_own_key(own: list[str], in_tables: Collection[str]) -> bool:
    kinds = {kind_of(name) for name in own}
    has_caption = TEXT in kinds or JSON in kinds
    return (IMAGE in kinds and has_caption) or any(name in in_tables for name in own)


class _Sample:
    """The files of one key."""

    def __init__(self, key: str, names: list[str], where: str) -> None:
        self.key, self._where = key, where
        self.by_kind: dict[str | None, list[str]] = {IMAGE: [], TEXT: [], JSON: []}
        for name in names:
            self.by_kind[kind_of(name)].append(name)

    def best(
        self, kind: str, extension: str, rank: Callable[[str], tuple]
    ) -> list[str]:
        """Returns the names of a kind with the best rank, or with `extension`."""
        names = self.by_kind[kind]
        if extension:
            return [name for name in names if self.extension(name) == extension]
        if len(names) < 2:
            return names
        ranks = {name: rank(self.extension(name)) for name in names}
        best = min(ranks.values())
        return [name for name in names if ranks[name] == best]

    def one(self, names: list[str], what: str, option: str) -> str | None:
        """Returns the only name, or None if there is none.

        Raises:
          UserError: there are several.
        """
        if len(names) < 2:
            return names[0] if names else None
        names = sorted(names)
        extensions = sorted({self.extension(name) for name in names})
        choice = f"select one by ?{option}={extensions[0]}"
        if len(extensions) == 1:
            choice = "remove all but one"
        raise UserError(
            f"{self._where}: the sample {self.key} has {len(names)} {what} of equal"
            f" rank, {' and '.join(names)}; {choice}"
        )

    def has_dotted_extension(self, name: str) -> bool:
        return "." in self.extension(name)

    def extension(self, name: str) -> str:
        return name[len(self.key) + 1 :].lower()


def _picture_rank(extension: str) -> tuple:
    return ("." in extension,)


def _text_rank(extension: str) -> tuple:
    suffix = f".{extension.rpartition('.')[2]}"
    return "." in extension, source_options.TEXT_SUFFIXES.index(suffix)


def _add_records(
    found: Assembled,
    sample: _Sample,
    options: source_options.Options,
    in_tables: Collection[str],
) -> None:
    """Adds the records of one key, and counts its unused files."""
    pictures, texts, jsons = (sample.by_kind[kind] for kind in (IMAGE, TEXT, JSON))
    chosen = sample.best(IMAGE, options.image, _picture_rank)
    if not chosen:
        other = f"picture with another extension than {options.image}"
        found.skipped[other] += len(pictures)
        if not pictures:
            found.skipped[LONE_CAPTION] += len(texts)
            found.skipped[LONE_JSON] += len(jsons)
        return
    text = json = None
    if not options.column:
        best = sample.best(TEXT, options.text, _text_rank)
        text = sample.one(best, "caption files", "caption")
    if text is None and not options.text:
        json = sample.one(sample.best(JSON, "json", _picture_rank), "JSON files", "")
    if text is None and any(name in in_tables for name in chosen):
        # The table identifies each picture; the JSON file is ambiguous.
        json = None if len(chosen) > 1 else json
    elif text is not None or json is not None:
        sample.one(chosen, "pictures", "image")
    found.records.extend(Record(sample.key, name, text, json) for name in chosen)
    if not options.image:
        found.skipped[FURTHER_PICTURE] += len(pictures) - len(chosen)
    if text is not None and not options.text:
        found.skipped[FURTHER_CAPTION] += len(texts) - 1
    found.skipped[OTHER_JSON] += sum(map(sample.has_dotted_extension, jsons))
