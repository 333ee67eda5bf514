"""Names, captions and concepts of icons, from the texts of their packages."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

import ftfy

# Keywords in one caption.
NUM_KEYWORDS = 3
# Clip art titles that this many files share are titles of collections, unless the
# names of the files agree with them.
SHARED_BY = 3
_SKIN_TONES = frozenset(("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"))
_VARIATION = "fe0f"
_WORD = re.compile(r"[^\W\d_]+")
_KEYWORD = re.compile(r"[a-z][a-z' -]{2,30}")
# Words of the archive about its own files.
_NO_KEYWORDS = {"action", "hash", "icon", "icons", "lemon", "magick", "mapsym"}
_NO_KEYWORDS |= {"member", "nations", "networksym", "sign", "signs", "special"}
_NO_KEYWORDS |= {"symbol", "symbols", "theme", "united", "unsorted", "webpage", "and"}
# Numbers of files, "flower2" and "moon 04", and codes, "star 61pt23step".
_NUMBER = re.compile(r"(?<=[a-z])\d+\b|\b0\d+\b")
_CODE = re.compile(r"\w*[a-z]\d+[a-z]\w*")
_PERSON = re.compile(r"(?:man|woman|person|men|women|people)[ :]+")
_TITLE = re.compile(r"<dc:title>(.*?)</dc:title>", re.DOTALL)
_SUBJECT = re.compile(r"<dc:subject>(.*?)</dc:subject>", re.DOTALL)
_ITEM = re.compile(r"<rdf:li[^>]*>(.*?)</rdf:li>", re.DOTALL)
_CREATOR = re.compile(
    r"<dc:creator>.*?<dc:title>(.*?)</dc:title>.*?</dc:creator>", re.DOTALL
)
_LICENSE = re.compile(r"<(?:cc:)?license\s+rdf:resource=\"([^\"]*)\"")


@dataclasses.dataclass(frozen=True)
class Style:
    """How captions name a style.

    Attributes:
      name: ends a caption, "waving hand, in Noto style".
      noun: ends another, "waving hand as a Noto emoji".
    """

    name: str
    noun: str


@dataclasses.dataclass(frozen=True)
class Text:
    """What is known of the content of a picture.

    Attributes:
      name: of the object, e.g. "flag: Italy".
      synonym: a further name, or "".
      keywords: at most NUM_KEYWORDS words for it that the name does not contain.
      has_skin_tone: whether the emoji has one of the five skin tones.
    """

    name: str
    synonym: str = ""
    keywords: tuple[str, ...] = ()
    has_skin_tone: bool = False


def make_captions(text: Text, style: Style) -> list[str]:
    """Returns the captions of a picture, the plain one first."""
    end = f"in {style.name} style"
    captions = [f"{text.name}, {end}", f"{text.name} as {style.noun}"]
    if text.synonym:
        captions.append(f"{text.synonym}, {end}")
    if text.keywords:
        captions.append(f"{text.name} ({', '.join(text.keywords)}), {end}")
    return captions


def concept(name: str) -> str:
    """Returns what all pictures of an object share, by which the splits are made.

    It is the letters of the name without case, a skin tone, and a leading "man",
    "woman" or "person": "woman farmer: dark skin tone" has the concept "farmer".
    """
    plain = re.sub(r"[:,] (?:medium-)?(?:dark|light|medium) skin tone.*", "", name)
    words = " ".join(_WORD.findall(plain.lower()))
    return _PERSON.sub("", words, count=1) if _PERSON.match(words) else words


def fraction(purpose: str, text: str) -> float:
    """Returns a number in [0, 1) that is a function of the texts alone."""
    digest = hashlib.sha1(f"{purpose}\n{text}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


class EmojiTexts:
    """Names and keywords of emoji by their code points.

    Args:
      entries: the content of emojibase-data's data.json, or ().
      keywords: the content of emojilib's emoji-en-US.json, or {}.
    """

    def __init__(
        self, entries: Iterable[dict[str, Any]], keywords: Mapping[str, list[str]]
    ) -> None:
        self._labels: dict[str, str] = {}
        self._tags: dict[str, list[str]] = {}
        self._keywords = {_plain(_codes(k)): words for k, words in keywords.items()}
        for entry in entries:
            for each in (entry, *entry.get("skins", ())):
                code = _plain(each["hexcode"])
                self._labels[code] = each["label"]
                self._tags[code] = entry.get("tags", [])

    def find(self, icon: str, codes: Iterable[str]) -> Text:
        """Returns the text of an icon.

        Args:
          icon: its name in the package, e.g. "waving-hand".
          codes: its code points, e.g. ["1f44b"]; the first known one counts.
        """
        plain = [_plain(code) for code in sorted(codes)]
        code = next((code for code in plain if code in self._labels), plain[0])
        name = self._labels.get(code) or icon.replace("-", " ")
        toneless = "-".join(c for c in code.split("-") if c not in _SKIN_TONES)
        known = self._keywords.get(code) or self._keywords.get(toneless) or [""]
        synonym = known[0].replace("_", " ")
        has_skin_tone = toneless != code
        if has_skin_tone or concept(synonym) == concept(name):
            synonym = ""
        tags = self._tags.get(code, [])
        # Those that both lists have fit best.
        both = [word for word in tags if word in known]
        found = choose_keywords([*both, *tags, *known[1:]], name)
        return Text(name, synonym, found, has_skin_tone)


def _codes(characters: str) -> str:
    return "-".join(f"{ord(character):x}" for character in characters)


def _plain(code: str) -> str:
    return "-".join(part for part in code.lower().split("-") if part != _VARIATION)


def choose_keywords(candidates: Iterable[str], name: str) -> tuple[str, ...]:
    """Returns the first NUM_KEYWORDS that add a word to the name."""
    seen, chosen = set(_WORD.findall(name.lower())), []
    for candidate in candidates:
        words = set(_WORD.findall(candidate))
        if _KEYWORD.fullmatch(candidate) and not words <= seen:
            seen |= words
            chosen.append(candidate)
    return tuple(chosen[:NUM_KEYWORDS])


@dataclasses.dataclass(frozen=True)
class ClipArt:
    """The description in an SVG file of Open Clip Art.

    Attributes:
      path: of the file in the collection.
      title: the title, possibly that of a whole collection.
      keywords: as given.
      author: "" if unknown.
      is_free: whether no licence but the public domain is named.
    """

    path: str
    title: str
    keywords: tuple[str, ...]
    author: str
    is_free: bool

    @property
    def stem(self) -> str:
        """The words of the file name, without numbers and the author's name."""
        base = self.path.rpartition("/")[2].removesuffix(".svg").replace("_", " ")
        base = _CODE.sub("", base)
        author = [word.lower() for word in _WORD.findall(self.author)]
        words = [
            word
            for word in _WORD.findall(base.lower())
            if len(word) < 3 or not any(part.startswith(word) for part in author)
        ]
        return " ".join(words)


def read_clip_art(path: str, svg: str) -> ClipArt:
    """Reads the description of an SVG file (RDF in its metadata)."""

    def one(pattern: re.Pattern[str]) -> str:
        found = pattern.search(svg)
        return _clean(found[1]) if found else ""

    subject = _SUBJECT.search(svg)
    words = [_clean(word) for word in _ITEM.findall(subject[1])] if subject else []
    license_url = one(_LICENSE).lower().replace("_", "")
    return ClipArt(
        path,
        one(_TITLE),
        tuple(word.lower().replace("_", " ") for word in words),
        one(_CREATOR),
        not license_url or "publicdomain" in license_url,
    )


def _clean(text: str) -> str:
    # Some texts were escaped twice, and encoded twice.
    plain = ftfy.fix_text(html.unescape(html.unescape(text)))
    return " ".join(plain.replace("_", " ").split())


def clip_art_texts(arts: list[ClipArt]) -> list[Text]:
    """Returns the text of each file; a name is "" if a file has none.

    The name is the title, or the file's name if the title is that of a collection. The
    keywords are those that most files have, first.
    """
    titles = collections.Counter(art.title for art in arts)
    uses = collections.Counter(word for art in arts for word in art.keywords)
    texts = []
    for art in arts:
        name = _clip_art_name(art, titles[art.title])
        ranked = sorted(set(art.keywords), key=lambda word: (-uses[word], word))
        author = art.author.lower()
        useful = [w for w in ranked if w not in author and not _is_about_files(w)]
        texts.append(Text(name, keywords=choose_keywords(useful, name)))
    return texts


def _clip_art_name(art: ClipArt, shared_by: int) -> str:
    words = {word.lower() for word in _WORD.findall(art.title)}
    agrees = bool(words) and words <= set(art.stem.split())
    is_own = shared_by <= SHARED_BY and not art.title.startswith("Clipart by")
    name = art.title.lower() if words and (agrees or is_own) else art.stem
    name = " ".join(_NUMBER.sub("", name).split())
    if len("".join(_WORD.findall(name))) < 2:
        return ""
    if "/flags/" in art.path and "flag" not in name:
        return f"flag: {name.title()}"  # as Unicode names them
    return name


def _is_about_files(keyword: str) -> bool:
    return set(keyword.split()) <= _NO_KEYWORDS
