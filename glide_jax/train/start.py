"""The start of a run: from scratch, another run, or its own newest checkpoint."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from glide_jax import array_types
from glide_jax.checkpoint import store
from glide_jax.config import resolve
from glide_jax.config.defaults import Config
from glide_jax.data import schema, sources
from glide_jax.errors import UserError
from glide_jax.parallel import distributed
from glide_jax.text import tokenizers
from glide_jax.train import captions, init_from, run_folder, teachers, train_state


@dataclasses.dataclass(frozen=True)
class RunStart:
    """A start with checked workdir, tokenizer and origin; nothing is written.

    Attributes:
      checkpoints: the workdir's; None if no workdir is given.
      is_fresh: whether there is no checkpoint to resume from.
      tokenizer: the run's; None if the start must download it.
      initial: result of `init_from.adapt`, for a fresh run with an origin.
      teacher: the teacher of a student, or None.
    """

    checkpoints: store.CheckpointStore | None
    is_fresh: bool
    tokenizer: tokenizers.Tokenizer | None
    initial: tuple[array_types.Params, list[str]] | None
    teacher: teachers.Teacher | None = None

    @property
    def teacher_prediction(self) -> str:
        """What the teacher predicts; "" without a teacher."""
        return self.teacher.origin.config.diffusion.prediction if self.teacher else ""

    def facts(self, config: Config, source: schema.Source) -> dict[str, Any]:
        """The metadata of every checkpoint that this start writes, beside counters."""
        assert self.tokenizer is not None  # the start of a workdir has one
        teacher = {"teacher_digest": self.teacher.digest} if self.teacher else {}
        return {
            "config": json.loads(resolve.to_json(config)),
            "tokenizer_digest": self.tokenizer.digest(),
            "records": len(source),
            "data_order": sources.ORDER_VERSION,
            **teacher,
        }


def check(
    config: Config,
    workdir: pathlib.Path | None,
    source: schema.Source,
    *,
    allow_change: Collection[str] = (),
    check_writer: Callable[[], None] = lambda: None,
    may_download: bool = True,
) -> RunStart:
    """Checks what a start in `workdir` begins with.

    Precedence: the workdir's newest good checkpoint, then train.init_from, then
    initialisation.

    Args:
      config: configuration of the run.
      workdir: None: a fresh run whose folder is undecided.
      source: the training data.
      allow_change: settings that may differ from the workdir's.
      check_writer: called before every write of a checkpoint; may raise.
      may_download: whether a published tokenizer may be fetched.

    Raises:
      NoCheckpointError: the workdir has checkpoints, but none is valid.
      UserError: settings, data or folder are inconsistent.
    """
    checkpoints, teacher = None, None
    if config.train.teacher:
        teacher = teachers.load(config)
    if workdir is not None:
        checkpoints = _open_checkpoints(config, workdir, check_writer)
        if not checkpoints.is_empty():
            tokenizer = _check_resumed(
                config, workdir, source, checkpoints, allow_change, teacher
            )
            return RunStart(checkpoints, False, tokenizer, None, teacher)
        run_folder.check_begins(workdir, config)
        run_folder.check_writable(workdir)
    origin, initial = _find_initial(config, teacher)
    tokenizer = captions.find_tokenizer(
        config, source, origin, may_download=may_download
    )
    if teacher is not None and tokenizer is not None:
        _check_vocabulary(config, teacher, tokenizer)
    return RunStart(checkpoints, True, tokenizer, initial, teacher)


def _find_initial(
    config: Config, teacher: teachers.Teacher | None
) -> tuple[init_from.Origin | None, tuple[array_types.Params, list[str]] | None]:
    """What a fresh run starts from, and its parameters in the shapes of the run."""
    origin = initial = None
    if config.train.init_from:
        origin = init_from.load(config.train.init_from)
        initial = init_from.adapt(origin, config)
        logging.info("starting from %s at step %d", config.train.init_from, origin.step)
    elif teacher is not None:
        origin = teacher.origin
        initial = init_from.adapt(origin, config)
        logging.info("starting from the teacher, %s", config.train.teacher)
    else:
        logging.info(
            "starting from random weights (--config.train.init_from=PATH starts from a "
            "workdir or a bundle)"
        )
    if initial is not None and teacher is not None and teachers.matches_moments(config):
        params, extended = initial
        initial = train_state.with_auxiliary(params, teacher.origin.params), extended
    return origin, initial


def _check_vocabulary(
    config: Config, teacher: teachers.Teacher, tokenizer: tokenizers.Tokenizer
) -> None:
    """Refuses a teacher that reads captions by another tokenizer."""
    if teacher.origin.tokenizer.digest() != tokenizer.digest():
        raise UserError(
            f"train.teacher={config.train.teacher} has another tokenizer than this "
            "run; leave data.tokenizer and train.init_from empty to use the teacher's"
        )


def _open_checkpoints(
    config: Config, workdir: pathlib.Path, check_writer: Callable[[], None]
) -> store.CheckpointStore:
    """Opens the workdir's checkpoints; all processes must see the same ones."""
    checkpoints = store.CheckpointStore(
        run_folder.checkpoints(workdir), config.checkpoint, check_writer
    )
    distributed.check_equal(
        "the newest checkpoint in --workdir",
        checkpoints.latest_step(),
        run_folder.SHARED_REMEDY.format("--workdir"),
    )
    return checkpoints


def _check_resumed(
    config: Config,
    workdir: pathlib.Path,
    source: schema.Source,
    checkpoints: store.CheckpointStore,
    allow_change: Collection[str],
    teacher: teachers.Teacher | None,
) -> tokenizers.Tokenizer:
    """Checks that settings and data continue the workdir's run; returns its tokenizer.

    The run's origin is no longer needed, and may have been deleted.
    """
    newest = checkpoints.newest()
    assert newest is not None, "the caller checks that there is a checkpoint"
    meta = run_folder.convert_meta(workdir, newest[1])
    run_folder.check_continues(workdir, config, meta, allow_change)
    run_folder.check_writable(workdir)
    tokenizer = captions.stored_tokenizer(workdir, meta)
    digest = teacher.digest if teacher is not None else ""
    if digest != meta.get("teacher_digest", ""):
        raise UserError(
            f"train.teacher={config.train.teacher} is not the teacher that "
            f"--workdir={workdir} was trained with; give that one, or a new --workdir"
        )
    _check_records(config, source, meta, allow_change)
    return tokenizer


def _check_records(
    config: Config,
    source: schema.Source,
    meta: Mapping[str, Any],
    allow_change: Collection[str],
) -> None:
    """Refuses data whose size or order differs from what the run has seen."""
    if "data.sources" in allow_change:
        return
    has_files = any(
        spec.startswith(("folder:", "webdataset:")) for spec in config.data.sources
    )
    if has_files and meta["data_order"] != sources.ORDER_VERSION:
        raise UserError(
            "the checkpoint was made with another order of records (by names as text, "
            "not in natural order), so the run would see other batches; resume with "
            "--allow_change=data.sources, or start with another --workdir"
        )
    before = meta["records"]
    if len(source) != before:
        raise UserError(
            f"{source!r} has {len(source)} records, and had {before} when the "
            "checkpoint was made; restore them, or accept another order with "
            "--allow_change=data.sources"
        )
