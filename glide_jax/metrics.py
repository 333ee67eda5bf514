"""What a run tells about itself: metrics.jsonl (the truth), TensorBoard, W&B (views).

One row a line: {"step": 50, "loss": 0.31, ...}; what is measured at its own intervals
(validation) has rows of its own. JSON has no NaN or infinity, so these are the strings
"nan", "inf" and "-inf"; `read_metrics` turns them back into floats. Updates that were
skipped are told of in skipped.jsonl, in the same way. A row that cannot be written ends
the run, which keeps it in its last checkpoint; a view that cannot be is left out for a
while.

Weights & Biases is an option (log.wandb_project, `pip install -e ".[wandb]"`) and is
imported only then. All starts of a workdir are one run there: its id lies in wandb/.
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

# Before TensorBoard's files are tried again, once they could not be written.
BOARD_PAUSE_SECS = 60
# Between attempts to write a row: rides out a disk that is mounted again.
WAITS_SECS = (0.1, 0.5, 2.0, 5.0)
# Where Weights & Biases looks for a key, or for settings that make one needless.
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

    Only one process of a run may be enabled. `config` says whether W&B gets them too,
    and is shown there.

    Attributes:
      failure: a row cannot be written, told in one line; "" while all could be.
      unwritten: (file, row) of that one and all after it, for `make_up_for`.
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
        """Adds one row; values are anything that float() takes."""
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
        """Tells of an update that was not made: numbers, and lists of numbers."""
        if self._enabled:
            self._add(self._skipped_path, {"step": step, **record})

    def make_up_for(self, unwritten: Iterable[Sequence[Any]]) -> None:
        """Adds rows that an earlier start could not write."""
        if self._enabled:
            for name, row in unwritten:
                values = {key: _restored(value) for key, value in row.items()}
                self._add(self._folder / name, values)

    def sync(self) -> None:
        """Returns once all rows outlast a loss of power."""
        for path in (self._path, self._skipped_path):
            if self._enabled:
                sync(path)

    def _add(self, path: pathlib.Path, row: Mapping[str, Any]) -> None:
        stored = {name: _safe(value) for name, value in row.items()}
        if not self.failure:
            try:
                _append(path, stored)
                return
            except OSError as error:
                self.failure = (
                    f"{path} cannot be written ({error.strerror}); make room or mend "
                    "its disk, and the same command goes on"
                )
        self.unwritten.append((path.name, stored))

    def last(self, name: str, *, default: float) -> float:
        """The newest value of this name in metrics.jsonl."""
        if not self._enabled or not self._path.exists():
            return default
        values = [row[name] for row in read_metrics(self._path) if name in row]
        return values[-1] if values else default

    def names(self, step: int) -> set[str]:
        """What the rows of a step tell of."""
        return set(self.row(step))

    def row(self, step: int) -> dict[str, float | int]:
        """All that the rows of a step say, {} without any."""
        if not self._path.exists():
            return {}
        rows = [row for row in read_metrics(self._path) if row["step"] == step]
        return {name: value for row in rows for name, value in row.items()}

    def truncate_after(
        self, step: float | int, passed_over: Collection[int] = ()
    ) -> None:
        """Forgets rows of later steps: the run goes on from a state of `step`.

        Why updates were skipped that will not be tried again is not forgotten.
        """
        if not self._enabled:
            return
        for path, kept in ((self._path, ()), (self._skipped_path, passed_over)):
            if path.exists():
                rows, lost = _read(path)
                if lost:
                    logging.warning(
                        "%s: lines that cannot be read are dropped: %d", path, lost
                    )
                lines = [
                    json.dumps(row) + "\n"
                    for row in rows
                    if row["step"] <= step or row["step"] in kept
                ]
                scratch = path.with_suffix(".tmp")
                scratch.write_text("".join(lines))
                sync(scratch)
                os.replace(scratch, path)
        if math.isfinite(step):
            self._board.forget_after(int(step))

    def close(self) -> None:
        """Ends TensorBoard's file and W&B; rows of metrics.jsonl are written."""
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None


class _Board:
    """TensorBoard's event files in a folder, each row on its way to the disk at once.

    Without a thread of its own: tensorboardX's ends when the disk is full, and its
    queue, once full as well, holds up whoever adds to it for good.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._file: event_file_writer.EventsWriter | None = None
        self._forgotten_from: int | None = None
        self._closed_until = 0.0

    def add(self, step: int, summaries: list[Any]) -> None:
        """Adds a row; where that cannot be, this and the next ones are left out."""
        if time.monotonic() < self._closed_until:
            return
        try:
            for one in summaries:
                event = event_pb2.Event(wall_time=time.time(), step=step, summary=one)
                self._opened().write_event(event)
            self._opened().flush()
        except OSError as error:
            logging.warning(
                "%s cannot be written (%s): TensorBoard lacks what comes in the next "
                "%d seconds",
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
        """Ends the file; every row in it is on its way to the disk already."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> event_file_writer.EventsWriter:
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            self._file = event_file_writer.EventsWriter(str(self._folder / "events"))
            if self._forgotten_from is not None:
                start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                event = event_pb2.Event(step=self._forgotten_from, session_log=start)
                self._file.write_event(event)
        return self._file


def check_wandb(project: str, *, writes: bool = True) -> None:
    """Raises UserError where W&B is asked for and cannot be used.

    That is where it is not installed or, of the process that `writes` to it, where
    there is certainly no key: neither in the environment nor in a file of W&B's.
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
    files = (os.environ.get("NETRC"), *_WANDB_FILES)
    stored = any(pathlib.Path(path).expanduser().exists() for path in files if path)
    if writes and not (is_offline or named or stored):
        raise UserError(
            f"log.wandb_project={project!r}: there is no key of Weights & Biases here; "
            "`wandb login` first, or set WANDB_API_KEY or WANDB_MODE=offline"
        )


class _WandbRun:
    """The run at W&B that belongs to a workdir."""

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
                f"{str(error).splitlines()[0]}; `wandb login` first, or set "
                "WANDB_MODE=offline"
            ) from error
        # W&B's own step may not go back, as that of a resumed run does.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        self._run.log({"step": step, **row})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({"step": step, name: self._wandb.Image(image)})

    def finish(self) -> None:
        self._run.finish()


def _stored_id(path: pathlib.Path) -> str:
    """The id in this file, which is made with the first start."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(4))
    return path.read_text()


def read_metrics(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl in order; what cannot be read is left out."""
    return [
        {name: _restored(value) for name, value in row.items()}
        for row in _read(pathlib.Path(path))[0]
    ]


def sync(path: pathlib.Path) -> None:
    """Returns once what is in a file, if there is one, outlasts a loss of power."""
    if path.exists():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _append(path: pathlib.Path, row: Mapping[str, Any]) -> None:
    """Adds a line, or nothing; tries for a few seconds."""
    line = (json.dumps(row) + "\n").encode()
    end = None
    for wait in (*WAITS_SECS, None):
        try:
            with path.open("ab") as file:
                end = file.tell() if end is None else end
                file.truncate(end)  # half of it may be there
                file.write(line)
            return
        except OSError:
            if wait is None:
                raise
        time.sleep(wait)


def _safe(value: Any) -> Any:
    """A number or a list of numbers as JSON has them."""
    if isinstance(value, list):
        return [_safe(one) for one in value]
    return value if math.isfinite(value) else str(value)


def _restored(value: Any) -> Any:
    """What `_safe` was given."""
    if isinstance(value, list):
        return [_restored(one) for one in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _read(path: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
    """Rows as stored, and how many lines are none.

    A killed process may have left half a row, which is not counted, and a loss of power
    zeros.
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
