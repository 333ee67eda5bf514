"""Votes between two settings: blinded pairs, a file of votes, ratings.

The file is one that `glide evaluate elo` reads (`study.votes`).
"""

from __future__ import annotations

import csv
import io
import pathlib
import secrets
import threading
from typing import NamedTuple

from glide_jax.errors import UserError
from glide_jax.runtime import files, wording
from glide_jax.study import elo, elo_report, pairs, votes

FILE = "votes.csv"
# The folder of the pair is ignored by `glide evaluate elo`.
_COLUMNS = (*votes.COLUMNS, "pair")
_RESAMPLES = 200


class Pair(NamedTuple):
    """Two pictures of one prompt, on drawn sides.

    Attributes:
      left, right: the names of their settings, which the voter does not see.
      places: the numbers of their runs in the item of the pair.
      folder: the name of the item.
      prompt: of both.
    """

    left: str
    right: str
    places: tuple[int, int]
    folder: str
    prompt: str


def shuffle(first: str, second: str, folder: str, prompt: str) -> Pair:
    """Returns a pair of runs 0 and 1 of an item, its sides drawn at random."""
    names = (first, second)
    places = (0, 1) if secrets.randbelow(2) else (1, 0)
    return Pair(names[places[0]], names[places[1]], places, folder, prompt)


class Ballot:
    """The votes of one page, kept in a file; several people may vote at once."""

    def __init__(self, folder: pathlib.Path):
        """Continues the file of a folder, if there is one.

        Raises:
          UserError: a file of other columns, or that cannot be read.
        """
        self.path = folder / FILE
        self._lock = threading.Lock()
        self._text = _line(_COLUMNS)
        if self.path.exists():
            self._text = self._read()

    def add(self, pair: Pair, answer: str, question: str) -> str:
        """Writes a vote, and returns a line that reveals the settings.

        Args:
          pair: what was shown.
          answer: "left", "right" or "neither".
          question: one of `pairs.QUESTIONS`.

        Raises:
          UserError: the file cannot be written; the vote is not counted then.
        """
        shown = {"left": pair.left, "right": pair.right}
        winner = shown.get(answer, pairs.TIE)
        row = _line((pair.left, pair.right, winner, question, pair.folder))
        with self._lock:
            try:
                files.write_text(self.path, self._text + row)
            except OSError as error:
                raise UserError(
                    f"cannot write {self.path} ({error.strerror}); free some space and "
                    "vote again"
                ) from error
            self._text += row
        return f"left: {pair.left}; right: {pair.right}"

    def report(self) -> str:
        """Returns the ratings as Markdown, or why there are none yet."""
        with self._lock:
            is_empty = self._text.count("\n") < 2
            if is_empty:
                return "No votes yet."
            found = votes.read([str(self.path)], key=None)
        parts = []
        for question, tally in found.tallies.items():
            count = wording.counted(tally.votes, "vote")
            parts.append(
                f"**{question}**: {count}, {wording.counted(tally.ties, 'tie')}"
            )
            try:
                estimate = elo.estimate(tally, question, resamples=_RESAMPLES)
            except UserError as error:
                parts += [_won(tally), f"No rating yet: {error}."]
                continue
            rows = elo_report.table({question: estimate})
            parts.append(_table([["settings", "Elo [95% interval]"], *rows[1:]]))
            parts.append(_won(tally))
        return "\n\n".join(parts)

    def _read(self) -> str:
        """Returns the text of an earlier start, once it has been read as votes."""
        votes.read([str(self.path)], key=None)
        text = self.path.read_text(encoding="utf-8")
        if not text.startswith(_line(_COLUMNS)):
            raise UserError(
                f"{self.path} has other columns than {', '.join(_COLUMNS)}; move it "
                "away, or start with another --output"
            )
        return text


def _won(tally: elo.Tally) -> str:
    """Returns how often each setting won against each other, as a table."""
    rows = [["settings", "against", "won", "lost", "tie"]]
    for i, first in enumerate(tally.models):
        for j, second in enumerate(tally.models):
            if i < j and tally.counts[i, j].any():
                rows.append([first, second, *map(str, tally.counts[i, j])])
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _line(fields: tuple[str, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()
