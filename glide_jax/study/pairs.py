"""Blinded pairs of pictures of the same prompt, for people to choose between.

A study is a folder:

    rater/vote.html   a page that shows the pairs and stores the answers
    rater/sheet.csv   the same as a table, to be filled in by hand
    rater/pairs/      p0001_left.png, p0001_right.png, ...
    key.json          the models of all pairs; not for raters, so not in rater/

Pictures are encoded again, so neither their names nor metadata reveal their models.
Order and sides are drawn from the seed.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from glide_jax.errors import UserError
from glide_jax.eval import picture_folder
from glide_jax.runtime import files, wording
from glide_jax.sample import image_io
from glide_jax.study import vote_page

SCHEMA = 1
# As in GLIDE [appendix A.1]: each question by itself, with "neither" as an answer. The
# caption is shown only with the question that concerns it.
QUESTIONS = {
    "photorealism": vote_page.Question(
        "Which picture is more photorealistic?", shows_prompt=False
    ),
    "caption": vote_page.Question(
        "Which picture matches the caption better?", shows_prompt=True
    ),
}
SIDES = ("left", "right")
NEITHER = "neither"
TIE = "tie"  # the winner in a plain file of votes where neither was chosen
SHEET_COLUMNS = ("study", "pair", "prompt", "question", "answer")


class ShownPicture(NamedTuple):
    """One picture of a pair: its model and its file."""

    model: str
    file: pathlib.Path


class Pair(NamedTuple):
    """Two pictures of one prompt, as they are shown."""

    prompt: str
    left: ShownPicture
    right: ShownPicture


class Study(NamedTuple):
    """A study.

    Attributes:
      name: Identifies the study.
      pairs: The pairs by name, e.g. "p0001".
      orders: For each question the names of the pairs, in the order of display.
    """

    name: str
    pairs: dict[str, Pair]
    orders: dict[str, list[str]]


def plan(
    folders: Mapping[str, Sequence[picture_folder.Sample]],
    *,
    num_pairs: int | None = None,
    seed: int = 0,
) -> Study:
    """Plans which pictures are shown together, in which order and on which sides.

    Each picture of a prompt is paired with the picture of the same number of that
    prompt in every other folder. `num_pairs` of these are drawn, spread evenly over the
    pairs of models.

    Args:
      folders: The samples of each model, by the model's name.
      num_pairs: Number of pairs; None: all.
      seed: Seed of order and sides.

    Raises:
      UserError: The folders have different prompts or fewer pairs than requested, or a
        model is named "tie".
    """
    if TIE in folders:
        raise UserError(
            f"a folder of samples is named {TIE!r}, which votes use for no winner; "
            "rename it"
        )
    pictures = {name: _by_prompt(samples) for name, samples in folders.items()}
    _check_prompts(pictures)
    rng = np.random.default_rng(seed)
    slots = sorted(next(iter(pictures.values())))
    matches = list(itertools.combinations(pictures, 2))
    shuffled = [[slots[i] for i in rng.permutation(len(slots))] for _ in matches]
    # Every match once, then every match again, so that a prefix is spread evenly.
    candidates = [
        (match, slot)
        for round_ in zip(*shuffled, strict=True)
        for match, slot in zip(matches, round_, strict=True)
    ]
    count = len(candidates) if num_pairs is None else num_pairs
    if count > len(candidates):
        raise UserError(
            f"--num_pairs={count}, but these folders have"
            f" {wording.counted(len(candidates), 'pair')}; give a smaller number, or"
            " draw more samples"
        )
    chosen = [candidates[i] for i in rng.permutation(count)]
    digits = max(4, len(str(count)))
    pairs = {}
    for number, ((first, second), slot) in enumerate(chosen, start=1):
        sides = [ShownPicture(m, pictures[m][slot]) for m in (first, second)]
        if rng.random() < 0.5:
            sides.reverse()
        pairs[f"p{number:0{digits}}"] = Pair(slot[0], *sides)
    names = list(pairs)
    orders = {q: [names[i] for i in rng.permutation(count)] for q in QUESTIONS}
    return Study(_study_name(pairs), pairs, orders)


def _by_prompt(
    samples: Sequence[picture_folder.Sample],
) -> dict[tuple[str, int], pathlib.Path]:
    """Returns files by prompt and by the number of the picture for that prompt."""
    found: dict[tuple[str, int], pathlib.Path] = {}
    numbers: dict[str, int] = {}
    for sample in samples:
        number = numbers.get(sample.prompt, 0)
        found[sample.prompt, number] = sample.file
        numbers[sample.prompt] = number + 1
    return found


def _check_prompts(pictures: dict[str, dict[tuple[str, int], pathlib.Path]]) -> None:
    for (one, here), (other, there) in itertools.permutations(pictures.items(), 2):
        missing = sorted(set(here) - set(there))
        if missing:
            prompt, number = missing[0]
            what = f"picture {number + 1} of {prompt!r}"
            lacking = wording.counted(len(missing), "picture")
            raise UserError(
                f"{one} has {lacking} without a counterpart in {other}, e.g."
                f" {what:.80}; draw both from the same prompts with the same"
                " --num_images"
            )


def _study_name(pairs: dict[str, Pair]) -> str:
    """Returns a digest of the pairs, so that answers need the key of their study."""
    digest = hashlib.sha256()
    for pair in pairs.values():
        digest.update(repr((pair.prompt, *pair.left, *pair.right)).encode())
    # A letter first, since a spreadsheet reads digits and an e as a number.
    return f"s{digest.hexdigest()[:12]}"


def write(
    folder: pathlib.Path,
    study: Study,
    record: dict[str, Any],
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Writes a study, whole or not at all.

    Args:
      folder: An existing folder.
      study: The study.
      record: Further JSON values for the key.
      on_progress: Called before each pair.

    Raises:
      UserError: The folder holds a study already, or a picture cannot be read.
    """
    if (folder / "key.json").exists() or (folder / "rater").exists():
        raise UserError(
            f"{folder} holds a study already, whose answers need its key.json; name"
            " another folder"
        )
    try:
        with tempfile.TemporaryDirectory(prefix=".study.", dir=folder) as scratch:
            rater = pathlib.Path(scratch, "rater")
            _write_pictures(rater / "pairs", study, on_progress)
            _write_forms(rater, study)
            text = json.dumps(_key(study, record), indent=2, ensure_ascii=False)
            key = pathlib.Path(scratch, "key.json")
            files.write_text(key, text + "\n")
            # Renaming needs no space on the disk.
            files.rename(rater, folder / "rater")
            files.rename(key, folder / "key.json")
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder} ({error.strerror}); free some"
            " space, or name another folder"
        ) from error


def _write_pictures(
    folder: pathlib.Path, study: Study, on_progress: Callable[[], None]
) -> None:
    folder.mkdir(parents=True)
    for name, pair in study.pairs.items():
        on_progress()
        for side in SIDES:
            pixels = image_io.read_image(getattr(pair, side).file)
            image_io.write_png(folder / f"{name}_{side}.png", pixels)


def _write_forms(folder: pathlib.Path, study: Study) -> None:
    """Writes the sheet and the page, question by question, each in its order."""
    rows = [
        {"pair": name, "prompt": study.pairs[name].prompt, "question": question}
        for question, order in study.orders.items()
        for name in order
    ]
    _write_sheet(folder / "sheet.csv", study.name, rows)
    page = vote_page.render(study.name, QUESTIONS, rows)
    files.write_text(folder / "vote.html", page)


def _write_sheet(path: pathlib.Path, study: str, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] = csv.DictWriter(file, SHEET_COLUMNS, restval="")
        writer.writeheader()
        writer.writerows({"study": study, **row} for row in rows)


def _key(study: Study, record: dict[str, Any]) -> dict[str, Any]:
    pairs = {
        name: {
            "prompt": pair.prompt,
            **{
                side: {"model": shown.model, "file": str(shown.file)}
                for side, shown in zip(SIDES, (pair.left, pair.right), strict=True)
            },
        }
        for name, pair in study.pairs.items()
    }
    return {"schema": SCHEMA, "study": study.name, **record, "pairs": pairs}


def read_key(path: str) -> dict[str, Any]:
    """Reads a key.json: {"study": name, "pairs": {name: {"left": {"model": ...}}}}.

    Raises:
      UserError: The file cannot be read, or is not a key.
    """
    remedy = "give the key.json that `glide evaluate pairs` wrote"
    try:
        key = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"--key={path} cannot be read ({error.strerror}); {remedy}"
        ) from error
    except ValueError as error:
        raise UserError(f"--key={path} is not JSON; {remedy}") from error
    if not isinstance(key, dict) or not isinstance(key.get("pairs"), dict):
        raise UserError(f"--key={path} is not a key of blinded pairs; {remedy}")
    if key.get("schema") != SCHEMA:
        raise UserError(
            f"--key={path} has schema {key.get('schema')!r}, and this version reads"
            f" {SCHEMA}; evaluate it with the version that wrote it"
        )
    try:
        str(key["study"])
        for pair in key["pairs"].values():
            _ = [pair[side]["model"] for side in SIDES]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--key={path} does not name the study and both models of every pair;"
            f" {remedy}"
        ) from error
    return key
