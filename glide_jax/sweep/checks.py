"""Checks the runs of a sweep before any of them is started."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from glide_jax.config import resolve, validate
from glide_jax.errors import UserError
from glide_jax.sweep import inputs, run_list, state

# Parses the words after the verb into the values of all flags of that verb.
ParseFlags = Callable[[Sequence[str]], Mapping[str, Any]]


def check_runs(
    plan: run_list.Plan,
    root: pathlib.Path,
    verb: str,
    parse: ParseFlags,
    *,
    checks_inputs: bool,
) -> None:
    """Checks the flags of all runs, their inputs, and that finished runs are current.

    Args:
      plan: The sweep.
      root: Its folder.
      verb: The verb of its runs, of one word or two.
      parse: Parses the flags of that verb.
      checks_inputs: Whether data, bundles and files of unfinished runs must exist.

    Raises:
      UserError: For the first run that would be refused, or that is finished with
        other inputs than it would have now.
    """
    unfinished: list[tuple[str, Iterable[inputs.Input]]] = []
    for run in plan.runs:
        words = run_list.arguments(plan, run, pathlib.Path("root"))
        words = words[len(verb.split()) :]
        _check_folder(plan, words)
        try:
            values = parse(words)
            record = state.RunRecord(root, run.id)
            if verb == "train":
                config = resolve.from_config_dict(values["config"])
                validate.validate(config)
                read = inputs.of_training(config)
            else:
                read = inputs.of_flags(values)
            if record.is_finished:
                _check_unchanged(verb, values, record)
            else:
                unfinished.append((run.label, read))
        except UserError as error:
            raise UserError(f"{plan.name}, run {run.label}: {error}") from error
    if checks_inputs:
        outputs = {(root / "runs" / run.id).absolute() for run in plan.runs}
        try:
            inputs.check(unfinished, outputs)
        except UserError as error:
            raise UserError(f"{plan.name}, {error} (or --nocheck_inputs)") from error


def _check_folder(plan: run_list.Plan, words: Sequence[str]) -> None:
    """Raises UserError if a sweep file names the folder of a run; words end with it."""
    named = [w for w in words[:-1] if w.startswith(("--output=", "--workdir="))]
    if named:
        raise UserError(
            f"{plan.name} sets {named[0]}, but a sweep names each run's folder itself "
            "(ROOT/runs/ID); leave it out"
        )


def _check_unchanged(
    verb: str, values: Mapping[str, Any], record: state.RunRecord
) -> None:
    """Raises UserError if the flags of a finished run have another meaning now."""
    from glide_jax.sweep import provenance  # imports models

    if verb == "train":
        config = resolve.from_config_dict(values["config"])
        provenance.check_config(record, config)
    elif verb == "evaluate":
        provenance.check_bundles(record, _bundles(values))
        provenance.check_reference(record, values["reference"])


def _bundles(values: Mapping[str, Any]) -> dict[str, str | None]:
    """Returns the bundles of an evaluation's flags by their names in its settings."""
    from glide_jax.eval import runner

    features = values["features"] or ""
    kind, _, place = features.partition(":")
    judge, clip = values["judge"] or "", values["clip"] or ""
    return {
        "base": values["base"],
        "upsampler": values["upsampler"],
        "clip": clip,
        "features": place if kind == "clip" else None,
        "judge": runner.clip_bundle(features, judge, clip),
    }
