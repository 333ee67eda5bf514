"""Joins the processes of a command that shares its pictures out among them."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator

from absl import flags

from glide_jax.cli import output_folders


@contextlib.contextmanager
def joined(values: flags.FlagValues) -> Iterator[None]:
    """Joins the processes that the environment names, while the block runs.

    Each computes on its own devices; see `parallel.sharing`. An error or a signal in
    one ends all of them. A single process does nothing here.

    Raises:
      UserError: processes did not connect, or have other flags or versions than
        process 0.
    """
    from glide_jax.parallel import distributed

    given = {
        # As text, which is the same in every process; `values` has short names as well.
        name: str(values[name].value)
        for name in sorted(values)
        if values[name].present and name == values[name].name
    }
    with distributed.Together(given, are_apart=True):
        quiet_others(distributed.process_id())
        yield


@contextlib.contextmanager
def shared_folder(
    path: str, target: pathlib.Path | None = None
) -> Iterator[pathlib.Path]:
    """Yields the folder of --output, which all processes see.

    Args:
      path: the folder.
      target: the file in it that --output names; the folder itself if left out.
        Process 0 locks it against other programs.

    Raises:
      UserError: the folder cannot be written, another program writes to it, or it is
        not the one of process 0.
    """
    from glide_jax.parallel import distributed, sharing

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(output_folders.made_folder(path))
        if sharing.is_first():
            stack.enter_context(output_folders.alone(target or folder))
        if distributed.is_joined():
            from glide_jax.train import run_folder

            run_folder.prepare(folder, flag="--output")
        yield folder


def quiet_others(process_id: int) -> None:
    """Logs progress on the first process only; the others log warnings, numbered."""
    if process_id > 0:
        root = logging.getLogger()
        if "GLIDE_JAX_LOG" not in os.environ:
            root.setLevel(logging.WARNING)
        for handler in root.handlers:
            handler.setFormatter(logging.Formatter(f"[{process_id}] %(message)s"))
