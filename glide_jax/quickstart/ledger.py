"""What the quickstart has done so far: finished tasks, their results, their time."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any


class Ledger:
    """A JSON file of tasks; a task that has a result is not done again."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._tasks: dict[str, dict[str, Any]] = (
            json.loads(path.read_text()) if path.exists() else {}
        )

    def is_done(self, task: str) -> bool:
        """Whether the task has its result."""
        return "result" in self._tasks.get(task, {})

    def result(self, task: str) -> Any:
        """The result of a finished task."""
        return self._tasks[task]["result"]

    def finish(self, task: str, result: Any) -> None:
        """Keeps the task's result (JSON values)."""
        self._tasks.setdefault(task, {"seconds": 0.0})["result"] = result
        self._write()

    @contextlib.contextmanager
    def timed(self, task: str) -> Iterator[None]:
        """Adds the time spent inside to the task's, also when it is cut off."""
        start = time.monotonic()
        try:
            yield
        finally:
            entry = self._tasks.setdefault(task, {"seconds": 0.0})
            entry["seconds"] += time.monotonic() - start
            self._write()

    def seconds(self, task: str | None = None) -> float:
        """Time spent on one task, or on all, over every start."""
        if task is not None:
            return self._tasks[task]["seconds"]
        return sum(entry["seconds"] for entry in self._tasks.values())

    def _write(self) -> None:
        scratch = self._path.with_suffix(".tmp")
        scratch.write_text(json.dumps(self._tasks, indent=2))
        os.replace(scratch, self._path)
