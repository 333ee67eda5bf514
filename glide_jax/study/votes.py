"""Reads votes: plain ones, or blinded answers with the key of their study.

A file of votes is a table with a header, as CSV in UTF-8 or as a spreadsheet writes it:
fields separated by commas, semicolons, or tabs, a byte order mark, UTF-16. Its columns
are

    a, b         the two models
    winner       one of them, or "tie"
    question     the question, e.g. photorealism

An answered sheet or export of `glide evaluate pairs` has study, pair, question and
answer (left, right or neither; empty without an answer) instead. Other columns are
ignored. Files are counted line by line and never held in memory.
"""

from __future__ import annotations

import collections
import csv
import difflib
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TextIO

import numpy as np

from glide_jax.errors import UserError
from glide_jax.runtime import csv_files
from glide_jax.study import elo, pairs

COLUMNS = ("a", "b", "winner", "question")
ANSWER_COLUMNS = ("study", "pair", "question", "answer")
# More names indicate another column, e.g. of prompts.
MAX_MODELS = 100
MAX_QUESTIONS = 20
_MAX_LINE = 1 << 16  # characters; a row of votes has a few dozen


class Vote(NamedTuple):
    """One choice: `winner` is `a`, `b` or "tie"."""

    a: str
    b: str
    winner: str
    question: str


class Row(NamedTuple):
    """A row of a file, and its position for messages."""

    where: str
    fields: dict[str, str]


class Votes(NamedTuple):
    """All votes, counted by question, and the number of rows without an answer."""

    tallies: dict[str, elo.Tally]
    unanswered: int


def read(
    paths: Sequence[str], *, models: Sequence[str] = (), key: dict[str, Any] | None
) -> Votes:
    """Counts the votes of some files.

    Args:
      paths: One file, or one of each rater.
      models: The known names; empty: any name is accepted.
      key: The key from `pairs.read_key` if the files are blinded answers.

    Raises:
      UserError: A file or a row is invalid; the message states its line. There is no
        vote.
    """
    if len({pathlib.Path(path).resolve() for path in paths}) < len(paths):
        raise UserError(
            "a file of --votes is given twice, so its votes would count twice;"
            " give each file once"
        )
    counts: collections.Counter[Vote] = collections.Counter()
    unanswered = 0
    seen: dict[str, set[str]] = {"models": set(), "questions": set()}
    for path in paths:
        votes = _plain(path) if key is None else _unblinded(path, key)
        for where, vote in votes:
            if vote is None:
                unanswered += 1
                continue
            if vote not in counts:
                _check(where, vote, models)
                _check_names(where, vote, seen)
            counts[vote] += 1
    if not counts:
        blank = f"; all answers are empty ({unanswered})" if unanswered else ""
        raise UserError(
            f"{', '.join(paths)}: no votes below the header{blank}; a row is one vote"
        )
    return Votes(_tallied(counts), unanswered)


def _plain(path: str) -> Iterator[tuple[str, Vote]]:
    for where, fields in _rows(path, COLUMNS):
        a, b, winner, question = (fields[column] for column in COLUMNS)
        yield where, Vote(a, b, winner, question)


def _unblinded(path: str, key: dict[str, Any]) -> Iterator[tuple[str, Vote | None]]:
    answered = {}
    for where, fields in _rows(path, ANSWER_COLUMNS):
        study, pair, question, answer = (fields[name] for name in ANSWER_COLUMNS)
        if study != key["study"]:
            raise UserError(
                f"{where}: study {study!r}, but the key is of study {key['study']!r};"
                " give the key.json that was written with these pairs"
            )
        if pair not in key["pairs"]:
            raise UserError(
                f"{where}: the key has no pair {pair!r}; keep the pairs of sheet.csv"
                " unchanged"
            )
        if not answer:
            yield where, None
            continue
        if (pair, question) in answered:
            raise UserError(
                f"{where}: pair {pair} has a second answer for {question!r} (first in"
                f" {answered[pair, question]}); keep one, and one file for each rater"
            )
        answered[pair, question] = where
        shown = {side: key["pairs"][pair][side]["model"] for side in pairs.SIDES}
        if answer not in (*shown, pairs.NEITHER, pairs.TIE):
            raise UserError(f"{where}: answer {answer!r} is not left, right or neither")
        left, right = shown.values()
        yield where, Vote(left, right, shown.get(answer, pairs.TIE), question)


def _rows(path: str, columns: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of a file, with fields stripped of spaces.

    Raises:
      UserError: The file cannot be read, is not UTF-8 or CSV, or lacks a column or a
        field.
    """
    above, reader = 0, None
    try:
        with open(path, encoding=csv_files.encoding(path), newline="") as file:
            delimiter, above = _separator(path, file)
            lines = _lines(file, path)
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            if reader.fieldnames is not None:
                reader.fieldnames = [name.strip() for name in reader.fieldnames]
            _check_header(path, columns, reader.fieldnames)
            for row in reader:
                where = f"{path} line {above + reader.line_num}"
                if any("\n" in (row[name] or "") for name in columns):
                    raise UserError(
                        f"{where}: an open quote before it joins lines; close it, or"
                        " remove it"
                    )
                fields = {name: (row[name] or "").strip() for name in columns}
                empty = [n for n, v in fields.items() if not v and n != "answer"]
                if empty:
                    raise UserError(f"{where}: {', '.join(empty)} is empty")
                yield Row(where, fields)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); name a file of votes"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text ({error.reason}); save it as CSV UTF-8"
        ) from error
    except csv.Error as error:
        raise UserError(
            f"{path} line {above + (reader.line_num if reader else 1)}: not CSV"
            f" ({error}); save it as CSV UTF-8"
        ) from error


def _separator(path: str, file: TextIO) -> tuple[str, int]:
    """Returns the separator and the number of lines above the header."""
    separator, above = csv_files.find_separator(file, _MAX_LINE)
    if separator != ",":
        name = {";": "semicolons", "\t": "tabs"}[separator]
        logging.info("--votes=%s: columns are separated by %s", path, name)
    return separator, above


def _lines(file: TextIO, path: str) -> Iterator[str]:
    """Yields the lines, and refuses one that is too long for a table."""
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise UserError(
                f"{path} has a line of {_MAX_LINE} characters or more, so it is not a"
                " table of votes; give a CSV file"
            )
        yield line


def _check_header(
    path: str, columns: Sequence[str], header: Sequence[str] | None
) -> None:
    if header is None:
        raise UserError(
            f"{path} is empty; its first line names the columns: {', '.join(columns)}"
        )
    missing = [name for name in columns if name not in header]
    if not missing:
        return
    remedy = f"the first line has to name {', '.join(columns)}"
    if set(columns) == set(COLUMNS) and "answer" in header:
        remedy = "these are blinded answers, so give --key=key.json as well"
    raise UserError(
        f"{path} has no column {', '.join(missing)} (it has"
        f" {', '.join(map(str, header))[:200]}); {remedy}"
    )


def _check(where: str, vote: Vote, models: Sequence[str]) -> None:
    for name in (vote.a, vote.b):
        if models and name not in models:
            near = difflib.get_close_matches(name, models, 1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"{where}: model {name!r} is not among the --models"
                f" {', '.join(models)}{guess}"
            )
    if pairs.TIE in (vote.a, vote.b):
        raise UserError(f"{where}: {pairs.TIE!r} cannot be a model; rename it")
    if vote.a == vote.b:
        raise UserError(
            f"{where}: a and b are both {vote.a!r}; a vote is between two models"
        )
    if vote.winner not in (vote.a, vote.b, pairs.TIE):
        raise UserError(
            f"{where}: winner {vote.winner!r} is neither {vote.a!r} nor {vote.b!r}"
            f" nor {pairs.TIE!r}"
        )


def _check_names(where: str, vote: Vote, seen: dict[str, set[str]]) -> None:
    seen["models"] |= {vote.a, vote.b}
    seen["questions"].add(vote.question)
    for kind, most in (("models", MAX_MODELS), ("questions", MAX_QUESTIONS)):
        if len(seen[kind]) > most:
            raise UserError(
                f"{where}: there are more than {most} {kind}; check the columns"
            )


def _tallied(counts: collections.Counter[Vote]) -> dict[str, elo.Tally]:
    """Returns the counts by question, the paper's first; models are sorted by name."""
    tallies = {}
    asked = {vote.question for vote in counts}
    known = [question for question in pairs.QUESTIONS if question in asked]
    for question in [*known, *sorted(asked - set(known))]:
        here = {v: n for v, n in counts.items() if v.question == question}
        models = sorted({name for vote in here for name in (vote.a, vote.b)})
        place = {name: i for i, name in enumerate(models)}
        table = np.zeros((len(models), len(models), len(elo.OUTCOMES)), np.int64)
        for vote, count in here.items():
            first, second = sorted((vote.a, vote.b))
            outcome = {first: 0, second: 1, pairs.TIE: 2}[vote.winner]
            table[place[first], place[second], outcome] += count
        tallies[question] = elo.Tally(tuple(models), table)
    return tallies
