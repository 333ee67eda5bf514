"""Metrics of a run: metrics.jsonl (the record), TensorBoard and W&B (views of it).

One row per line: {"step": 50, "loss": 0.31, ...}; values measured at other intervals
(validation) have separate rows. JSON has no NaN or infinity, so these are the strings
"nan", "inf" and "-inf"; `read_metrics` turns them back into floats. Skipped updates are
logged to skipped.jsonl in the same format. If a row cannot be written, the run ends and
keeps the row in its last checkpoint; a view that cannot be written is paused for a
while.

Weights & Biases is optional (log.wandb_project, `pip install -e ".[wandb]"`) and is
imported only if used. All starts of a workdir are one W&B run: its id is in wandb/.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import math
import os
import pathlib
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from glide_jax.config.defaults import Config
from glide_jax.errors import UserError
from glide_jax.runtime import files

_messages: Any = event_pb2  # its classes are created at import
# The pause before TensorBoard's files are tried again after a failed write.
BOARD_PAUSE_SECS = 60
# Waits between attempts to write a row, long enough for a disk to be remounted.
WAITS_SECS = (0.1, 0.5, 2.0, 5.0)
# Where Weights & Biases reads a key, or settings that make a key unnecessary.
_WANDB_VARIABLES = (
    "WANDB_API_KEY",
    "WANDB_IDENTITY_TOKEN_FILE",
    "WANDB_CONFIG_DIR",
    "WANDB_DIR",
)
_WANDB_FILES = ("~/.netrc", "~/_netrc", "~/.config/wandb/settings", "wandb/settings")
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsWriter:
    """Appends to the metrics of a workdir; does nothing unless `enabled`.

    Only one process of a run may be enabled. `config` determines whether metrics are
    also logged to W&B, and is shown there.

    Attributes:
      failure: one line on why a row could not be written; "" if none has failed.
      unwritten: (file, row) of that row and all later ones, for `make_up_for`.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        config: Config | None = None,
        *,
        enabled: bool = True,
    ) -> None:
        self._folder = pathlib.Path(workdir)
        self._path = self._folder / "metrics.jsonl"
        self._skipped_path = self._folder / "skipped.jsonl"
        self._enabled = enabled
        self.failure = ""
        self.unwritten: list[tuple[str, dict[str, Any]]] = []
        self._board = _Board(self._folder / "tensorboard")
        self._wandb: _WandbRun | None = None
        if not enabled:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self.truncate_after(math.inf)
        if config is not None and config.log.wandb_project:
            self._wandb = _WandbRun(self._folder, config)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds one row; values are anything that float() accepts."""
        if not self._enabled:
            return
        row = {name: float(value) for name, value in values.items()}
        self._add(self._path, {"step": step, **row})
        self._board.add(step, [summary.scalar(n, v) for n, v in row.items()])
        if self._wandb is not None:
            self._wandb.log(step, row)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows a uint8 (h, w, 3) image in TensorBoard and W&B."""
        if not self._enabled:
            return
        self._board.add(step, [summary.image(name, image, dataformats="HWC")])
        if self._wandb is not None:
            self._wandb.image(step, name, image)

    def skipped(self, step: int, record: Mapping[str, Any]) -> None:
        """Logs an update that was not applied: numbers, and lists of numbers."""
        if self._enabled:
            self._add(self._skipped_path, {"step": step, **record})

    def make_up_for(self, unwritten: Iterable[Sequence[Any]]) -> None:
        """Adds rows that an earlier start could not write."""
        if self._enabled:
            for name, row in unwritten:
                values = {key: _restored(value) for key, value in row.items()}
                self._add(self._folder / name, values)

    def sync(self) -> None:
        """Flushes all rows to disk (fsync)."""
        for path in (self._path, self._skipped_path):
            if self._enabled and path.exists():
                files.sync(path)

    def _add(self, path: pathlib.Path, row: Mapping[str, Any]) -> None:
        stored = {name: _safe(value) for name, value in row.items()}
        if not self.failure:
            try:
                _append(path, stored)
                return
            except OSError as error:
                self.failure = (
                    f"{path} cannot be written ({error.strerror}); free disk space or "
                    "repair the disk, and the same command resumes the run"
                )
        self.unwritten.append((path.name, stored))

    def last(self, name: str, *, default: float) -> float:
        """The newest value of this name in metrics.jsonl."""
        if not self._enabled or not self._path.exists():
            return default
        values = [row[name] for row in read_metrics(self._path) if name in row]
        return values[-1] if values else default

    def names(self, step: int) -> set[str]:
        """Names of the values in the rows of a step."""
        return set(self.row(step))

    def row(self, step: int) -> dict[str, float | int]:
        """All values in the rows of a step, {} if it has none."""
        if not self._path.exists():
            return {}
        rows = [row for row in read_metrics(self._path) if row["step"] == step]
        return {name: value for row in rows for name, value in row.items()}

    def truncate_after(self, step: float | int, skipped: Collection[int] = ()) -> None:
        """Removes rows of later steps: the run continues from a state of `step`.

        Records of skipped updates that will not be retried are kept.
        """
        if not self._enabled:
            return
        for path, kept in ((self._path, ()), (self._skipped_path, skipped)):
            if path.exists():
                rows, lost = _read(path)
                if lost:
                    logging.warning("%s: %d unreadable lines are removed", path, lost)
                lines = [
                    json.dumps(row) + "\n"
                    for row in rows
                    if row["step"] <= step or row["step"] in kept
                ]
                files.write_text(path, "".join(lines))
        if math.isfinite(step):
            self._board.forget_after(int(step))

    def close(self) -> None:
        """Closes TensorBoard's file and W&B; metrics.jsonl is already written."""
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None


class _Board:
    """TensorBoard's event files in a folder; each row is flushed at once.

    It uses no writer thread: tensorboardX's thread ends when the disk is full, and its
    queue, once full, blocks the caller forever.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._file: event_file_writer.EventsWriter | None = None
        self._forgotten_from: int | None = None
        self._closed_until = 0.0

    def add(self, step: int, summaries: list[Any]) -> None:
        """Adds a row; if that fails, this and the next rows are dropped for a while."""
        if time.monotonic() < self._closed_until:
            return
        try:
            for one in summaries:
                event = _messages.Event(wall_time=time.time(), step=step, summary=one)
                self._opened().write_event(event)
            self._opened().flush()
        except OSError as error:
            logging.warning(
                "%s cannot be written (%s): TensorBoard will lack the next %d seconds",
                self._folder,
                error.strerror,
                BOARD_PAUSE_SECS,
            )
            self._file = None
            self._closed_until = time.monotonic() + BOARD_PAUSE_SECS

    def forget_after(self, step: int) -> None:
        """Hides the rows of later steps."""
        self.close()
        self._forgotten_from = step + 1

    def close(self) -> None:
        """Closes the file; all of its rows are already flushed."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> event_file_writer.EventsWriter:
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            self._file = event_file_writer.EventsWriter(str(self._folder / "events"))
            if self._forgotten_from is not None:
                start = _messages.SessionLog(status=_messages.SessionLog.START)
                event = _messages.Event(step=self._forgotten_from, session_log=start)
                self._file.write_event(event)
        return self._file


def check_wandb(project: str, *, writes: bool = True) -> None:
    """Raises UserError if W&B is requested and cannot be used.

    It must be installed, and the process that `writes` to it needs a key, in the
    environment or in one of W&B's files.
    """
    if not project:
        return
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"log.wandb_project={project!r} needs Weights & Biases, which is not "
            'installed; pip install -e ".[wandb]", or leave it empty'
        )
    is_offline = os.environ.get("WANDB_MODE", "online") not in ("online", "shared")
    named = any(name in os.environ for name in _WANDB_VARIABLES)
    settings = (os.environ.get("NETRC"), *_WANDB_FILES)
    stored = any(pathlib.Path(path).expanduser().exists() for path in settings if path)
    if writes and not (is_offline or named or stored):
        raise UserError(
            f"log.wandb_project={project!r} needs a key of Weights & Biases; run "
            "`wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline"
        )


class _WandbRun:
    """The W&B run of a workdir."""

    def __init__(self, folder: pathlib.Path, config: Config) -> None:
        import wandb

        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=config.log.wandb_project,
                name=f"{config.name} {folder.name}",
                id=_stored_id(folder / "wandb" / "run_id"),
                resume="allow",
                dir=folder,
                config=dataclasses.asdict(config),
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise UserError(
                f"log.wandb_project={config.log.wandb_project!r}: "
                f"{str(error).splitlines()[0]}; run `wandb login`, or set "
                "WANDB_MODE=offline"
            ) from error
        # W&B's own step cannot decrease, but that of a resumed run does.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        self._run.log({"step": step, **row})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({"step": step, name: self._wandb.Image(image)})

    def finish(self) -> None:
        self._run.finish()


def _stored_id(path: pathlib.Path) -> str:
    """The id in this file, which is created by the first start."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(4))
    return path.read_text()


def read_metrics(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl in order; unreadable lines are skipped."""
    return [
        {name: _restored(value) for name, value in row.items()}
        for row in _read(pathlib.Path(path))[0]
    ]


def _append(path: pathlib.Path, row: Mapping[str, Any]) -> None:
    """Appends a whole line or nothing; retries for a few seconds."""
    line = (json.dumps(row) + "\n").encode()
    end = None
    for wait in (*WAITS_SECS, None):
        try:
            with path.open("ab") as file:
                end = file.tell() if end is None else end
                file.truncate(end)  # removes a partially written line
                file.write(line)
            return
        except OSError:
            if wait is None:
                raise
        time.sleep(wait)


def _safe(value: Any) -> Any:
    """A number or a list of numbers in JSON's types."""
    if isinstance(value, list):
        return [_safe(one) for one in value]
    return value if math.isfinite(value) else str(value)


def _restored(value: Any) -> Any:
    """The inverse of `_safe`."""
    if isinstance(value, list):
        return [_restored(one) for one in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _read(path: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
    """The stored rows, and the number of unreadable lines.

    A killed process may leave half a row, which is not counted, and a power loss may
    leave zeros.
    """
    *lines, last = path.read_bytes().split(b"\n")
    rows = list(map(_row, lines))
    lost = rows.count(None)
    return [row for row in (*rows, _row(last)) if row is not None], lost


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode())
        return row if isinstance(row["step"], int | float) else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
