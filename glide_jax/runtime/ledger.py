"""Stores the finished tasks of a command of many tasks, with results and times."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from glide_jax.errors import UserError
from glide_jax.runtime import files


class Ledger:
    """A JSON file of tasks; a task with a result is not repeated."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._tasks: dict[str, dict[str, Any]] = _read(path) if path.exists() else {}

    def is_done(self, task: str) -> bool:
        """Whether a task has a result."""
        return "result" in self._tasks.get(task, {})

    def result(self, task: str) -> Any:
        """Returns the result of a finished task."""
        return self._tasks[task]["result"]

    def finish(self, task: str, result: Any) -> None:
        """Stores the result of a task (JSON values)."""
        self._tasks.setdefault(task, {"seconds": 0.0})["result"] = result
        self._write()

    def keep_setting(self, name: str, value: float | int | str) -> None:
        """Stores a setting of the first start.

        Raises:
          UserError: a later start has another value.
        """
        if self.is_done(name) and self.result(name) != value:
            raise UserError(
                f"--{name}={value} differs from {self.result(name)}, with which "
                f"{self._path.parent} was started; use that, or another --output"
            )
        self.finish(name, value)

    @contextlib.contextmanager
    def timed(self, task: str) -> Iterator[None]:
        """Adds the time of the block to the task's, also if the block raises."""
        start = time.monotonic()
        try:
            yield
        finally:
            entry = self._tasks.setdefault(task, {"seconds": 0.0})
            entry["seconds"] += time.monotonic() - start
            self._write()

    def seconds(self, task: str | None = None) -> float:
        """Returns the seconds of one task, or of all, over all starts."""
        if task is not None:
            return self._tasks[task]["seconds"]
        return sum(entry["seconds"] for entry in self._tasks.values())

    def _write(self) -> None:
        files.write_json(self._path, self._tasks)


def _read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    try:
        tasks = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}); remove it to start again"
        ) from error
    if not isinstance(tasks, dict) or not all(
        isinstance(entry, dict) and "seconds" in entry for entry in tasks.values()
    ):
        raise UserError(f"{path} is not a list of tasks; remove it to start again")
    return tasks
