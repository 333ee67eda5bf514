"""The dry run of training: prints settings, parameters, bytes, shardings and data."""

from __future__ import annotations

import logging
import math
import pathlib
from collections.abc import Collection, Iterator

import jax

from glide_jax import array_types
from glide_jax.config import resolve, validate
from glide_jax.config.defaults import Config
from glide_jax.data import schema, survey
from glide_jax.hooks import evaluations
from glide_jax.models import build
from glide_jax.parallel import device_mesh, sharding
from glide_jax.runtime import progress, wording
from glide_jax.train import data_check, placement, setup, train_state


def check(
    config: Config,
    workdir: pathlib.Path | None = None,
    *,
    allow_change: Collection[str] = (),
) -> setup.CheckedRun:
    """Runs all checks of a start on this machine; nothing is written or downloaded.

    Raises:
      NoCheckpointError: see `setup.check`.
      UserError: a start would be refused.
    """
    checked = setup.check(
        config, workdir, allow_change=allow_change, may_download=False
    )
    if config.evaluate.every_steps:
        evaluations.read_inputs(config, checked.mesh)
    return checked


def check_elsewhere(
    config: Config,
    devices: int,
    slices: int | None = None,
    *,
    allow_change: Collection[str] = (),
) -> placement.Placed:
    """Checks the settings of a run for devices that need not exist here.

    Args:
      config: configuration of the run.
      devices: number of devices, in all slices.
      slices: number of TPU slices; None: the devices are not TPUs.
      allow_change: settings that may differ from the workdir's.

    Raises:
      UserError: a start would be refused.
    """
    validate.validate(config)
    mesh = device_mesh.make_abstract_mesh(config.mesh, devices, slices)
    placed = setup.check_placed(config, mesh, allow_change)
    logging.info(
        "settings checked for %d devices; not checked: data, tokenizer files, "
        "train.init_from, --workdir, inputs of evaluations, Weights & Biases",
        devices,
    )
    return placed


def read_data(config: Config, checked: setup.CheckedRun, most: int) -> Iterator[str]:
    """Yields the lines of `glide data check` for the run's sources.

    Args:
      config: configuration of the run.
      checked: the result of `check`.
      most: maximum number of records read of each source; 0: no source is read.

    Raises:
      UserError: the training data has more bad records than data.max_bad_frac allows.
    """
    if most == 0:
        yield "records: not read (--check_records=0)"
        return
    found = _survey(config, checked, checked.source, most)
    yield from _survey_lines(config, checked.source, found)
    data_check.refuse_too_bad(config, checked.source, found)
    held_out = checked.held_out
    if held_out is not None and repr(held_out) != repr(checked.source):
        found = _survey(config, checked, held_out, most)
        yield from _survey_lines(config, held_out, found)


def _survey(
    config: Config, checked: setup.CheckedRun, source: schema.Source, most: int
) -> survey.Survey:
    indices = data_check.spread(config, source, most)
    with progress.ProgressBar(
        len(indices), "reading records", enabled=bool(indices)
    ) as bar:
        return survey.survey(
            source,
            indices,
            px=config.model.image_px,
            tokenizer=checked.start.tokenizer,
            context=config.model.text_context,
            num_threads=data_check.num_threads(),
            on_progress=bar.update,
        )


def _survey_lines(
    config: Config, source: schema.Source, found: survey.Survey
) -> Iterator[str]:
    yield f"records of {source!r}:"
    left_out = len(source) - found.records
    if found.records:
        yield from (f"  {bad.key}: {bad.reason}" for bad in found.bad)
        lines = survey.describe(
            found, px=config.model.image_px, context=config.model.text_context
        )
        yield from (f"  {line}" for line in lines)
    if left_out:
        yield (
            f"  {left_out:,} of {wording.counted(len(source), 'record')} were not "
            "read: they are synthetic, or beyond --check_records"
        )


def report(config: Config, placed: placement.Placed) -> str:
    """Settings, mesh, parameters and shardings of a checked run."""
    mesh, state, where = placed
    parts = build.parameters_by_part(state.params)
    return "\n".join(
        [
            resolve.to_json(config),
            f"mesh: {dict(mesh.shape)}",
            f"parameters: {build.parameter_count(state.params):,}",
            *(f"  {part:<24} {count:>14,}" for part, count in parts.items()),
            "state per device:",
            *_state_lines(state, where),
            "shardings:",
            *_sharding_lines(state.params, where.params),
        ]
    )


def _state_lines(
    state: train_state.TrainState, where: train_state.TrainState
) -> list[str]:
    """Bytes of each part of the state on one device, or on its host."""
    lines, total = [], 0
    for name in ("params", "opt_state", "ema_params"):
        leaves = jax.tree.leaves(getattr(state, name))
        places = jax.tree.leaves(getattr(where, name))
        size = sum(
            math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf, place in zip(leaves, places, strict=True)
        )
        is_on_host = any(place.memory_kind == sharding.HOST for place in places)
        total += 0 if is_on_host else size
        note = " (in host memory)" if is_on_host else ""
        lines.append(f"  {name:<24} {size / 2**20:>14,.1f} MiB{note}")
    return [*lines, f"  {'total':<24} {total / 2**20:>14,.1f} MiB"]


def _sharding_lines(params: array_types.Params, where: array_types.Params) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [
        f"  {jax.tree_util.keystr(path, simple=True, separator='/'):<60} "
        f"{leaf.shape!s:<24} {place.spec}"
        for (path, leaf), place in zip(leaves, jax.tree.leaves(where), strict=True)
    ]
