"""Computes Elo ratings of models from votes on their pictures.

    glide evaluate elo --votes=votes.csv --output=out/elo
    glide evaluate elo --votes=anna.csv --votes=ben.csv --key=out/study/key.json

A file of votes is CSV in UTF-8, or a table with semicolons or tabs as spreadsheets
write it, with the columns a, b (the two models), winner (one of them, or tie) and
question (e.g. photorealism). With --key it is a sheet or an answers.csv of
`glide evaluate pairs`. Each question is rated by itself, by maximum likelihood as in
the paper (appendix A.1), a tie being half a win for each, with 95% bootstrap intervals.

--output receives elo.json, elo.md and elo.png.
"""

from __future__ import annotations

import json
import pathlib
import shlex
from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import define, output_folders
from glide_jax.errors import UserError
from glide_jax.runtime import files, wording

if TYPE_CHECKING:
    from collections.abc import Mapping

    from glide_jax.study import elo


def define_flags(values: flags.FlagValues) -> None:
    """Defines flags for votes, key, models and intervals."""
    add = define.Define(values)
    add.paths("votes", "file of votes, e.g. votes.csv; one --votes for each rater")
    add.path("key", "key.json of `glide evaluate pairs`, for its blinded answers")
    flags.DEFINE_list(
        "models",
        None,
        "names of the models, separated by commas; other names in the votes are "
        "refused",
        flag_values=values,
    )
    add.path("output", "folder for elo.json, elo.md and elo.png; empty: only print")
    add.whole("resamples", "bootstrap resamples", 1000, least=100)
    add.whole("seed", "seed of the resamples", 0, least=0)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Reads the votes, prints the ratings and writes them."""
    from glide_jax.study import elo, elo_report, pairs, votes

    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag; give votes as --votes=FILE")
    if not values.votes:
        raise UserError("--votes is missing, e.g. --votes=votes.csv")
    key = pairs.read_key(values.key) if values.key else None
    found = votes.read(values.votes, models=values.models or (), key=key)
    estimates = {
        question: elo.estimate(
            tally, question, resamples=values.resamples, seed=values.seed
        )
        for question, tally in found.tallies.items()
    }
    if values.output:
        with output_folders.made_folder(values.output) as folder:
            _write(folder, values, estimates)
    _print(elo_report.table(estimates))
    _print_counts(found.tallies, found.unanswered)
    for question, estimate in estimates.items():
        if estimate.unbounded:
            print(f"{question}: {elo_report.unbounded(estimate)}")
    return 0


def _print(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (c.ljust(w) for c, w in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _print_counts(tallies: Mapping[str, elo.Tally], unanswered: int) -> None:
    models = {name for tally in tallies.values() for name in tally.models}
    on_questions = ", ".join(
        f"{wording.counted(tally.votes, 'vote')} on {question}"
        f" ({wording.counted(tally.ties, 'tie')})"
        for question, tally in tallies.items()
    )
    rows = wording.counted(unanswered, "row")
    blank = f"; {rows} without an answer ignored" if unanswered else ""
    print(f"{len(models)} models; {on_questions}{blank}")
    print("only differences have a meaning; the mean is 0, brackets are 95% intervals")


def _write(
    folder: pathlib.Path,
    values: flags.FlagValues,
    estimates: Mapping[str, elo.Estimate],
) -> None:
    from glide_jax.study import elo, elo_report

    command = _command(values)
    record = {
        "schema": elo_report.SCHEMA,
        "verb": "evaluate elo",
        "command": command,
        "votes": values.votes,
        "key": values.key,
        "resamples": values.resamples,
        "seed": values.seed,
        "level": elo.LEVEL,
        "questions": elo_report.as_json(estimates),
    }
    try:
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        files.write_text(folder / "elo.json", text + "\n")
        page = elo_report.markdown(estimates, command)
        files.write_text(folder / "elo.md", page)
        elo_report.draw(estimates, str(folder / "elo.png"), command)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder} ({error.strerror}); free some"
            " space, or name another folder"
        ) from error


def _command(values: flags.FlagValues) -> str:
    """Returns the command that repeats this, without flags at their defaults."""
    words = [f"--votes={path}" for path in values.votes]
    words += [f"--key={values.key}"] if values.key else []
    for name in ("models", "resamples", "seed"):
        if not values[name].using_default_value:
            value = values[name].value
            shown = ",".join(value) if isinstance(value, list) else value
            words.append(f"--{name}={shown}")
    return shlex.join(["glide", "evaluate", "elo", *words])
