"""Splits the set of icons by concept, and writes it as tars with a data card."""

from __future__ import annotations

import collections
import hashlib
import io
import itertools
import json
import pathlib
import platform
import tarfile
from collections.abc import Callable, Iterable, Iterator

from glide_jax.data import icon_captions, icon_drawing, icons
from glide_jax.errors import UserError
from glide_jax.runtime import files, scratch_dirs

TRAIN, SEEN, PAIRS, CONCEPTS = "train", "seen", "val_pairs", "val_concepts"
SPLITS = {
    TRAIN: "for training",
    SEEN: "a copy of a twentieth of the training pictures, to compare with",
    PAIRS: "held-out pairs of a style and a concept: training has the concept in other "
    "styles, and the style with other concepts",
    CONCEPTS: "held-out concepts, which training has in no style",
}
CARD = "README.md"
RECORDS_PER_TAR = 4096
# One of this many concepts is held out in all styles, one of so many in one style, and
# one of so many training pictures is copied.
CONCEPT_EVERY, PAIR_EVERY, SEEN_EVERY = 20, 5, 20
# Of the packages' known versions with resvg-py 0.5.0, without skin tones.
KNOWN_DIGEST = "ada1b2008b1cf5114df6c6ebea1c633f4f8554b203443d85430f349a8777e30b"
Numbered = tuple[str, icons.Picture]


def split(pictures: Iterable[icons.Picture]) -> dict[str, list[Numbered]]:
    """Returns the pictures of each split with their keys, in the given order.

    The splits are functions of the concepts and of the styles that each occurs in.
    """
    numbered = [(f"{n:09d}", picture) for n, picture in enumerate(pictures)]
    styles = collections.defaultdict(set)
    for _, picture in numbered:
        styles[picture.concept].add(picture.style)
    found: dict[str, list[Numbered]] = {name: [] for name in SPLITS}
    for key, picture in numbered:
        concept = picture.concept
        if icon_captions.fraction("concept", concept) < 1 / CONCEPT_EVERY:
            found[CONCEPTS].append((key, picture))
        elif picture.style == _held_out_style(concept, sorted(styles[concept])):
            found[PAIRS].append((key, picture))
        else:
            found[TRAIN].append((key, picture))
            name = f"{picture.style}/{picture.place}"
            if icon_captions.fraction("seen", name) < 1 / SEEN_EVERY:
                found[SEEN].append((key, picture))
    return found


def _held_out_style(concept: str, styles: list[str]) -> str | None:
    """The style in which training lacks the concept."""
    share = icon_captions.fraction("pair", concept) * PAIR_EVERY
    return styles[int(share * len(styles))] if share < 1 < len(styles) else None


def digest(splits: dict[str, list[Numbered]]) -> str:
    """SHA-256 of the splits, captions and pixels, whatever the PNG encoder."""
    total = hashlib.sha256()
    for name, numbered in splits.items():
        for key, picture in numbered:
            line = [name, key, picture.style, *picture.captions, picture.pixels]
            total.update(json.dumps(line).encode())
    return total.hexdigest()


def check_output(folder: pathlib.Path) -> None:
    """Raises UserError if the folder has a set already."""
    for name in (*SPLITS, "records", CARD):
        if (folder / name).exists():
            raise UserError(
                f"{folder / name} exists; remove it, or name another --output"
            )


def write(
    folder: pathlib.Path,
    found: icons.Collection,
    *,
    on_progress: Callable[[], None],
    complete: Callable[[pathlib.Path], None] = lambda draft: None,
) -> tuple[dict[str, int], str]:
    """Writes tars SPLIT/STYLE-NNNNN.tar and the data card, which comes last.

    Args:
      folder: exists and passes `check_output`.
      found: the pictures.
      on_progress: called before each tar; may raise to stop.
      complete: adds folders to a draft of the set before it gets its place.

    Returns:
      (numbers of pictures by split, digest).

    Raises:
      UserError: the disk is full, or the folder cannot be written.
    """
    splits = split(found.pictures)
    total = digest(splits)
    counts = {name: len(numbered) for name, numbered in splits.items()}
    try:
        with scratch_dirs.made(folder, "icons") as draft:
            for name, numbered in splits.items():
                (draft / name).mkdir()
                for file_name, records in _tars(numbered):
                    on_progress()
                    _write_tar(draft / name / file_name, records)
            complete(draft)
            for path in sorted(draft.iterdir()):
                if path.is_dir():
                    files.rename(path, folder / path.name)
            files.write_text(folder / CARD, card(found, splits, total))
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}); free disk space, "
            "or name another --output"
        ) from error
    return counts, total


def _tars(numbered: list[Numbered]) -> Iterator[tuple[str, list[Numbered]]]:
    """Yields the name and the pictures of each tar, which has one style."""
    # The pictures are ordered by source, so those of a style are adjacent.
    for style, group in itertools.groupby(numbered, lambda item: item[1].style):
        slug = style.lower().replace(" ", "_")
        pictures = list(group)
        for index, first in enumerate(range(0, len(pictures), RECORDS_PER_TAR)):
            records = pictures[first : first + RECORDS_PER_TAR]
            yield f"{slug}-{index:05d}.tar", records


def _write_tar(path: pathlib.Path, numbered: list[Numbered]) -> None:
    with files.scratch(path) as draft, tarfile.open(draft, "w") as tar:
        for key, picture in numbered:
            for name, content in (
                (f"{key}.png", picture.png),
                (f"{key}.json", icons.to_json(picture, key)),
            ):
                # TarInfo has no owner and no time by default.
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def describe_digest(total: str, found: icons.Collection, *, skin_tones: bool) -> str:
    """The digest, and whether it is the known one."""
    if total == KNOWN_DIGEST:
        return f"{total} (the known set)"
    reasons = list(found.remarks)
    if skin_tones:
        reasons.append("skin tones are included")
    drawn = f"drawn by resvg-py {icon_drawing.version()} on {platform.machine()}"
    why = "; ".join(reasons) or drawn
    return f"{total}, not the known set {KNOWN_DIGEST[:16]}...: {why}"


def card(found: icons.Collection, splits: dict[str, list[Numbered]], total: str) -> str:
    """The data card, in Markdown."""
    counts = {
        name: collections.Counter(picture.style for _, picture in numbered)
        for name, numbered in splits.items()
    }
    by_package = {fetched.package: fetched for fetched in found.fetched}
    lines = ["# Icons: captioned pictures of 128 x 128 pixels", ""]
    lines += ["| style | package | version | licence | " + " | ".join(SPLITS) + " |"]
    lines += ["|---" * (4 + len(SPLITS)) + "|"]
    for source in icons.SOURCES:
        own = [p for p in found.pictures if p.source == source]
        if own:
            cells = [source.style.name, source.package.name]
            cells += [by_package[source.package].version]
            cells += [", ".join(sorted({picture.license for picture in own}))]
            cells += [str(counts[name][source.style.name]) for name in SPLITS]
            lines.append(f"| {' | '.join(cells)} |")
    totals = " | ".join(str(len(numbered)) for numbered in splits.values())
    lines += [f"| all | | | | {totals} |", "", "## Splits", ""]
    lines += [f"- `{name}`: {meaning}." for name, meaning in SPLITS.items()]
    lines += ["", _RULES, "", "## Left out", "", "| style | reason | pictures |"]
    lines += ["|---|---|---|"]
    lines += [f"| {s} | {why} | {n} |" for (s, why), n in sorted(found.skipped.items())]
    lines += ["", "## Packages", ""]
    lines += [f"- {f.package.name} {f.version}" for f in found.fetched]
    lines += [f"- resvg-py {icon_drawing.version()}"]
    lines += [f"- {remark}" for remark in found.remarks]
    lines += ["", f"SHA-256 of splits, captions and pixels: {total}", ""]
    return "\n".join(lines)


_RULES = f"""\
The concept of a picture is its name in letters, without case, skin tone, and a leading
"man", "woman" or "person". Of the concepts one in {CONCEPT_EVERY} is held out in all
styles, and one in {PAIR_EVERY} of those with several styles in one of its styles, by
SHA-1 of the concept. Names that mean the same in other words are different concepts:
clip art may show a held-out object under another name.

## Captions

A JSON file has two to four captions: the name with the style, the same in other
words, a synonym, and the name with up to {icon_captions.NUM_KEYWORDS} keywords. Emoji
have Unicode's names (emojibase-data); synonyms and keywords are those of emojilib and
emojibase-data. Clip art is named by its title or its file; some names are not English.

## Licences

Each record has its licence and its author. OpenMoji (CC BY-SA 4.0) and Twemoji (CC BY
4.0) ask for credit, and copies of OpenMoji's pictures keep its licence."""
