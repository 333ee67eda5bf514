"""Prepares a run for its first step: checks, state, compiled steps, data.

Shapes come first, then shardings, then arrays, so that a parameter that is sharded over
many devices is never whole on one.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from glide_jax import array_types
from glide_jax.checkpoint import local_tier, store
from glide_jax.config import resolve, validate
from glide_jax.config.defaults import Config
from glide_jax.data import bad_records, pipeline, schema
from glide_jax.models import build
from glide_jax.parallel import device_mesh, distributed, sharding
from glide_jax.runtime import metric_writers, random_streams, wording
from glide_jax.text import tokenizers
from glide_jax.train import (
    batches,
    captions,
    data_check,
    local_saves,
    objectives,
    optimizer,
    placement,
    run_folder,
    run_log,
    step,
    teachers,
    train_state,
)
from glide_jax.train import start as start_lib

# The newest checkpoint's state and metadata.
Restore = Callable[[], tuple[train_state.TrainState, Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """The parts of a run except its state, which the loop holds."""

    config: Config
    workdir: pathlib.Path
    mesh: Mesh
    tokenizer: tokenizers.Tokenizer
    facts: Mapping[str, Any]  # in the metadata of every checkpoint
    checkpoints: store.CheckpointStore
    local: local_tier.LocalTier | None  # the checkpoints on the hosts' own disks
    check_writer: Callable[[], None]  # raises if another run has the workdir now
    train_step: step.TrainStep
    eval_step: Callable[..., objectives.Metrics]
    seed: jax.Array  # int32, on the mesh: an argument of both steps
    validation: list[schema.Batch]  # the rows of this process, as in training
    grid: schema.Batch | None  # the first validation examples, whole in every process
    part: tuple[int, int]  # (i, n): this process reads the i-th of n slices of rows
    # From (the steps already made, the bad records counted until then).
    make_batches: Callable[[int, Mapping[str, Any]], pipeline.Batches]
    skip_batch: Callable[[train_state.TrainState], train_state.TrainState]
    restore: Restore
    past: Mapping[str, Any]  # the metadata of the checkpoint that it started from

    def save(
        self,
        state: train_state.TrainState,
        step: int,
        counters: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        *,
        bad_from: int | None = None,
    ) -> None:
        """Starts to write a checkpoint; see `CheckpointStore.save`.

        Args:
          state: the state after `step`.
          step: batches consumed.
          counters: JSON values for the metadata, beside the settings of the run.
          metrics: metrics for checkpoint.keep_best.
          bad_from: the newest checkpoint before this step is kept.
        """
        items, meta = train_state.to_items(state), {**self.facts, **counters}
        self.checkpoints.save(step, items, meta, metrics, bad_from=bad_from)


@dataclasses.dataclass(frozen=True)
class CheckedRun:
    """The results of the checks of a start; parts as in `TrainingRun`."""

    mesh: Mesh
    placed: placement.Placed
    source: schema.Source
    held_out: schema.Source | None
    start: start_lib.RunStart
    part: tuple[int, int]
    validation: list[schema.Batch]


def prepare(
    config: Config,
    workdir: pathlib.Path,
    *,
    allow_change: Collection[str] = (),
    check_stop: Callable[[], None] = lambda: None,
    check_writer: Callable[[], None] = lambda: None,
) -> tuple[TrainingRun, train_state.TrainState]:
    """A run ready for its next step: fresh, started from another, or resumed.

    Precedence: this workdir's newest valid checkpoint, then train.init_from, then
    initialisation. Settings that define the run may differ from the workdir's only if
    `allow_change` names them. `check_stop` is called between the parts and may raise to
    end the preparation. An exception from `check_writer` ends a write of the run.

    Raises:
      NoCheckpointError: the workdir has checkpoints, but none is valid.
      UserError: settings, data or a folder that the user must correct; nothing has
        been written then.
    """
    checked = check(
        config,
        workdir,
        allow_change=allow_change,
        check_stop=check_stop,
        check_writer=check_writer,
    )
    # The first write, so that a refused start leaves no trace.
    run_folder.prepare(workdir, may_be_apart=True)
    check_stop()
    start, placed = checked.start, checked.placed
    # A start in a workdir has both.
    assert start.tokenizer is not None
    assert start.checkpoints is not None
    objective = placement.make_objective(
        config,
        checked.mesh,
        start.tokenizer.pad_id,
        teacher_prediction=start.teacher_prediction,
    )
    logging.info("parameters: %s", f"{build.parameter_count(placed.state.params):,}")
    targets = placement.with_places(placed.state, placed.where)
    restore = functools.partial(_restore, workdir, start.checkpoints, targets)
    facts = start.facts(config, checked.source)
    local = local_saves.open_tier(config, workdir)
    stored = None if start.is_fresh else start.checkpoints
    found = local_saves.restore(local, stored, targets, config, facts, allow_change)
    if found is None and start.is_fresh:
        found = _first_state(config, objective, placed.where, start.initial), {}
    state, past = found or restore()
    check_stop()
    if start.is_fresh:
        # Never rewritten: an interruption would lose the tokenizer of the checkpoints.
        run_folder.save_tokenizer(workdir, start.tokenizer)
        if start.teacher is not None:
            run_folder.save_teacher(workdir, teachers.facts(start.teacher, config))
    run_folder.save_config(workdir, config)
    parts = (config, workdir, checked, objective, restore, past, check_writer)
    return _make_run(*parts, facts, local), state


def _make_run(
    config: Config,
    workdir: pathlib.Path,
    checked: CheckedRun,
    objective: objectives.Objective,
    restore: Restore,
    past: Mapping[str, Any],
    check_writer: Callable[[], None],
    facts: Mapping[str, Any],
    local: local_tier.LocalTier | None,
) -> TrainingRun:
    mesh, shardings = checked.mesh, checked.placed.where
    tokenizer, checkpoints = checked.start.tokenizer, checked.start.checkpoints
    assert tokenizer is not None
    assert checkpoints is not None
    train_step = placement.jit_train_step(config, objective, mesh, shardings)
    eval_step = placement.jit_eval_step(
        *(config, mesh, tokenizer.pad_id),
        teacher_prediction=checked.start.teacher_prediction,
    )
    teacher = checked.start.teacher
    if teacher is not None:
        params = teachers.put(teacher, config, mesh)
        train_step, eval_step = (
            _with_last(step, params) for step in (train_step, eval_step)
        )
    return TrainingRun(
        config=config,
        workdir=workdir,
        mesh=mesh,
        tokenizer=tokenizer,
        facts=facts,
        checkpoints=checkpoints,
        local=local,
        check_writer=check_writer,
        train_step=train_step,
        eval_step=eval_step,
        seed=sharding.replicate(np.int32(config.seed), mesh),
        validation=checked.validation,
        grid=batches.grid_batch(config, checked.held_out, tokenizer),
        part=checked.part,
        make_batches=functools.partial(
            batches.make_batches,
            config,
            workdir,
            checked.source,
            tokenizer,
            checked.part,
        ),
        skip_batch=placement.jit_skip_batch(shardings),
        restore=restore,
        past=past,
    )


def _with_last(step: Callable[..., Any], last: Any) -> Callable[..., Any]:
    """Binds the last argument of a jitted step."""
    return lambda *arguments: step(*arguments, last)


def check(
    config: Config,
    workdir: pathlib.Path | None,
    *,
    allow_change: Collection[str] = (),
    check_stop: Callable[[], None] = lambda: None,
    check_writer: Callable[[], None] = lambda: None,
    may_download: bool = True,
) -> CheckedRun:
    """All checks of a start; `glide train --dry_run` runs the same ones.

    Nothing is written except, with `may_download`, to the cache of published files.

    Args:
      config: configuration of the run.
      workdir: folder of the run; None: undecided, and not checked.
      allow_change: settings that may differ from the workdir's.
      check_stop: called between the parts; may raise to end the checks.
      check_writer: called before every later write of a checkpoint; may raise.
      may_download: whether a published tokenizer may be downloaded. Without it nothing
        is tokenized if the tokenizer is not cached.

    Raises:
      NoCheckpointError: the workdir has checkpoints, but none is valid.
      UserError: settings, data or a folder that the user must correct.
    """
    validate.validate(config)
    mesh = device_mesh.make_mesh(config.mesh)
    placed = check_placed(config, mesh, allow_change)
    metric_writers.check_wandb(
        config.log.wandb_project, writes=jax.process_index() == 0
    )
    check_stop()
    source, held_out = batches.open_sources(config)
    batches.check_cache(config, source)
    data_check.check_start(
        config,
        source,
        is_thorough=_is_fresh(workdir) and distributed.process_id() == 0,
        known=_log_known_records(workdir),
        check_stop=check_stop,
    )
    start = start_lib.check(
        config,
        workdir,
        source,
        allow_change=allow_change,
        check_writer=check_writer,
        may_download=may_download,
    )
    check_stop()
    part = device_mesh.batch_slice(mesh)
    tokenizer = start.tokenizer or captions.NoTokens()
    if start.tokenizer is not None:
        captions.check_vocabulary(config, start.tokenizer)
        captions.warn_of_cut_captions(config, source, start.tokenizer)
    check_stop()
    validation = batches.validation_batches(config, held_out, tokenizer, part)
    check_stop()
    return CheckedRun(mesh, placed, source, held_out, start, part, validation)


def _log_known_records(workdir: pathlib.Path | None) -> set[int]:
    """Logs the number of bad records that an earlier start has listed; returns them."""
    path = workdir and run_log.log_path(workdir)
    known = bad_records.listed_records(path) if path else set()
    if known:
        logging.warning(
            "%s that cannot be used: see %s, written by earlier starts",
            wording.counted(len(known), "record"),
            path,
        )
    return known


def _is_fresh(workdir: pathlib.Path | None) -> bool:
    """Whether no checkpoint was started: accepted data is not checked again."""
    return workdir is None or not run_folder.checkpoints(workdir).exists()


def check_placed(
    config: Config, mesh: Mesh | AbstractMesh, allow_change: Collection[str] = ()
) -> placement.Placed:
    """The checks of settings that need neither data nor the mesh's devices.

    Raises:
      UserError: unknown settings, an invalid tokenizer name, or a batch, a model or
        rules that do not fit the mesh.
    """
    for name in allow_change:
        resolve.check_key(config, name)
    captions.check_name(config)
    placement.check_fits(config, mesh)
    _log_short_warmup(config)
    return placement.place(config, mesh)


def _log_short_warmup(config: Config) -> None:
    steps = optimizer.warmup_steps(config.optim, config.train.num_steps)
    if steps != config.optim.warmup_steps:
        logging.info(
            "the warm-up has %d steps instead of optim.warmup_steps=%d, because "
            "train.num_steps=%d leaves no steps to decay the learning rate",
            steps,
            config.optim.warmup_steps,
            config.train.num_steps,
        )


def _restore(
    workdir: pathlib.Path,
    checkpoints: store.CheckpointStore,
    targets: train_state.TrainState,
) -> tuple[train_state.TrainState, Mapping[str, Any]]:
    newest = checkpoints.restore_newest(train_state.to_items(targets))
    assert newest is not None  # `start.check` found a checkpoint
    logging.info("resumed at step %d", newest.step)
    meta = run_folder.convert_meta(workdir, newest.meta)
    return train_state.from_items(newest.items), meta


def _first_state(
    config: Config,
    objective: objectives.Objective,
    shardings: train_state.TrainState,
    initial: tuple[array_types.Params, list[str]] | None,
) -> train_state.TrainState:
    """The state before the first step.

    `initial` holds the parameters to start from and the names of extended ones; without
    it the parameters are initialised.
    """
    optim = optimizer.make_optimizer(config.optim)
    if initial is None:
        key = random_streams.stream_key(config.seed, "init")
        return jax.jit(
            lambda key: train_state.make_state(config, objective.init(key), optim),
            out_shardings=shardings,
        )(key)
    params, extended = initial
    for name in extended:
        logging.info("extended: %s", name)
    begin = jax.jit(
        lambda params: train_state.make_state(config, params, optim),
        out_shardings=shardings,
    )

    # device_put onto a mesh of several processes would compare the whole array first.
    def put(leaf: np.ndarray, where: jax.sharding.Sharding) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, where, lambda i: leaf[i])

    params = jax.tree.map(np.asarray, params)
    return begin(jax.tree.map(put, params, shardings.params))
