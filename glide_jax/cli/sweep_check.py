"""Checks the runs of a sweep before any of them is started."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Iterable

from absl import flags

from glide_jax.errors import UserError
from glide_jax.sweep import run_list


def check_runs(plan: run_list.Plan, root: pathlib.Path, *, looks: bool) -> None:
    """Refuses what a run would be refused for, before any is started.

    And a finished run that would be another now.

    Args:
      plan: of the sweep.
      root: its folder.
      looks: whether the data, bundles and files of unfinished runs are looked for.

    Raises:
      UserError: for the first such run.
    """
    from glide_jax.cli import main
    from glide_jax.config import resolve, validate
    from glide_jax.sweep import inputs, state

    first = " ".join(plan.command[:2])
    verb = first if first in main.VERBS else plan.command[0]
    count = len(verb.split())
    if verb not in main.VERBS or verb == "sweep":
        raise UserError(
            f"COMMAND of {plan.name} starts {verb!r}, which is no verb to be "
            f"swept; use one of {', '.join(v for v in main.VERBS if v != 'sweep')}"
        )
    module = importlib.import_module(f"glide_jax.cli.{verb.replace(' ', '_')}")
    unfinished: list[tuple[str, Iterable[inputs.Input]]] = []
    for run_ in plan.runs:
        values = flags.FlagValues()
        module.define_flags(values)
        words = run_list.arguments(plan, run_, pathlib.Path("root"))[count:]
        _check_folder(plan, words)
        try:
            main.parse(values, [f"glide {verb}", *words])
            entry = state.RunRecord(root, run_.id)
            if plan.verb == "train":
                config = resolve.from_config_dict(values.config)
                validate.validate(config)
                read = inputs.of_training(config)
            else:
                read = inputs.of_flags(values.flag_values_dict())
            if entry.is_finished:
                _check_unchanged(verb, values, entry)
            else:
                unfinished.append((run_.label, read))
        except UserError as error:
            raise UserError(f"{plan.name}, run {run_.label}: {error}") from error
    if looks:
        made = {(root / "runs" / run.id).absolute() for run in plan.runs}
        try:
            inputs.check(unfinished, made)
        except UserError as error:
            raise UserError(f"{plan.name}, {error} (or --nocheck_inputs)") from error


def _check_folder(plan: run_list.Plan, words: list[str]) -> None:
    """Each run has a folder of its own, named last; nobody else names one."""
    named = [w for w in words[:-1] if w.startswith(("--output=", "--workdir="))]
    if named:
        raise UserError(
            f"{plan.name} sets {named[0]}, but a sweep names each run's folder itself "
            "(ROOT/runs/ID); leave it out"
        )


def _check_unchanged(verb: str, values: flags.FlagValues, entry) -> None:
    """Raises UserError where the finished run's flags mean something else now."""
    from glide_jax.config import resolve
    from glide_jax.sweep import (
        provenance,  # imports models: not where nothing is finished
    )

    if verb == "train":
        provenance.check_config(entry, resolve.from_config_dict(values.config))
    elif verb == "evaluate":
        provenance.check_bundles(entry, _bundles(values))
        provenance.check_reference(entry, values.reference)


def _bundles(values: flags.FlagValues) -> dict[str, str | None]:
    """The folders that flags of `glide evaluate` name, as its settings call them."""
    from glide_jax.eval import runner

    kind, _, place = (values.features or "").partition(":")
    features = place if kind == "clip" else None
    return {
        "base": values.base,
        "upsampler": values.upsampler,
        "clip": values.clip,
        "features": features,
        "judge": runner.clip_bundle(
            values.features or "", values.judge or "", values.clip or ""
        ),
    }
