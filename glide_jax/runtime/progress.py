"""Shows a loop's progress and the time left: a bar, or periodic lines in logs."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from typing import TextIO

import tqdm
from tqdm.contrib import logging as tqdm_logging

LOG_EVERY_SECS = 30.0


class ProgressBar:
    """A bar on a terminal; elsewhere one line every LOG_EVERY_SECS, to keep logs short.

    A context manager; log records within it are printed above the bar. `initial` is
    where a resumed loop starts. The rate and the time left are measured from the first
    update, because the first step compiles its program. A bar that is not `enabled`
    writes nothing.
    """

    def __init__(
        self,
        total: int,
        description: str,
        *,
        initial: int = 0,
        enabled: bool = True,
        stream: TextIO | io.TextIOBase | None = None,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._redirection = contextlib.ExitStack()
        self._start_secs = self._last_line_secs = time.monotonic()
        self._is_first = True
        self._first_secs = 0.0  # until the first update: it compiles
        self._shown = -1  # the count in the last line
        self._count = initial
        self._bar = tqdm.tqdm(
            total=total,
            desc=description,
            initial=initial,
            disable=not enabled,
            file=self._stream if self._is_terminal else _Nowhere(),
            dynamic_ncols=self._is_terminal,
        )

    def __enter__(self) -> ProgressBar:
        if self._is_terminal:
            self._redirection.enter_context(tqdm_logging.logging_redirect_tqdm())
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def note(self, **fields: float | int | str) -> None:
        """Shows fields (loss=0.3) after the bar from now on."""
        self._bar.set_postfix(fields, refresh=False)

    def update(self, n: float | int = 1) -> None:
        """Advances the count by n, which may be a fraction."""
        self._count += n
        # Shown with one decimal, or none for whole numbers.
        count = round(self._count, 1)
        self._bar.n = int(count) if count == int(count) else count
        self._bar.update(0)
        now = time.monotonic()
        if self._is_first and n:
            self._is_first = False
            self._first_secs = now - self._start_secs
            self._bar.initial = self._bar.n
            self._bar.start_t = self._bar.last_print_t = time.time()
        if self._bar.disable or self._is_terminal:
            return
        if now - self._last_line_secs >= LOG_EVERY_SECS:
            self._last_line_secs = now
            self._write_line()

    def close(self) -> None:
        """Finishes the bar or writes one last line; later calls do nothing."""
        is_shown = self._shown == self._bar.n and self._bar.n > 0
        if not self._bar.disable and not self._is_terminal and not is_shown:
            self._write_line()
        self._bar.close()
        self._redirection.close()

    def _write_line(self) -> None:
        bar = self._bar.format_dict
        self._shown = self._bar.n
        done, total = bar["n"], bar["total"]
        counted = done - bar["initial"]
        rate = counted / max(bar["elapsed"], 1e-9)
        if done >= total:
            # A rate that leaves out the first update would not agree with the time.
            end = f"{time.monotonic() - self._start_secs:.1f} s"
            if self._first_secs >= 1:
                end += f", {self._first_secs:.1f} s of them up to the first"
        else:
            end = f"{(total - done) / rate:.0f} s left" if counted else "just started"
        parts = [
            f"{self._bar.desc.removesuffix(': ')}: {done}/{total}",
            f"{100 * done / max(total, 1):.0f}%",
            *([f"{rate:.3g}/s"] if counted and done < total else []),
            end,
            *([bar["postfix"]] if bar["postfix"] else []),
        ]
        self._stream.write(", ".join(parts) + "\n")
        self._stream.flush()


class _Nowhere:
    """A file that discards writes: tqdm keeps count and rate, but draws nothing."""

    def write(self, text: str) -> None:
        del text

    def flush(self) -> None:
        pass
