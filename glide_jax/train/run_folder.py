"""The folder of a run, and the checks that a start continues the same run.

    config.json   tokenizer/   manifest.json   teacher.json (of a student)
    checkpoints/   metrics.jsonl   tensorboard/   grids/

The configuration of the last start and the tokenizer are stored once and listed in
manifest.json; every checkpoint contains the settings that it was made with.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import pathlib
import secrets
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax

from glide_jax.checkpoint import kv_exchange, manifest
from glide_jax.config import defaults, resolve
from glide_jax.config.defaults import Config, TrainConfig
from glide_jax.config.setting import ARRAYS, FREE, HISTORY
from glide_jax.errors import NoCheckpointError, UserError
from glide_jax.parallel import distributed, sharing
from glide_jax.runtime import files, locks, metric_writers, mirrors
from glide_jax.text import tokenizers

# Consecutive failed checkpoint writes that end a run, which would lose its work.
MAX_FAILED_WRITES = 3
SEEN_WITHIN_SECS = sharing.SEEN_WITHIN_SECS
# Errors of the operating system when a file cannot grow.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEACHER = "teacher.json"
SHARED_REMEDY = "{} must be one folder on a disk that all hosts share"


def checkpoints(workdir: pathlib.Path) -> pathlib.Path:
    """The folder of a run's checkpoints."""
    return workdir / "checkpoints"


@contextlib.contextmanager
def needs_room(workdir: pathlib.Path) -> Iterator[None]:
    """Raises a one-line error if the block fails because the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(
            f"--workdir={workdir} cannot be written ({error.strerror}); free disk "
            "space, and the same command resumes from the newest checkpoint"
        ) from error


def check_writable(workdir: pathlib.Path, *, flag: str = "--workdir") -> None:
    """Raises UserError if the folder, or its nearest parent, is not writable."""
    folder = workdir.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        reason = errno.EACCES if folder.is_dir() else errno.ENOTDIR
        raise _not_writable(flag, workdir, OSError(reason, os.strerror(reason)))


@contextlib.contextmanager
def sole_writer(
    workdir: pathlib.Path, config: TrainConfig, check_stop: Callable[[], None]
) -> Iterator[Callable[[], None]]:
    """Locks the folder against other runs during the block; process 0 does so for all.

    Yields a check, to be called before every write, that raises UserError if another
    run has taken the folder over.

    Args:
      workdir: created if missing.
      config: another run, asked to stop, may take its grace_secs to end.
      check_stop: called while waiting; may raise to end the wait. For one of several
        processes it must not raise: the wait is as long as another run may take.

    Raises:
      UserError: another run writes to the folder, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        check: Callable[[], None] = _nothing
        if distributed.process_id() == 0:
            check_writable(workdir)
            lock = locks.FolderLock(
                workdir,
                flag="--workdir",
                wait_secs=config.grace_secs,
                check_stop=check_stop,
            )
            try:
                stack.enter_context(lock)
                in_store = mirrors.claim(workdir, config.grace_secs, check_stop)
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise
                raise _not_writable("--workdir", workdir, error) from error

            def check() -> None:
                lock.check()
                in_store()

        distributed.wait_for_all("sole writer")
        yield check


def _nothing() -> None:
    pass


def _not_writable(flag: str, folder: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"{flag}={folder} cannot be written ({error.strerror}); "
        "name a folder that you may write"
    )


def prepare(
    workdir: pathlib.Path, *, flag: str = "--workdir", may_be_apart: bool = False
) -> None:
    """Creates the folder given by `flag`; one process does so for all.

    Args:
      workdir: the folder.
      flag: its name in errors.
      may_be_apart: whether every host may have its own mirror of a place in a store.

    Raises:
      UserError: the folder cannot be written, or another process sees another one.
    """
    if mirrors.is_in_store(workdir) and _has_separate_mirrors(workdir):
        if not may_be_apart:
            raise UserError(
                f"{flag}={workdir} is a mirror of an object store that each host has "
                "for itself, and this command needs one folder for all; mount the "
                "bucket, or use one host"
            )
        return
    probe = workdir / ".writable"

    def write() -> bytes:
        mark = secrets.token_hex(8)
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            files.write_text(probe, mark)
        except OSError as error:
            raise _not_writable(flag, workdir, error) from error
        return mark.encode()

    mark = distributed.from_first("workdir", write).decode()
    if not _wait_for_text(probe, mark):
        raise UserError(
            f"{flag}={workdir} is a different folder on {socket.gethostname()} than on "
            f"the host of process 0; {SHARED_REMEDY.format(flag)}"
        )
    distributed.wait_for_all("workdir seen")
    if jax.process_index() == 0:
        probe.unlink()


def _has_separate_mirrors(workdir: pathlib.Path) -> bool:
    """Whether each host has its own mirror of the folder, as hosts have their disks.

    Each process leaves a mark; those that see each other's share a folder.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    channel = kv_exchange.KvExchange("mirrors")
    own = f".host.{secrets.token_hex(8)}.tmp"
    (workdir / own).touch()
    marks = channel.exchange(own)
    seen = [(workdir / mark).exists() for mark in marks]
    channel.exchange("")  # all have looked
    (workdir / own).unlink()
    if all(seen):
        return False
    mirrors.separate(workdir, is_leader=seen.index(True) == channel.index)
    logging.info(
        "this host uploads its parts of each checkpoint (%d of %d processes)",
        *(sum(seen), len(seen)),
    )
    return True


def _wait_for_text(path: pathlib.Path, text: str) -> bool:
    """Whether the file contains the text within the delay of a shared disk."""
    deadline = time.monotonic() + SEEN_WITHIN_SECS
    while not path.is_file() or path.read_text() != text:
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def check_begins(workdir: pathlib.Path, config: Config) -> None:
    """Raises NoCheckpointError if the folder's run has lost its checkpoints.

    Its metrics show more steps than any run makes without a checkpoint.
    """
    path = workdir / "metrics.jsonl"
    rows = metric_writers.read_metrics(path) if path.exists() else []
    made = max((row["step"] for row in rows), default=0)
    stored = load_config(workdir) if (workdir / "config.json").exists() else config
    # The first save creates the folder, even if all saves fail.
    failed = MAX_FAILED_WRITES if checkpoints(workdir).exists() else 0
    if made > (failed + 1) * stored.checkpoint.every_steps:
        raise NoCheckpointError(
            f"{path} has rows up to step {made}, but {checkpoints(workdir)} has no "
            "checkpoint; mount its disk, restore them, or start with another --workdir"
        )


def check_continues(
    workdir: pathlib.Path,
    config: Config,
    meta: Mapping[str, Any],
    allow_change: Collection[str] = (),
) -> None:
    """Raises UserError if the folder's checkpoints belong to another run.

    Settings named in `allow_change`, by their dotted path or that of a section, may
    differ from those in `meta`, the metadata of the newest checkpoint.
    """
    stored = _config_of(workdir, meta)
    differences = resolve.differences(stored, config)
    changed = refused_changes(stored, config, allow_change)
    if changed:
        keys = ",".join(line.partition(":")[0] for line in changed)
        remedy = "a new folder, or the settings it was made with"
        if not any(_is_shaping(line, config) for line in changed):
            remedy += f", or --allow_change={keys}"
        raise UserError(
            f"--workdir={workdir} holds another run: {'; '.join(changed)}; use {remedy}"
        )
    if differences:
        logging.info("settings changed since the last start: %s", differences)


def convert_meta(workdir: pathlib.Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a checkpoint with the fields that format 1 may lack.

    Format 1 could store the settings and the skipped batches of a run once, beside its
    checkpoints: in config.json and passed_over.json.

    Raises:
      UserError: one of these files is damaged.
    """
    complete = {"data_order": 1, "window": {}, "bad_records": {}, **meta}
    if "config" not in meta:
        complete["config"] = json.loads(resolve.to_json(load_config(workdir)))
    if "passed_over" not in meta:
        path = workdir / "passed_over.json"
        text = path.read_text() if path.exists() else '{"rewinds": 0, "steps": []}'
        try:
            found = json.loads(text)
            complete["passed_over"] = {key: found[key] for key in ("rewinds", "steps")}
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path} does not list the skipped steps of the run; restore it, or "
                "remove it to train on their batches again"
            ) from error
    return complete


def differing(before: Config, after: Config) -> list[str]:
    """Differences that make `after` a different run, one line each."""
    lines = resolve.differences(before, after)
    return [line for line in lines if _is_identity(line, after)]


def refused_changes(
    before: Config, after: Config, allow_change: Collection[str]
) -> list[str]:
    """The lines of `differing` that `allow_change` does not name."""
    return [
        line for line in differing(before, after) if not _is_allowed(line, allow_change)
    ]


def _is_identity(difference: str, config: Config) -> bool:
    path = difference.partition(":")[0]
    if path == "data.tokenizer" and not config.data.tokenizer:
        return False  # none is requested, so the run keeps its own
    return defaults.rules()[path].on_resume != FREE


def _is_shaping(difference: str, config: Config) -> bool:
    """Whether the checkpoints have other arrays than `config` needs."""
    on_resume = defaults.rules()[difference.partition(":")[0]].on_resume
    has_history = config.train.timestep_sampling == "loss_second_moment"
    return on_resume == ARRAYS or (on_resume == HISTORY and has_history)


def _is_allowed(difference: str, allow_change: Collection[str]) -> bool:
    path = difference.partition(":")[0]
    return any(path == key or path.startswith(f"{key}.") for key in allow_change)


def save_config(workdir: pathlib.Path, config: Config) -> None:
    """Writes config.json, and the manifest of the stored files; on one process.

    The manifest lists drafts under their final names, so that `glide verify` finds a
    complete folder wherever this is interrupted; see `manifest.DRAFT`.
    """
    if jax.process_index() == 0:
        draft = workdir / f"config.json{manifest.DRAFT}"
        files.write_text(draft, resolve.to_json(config))
        names = [f"tokenizer/{path.name}" for path in workdir.glob("tokenizer/*")]
        names += [path.name for path in workdir.glob(TEACHER)]
        facts = manifest.hash_files(workdir, [draft.name, *sorted(names)])
        facts["config.json"] = facts.pop(draft.name)
        manifest.write(
            workdir, manifest.Manifest(0, manifest.now(), facts, leaves={}, metrics={})
        )
        files.rename(draft, workdir / "config.json")
        files.sync(workdir)


def save_tokenizer(workdir: pathlib.Path, tokenizer: tokenizers.Tokenizer) -> None:
    """Writes the tokenizer's folder; one process does so for all."""
    if jax.process_index() == 0:
        tokenizers.save(tokenizer, workdir / "tokenizer")


def save_teacher(workdir: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Writes teacher.json, which a student's bundle carries; on one process."""
    if jax.process_index() == 0:
        files.write_json(workdir / TEACHER, dict(facts))


def load_config(workdir: pathlib.Path) -> Config:
    """The configuration of a run."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(
            f"{workdir} has no config.json, so it is not a workdir of `glide train`; "
            "name the folder that was given as --workdir"
        )
    try:
        return resolve.from_json(path.read_text())
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); restore it") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _config_of(workdir: pathlib.Path, meta: Mapping[str, Any]) -> Config:
    """The configuration that a checkpoint was made with."""
    try:
        return resolve.from_json(json.dumps(meta["config"]))
    except UserError as error:
        raise UserError(f"the newest checkpoint in {workdir}: {error}") from error


def load_tokenizer(workdir: pathlib.Path) -> tokenizers.Tokenizer:
    """The tokenizer of a run."""
    return tokenizers.load(workdir / "tokenizer")
