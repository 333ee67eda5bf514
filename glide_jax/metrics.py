"""What a run tells about itself: metrics.jsonl (the truth) and TensorBoard (a view).

One row a step: {"step": 50, "loss": 0.31, ...}. JSON has no NaN or infinity, so these
are the strings "nan", "inf" and "-inf"; `read_metrics` turns them back into floats.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorboardX

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsWriter:
    """Appends to the metrics of a workdir; does nothing unless `enabled`.

    Only one process of a run may be enabled.
    """

    def __init__(self, workdir: str | pathlib.Path, *, enabled: bool = True) -> None:
        self._folder = pathlib.Path(workdir)
        self._path = self._folder / "metrics.jsonl"
        self._enabled = enabled
        self._purge_step: int | None = None
        self._open_board: tensorboardX.SummaryWriter | None = None
        if enabled:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.truncate_after(math.inf)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds one row; values are anything that float() takes."""
        if not self._enabled:
            return
        row = {name: float(value) for name, value in values.items()}
        safe = {n: v if math.isfinite(v) else str(v) for n, v in row.items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **safe}) + "\n")
        for name, value in row.items():
            self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows a uint8 (h, w, 3) image in TensorBoard."""
        if self._enabled:
            self._board.add_image(name, image, step, dataformats="HWC")
            self._board.flush()

    def truncate_after(self, step: float | int) -> None:
        """Forgets rows of later steps: the run goes on from a state of `step`."""
        if not self._enabled or not self._path.exists():
            return
        rows = [line for line in _whole_lines(self._path) if _step(line) <= step]
        scratch = self._path.with_suffix(".tmp")
        scratch.write_text("".join(rows))
        os.replace(scratch, self._path)
        if math.isfinite(step):
            self.close()
            self._purge_step = int(step) + 1

    def close(self) -> None:
        """Flushes TensorBoard; rows of metrics.jsonl are on disk already."""
        if self._open_board is not None:
            self._open_board.close()
            self._open_board = None

    @property
    def _board(self) -> tensorboardX.SummaryWriter:
        if self._open_board is None:
            self._open_board = tensorboardX.SummaryWriter(
                str(self._folder / "tensorboard"), purge_step=self._purge_step
            )
        return self._open_board


def read_metrics(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl in order; a last row cut short is left out."""
    return [
        {name: _NOT_FINITE.get(v, v) for name, v in json.loads(line).items()}
        for line in _whole_lines(pathlib.Path(path))
    ]


def _whole_lines(path: pathlib.Path) -> list[str]:
    """Lines with their newline; a killed process may have left half of one more."""
    lines = path.read_text().splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def _step(line: str) -> int:
    return json.loads(line)["step"]
