"""`glide evaluate --curves`: a guidance sweep as GLIDE's figure 6 and as a table."""

from __future__ import annotations

import logging
import pathlib
import shlex
from typing import Any

from absl import flags

from glide_jax.errors import UserError


def check_alone(values: flags.FlagValues) -> None:
    """Raises UserError for a flag that goes with drawing pictures, not curves."""
    given = [name for name in values if values[name].present]
    others = [name for name in given if name not in ("curves", "output")]
    if others:
        raise UserError(
            f"--curves draws runs that are finished and reads no --{others[0]}; leave "
            "it out"
        )


def run(source: str, output: str | None) -> int:
    """Draws `output`, a PNG, and writes the table beside it.

    Args:
      source: The folder of a sweep, or a file of its rows.
      output: Where to draw.

    Raises:
      UserError: Neither of the two, rows that are not comparable, or a place that
          cannot be written.
    """
    from glide_jax.sweep import guidance_curves, guidance_plots, result

    if not output or not output.endswith(".png"):
        raise UserError(
            f"--output={output or ''} is to be a picture for --curves, e.g. "
            "--output=curves.png"
        )
    rows = _rows(pathlib.Path(source))
    try:
        shown = guidance_curves.of_rows(rows)
    except UserError as error:
        raise UserError(f"--curves={source}: {error}") from error
    words = ["glide", "evaluate", f"--curves={source}", f"--output={output}"]
    command = shlex.join(result.without_machine(words))
    picture = pathlib.Path(output)
    page = picture.with_suffix(".md")
    try:
        _check_page(page)
        picture.parent.mkdir(parents=True, exist_ok=True)
        guidance_plots.draw(shown, picture, command)
        text = guidance_curves.to_markdown(shown, command)
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--output={output} cannot be written ({error.strerror}); name another"
        ) from error
    print(f"{picture}\n{page}")
    return 0


def _check_page(page: pathlib.Path) -> None:
    """The table lies beside the picture, but in no file of the user's own."""
    if page.exists() and not page.read_bytes().startswith(b"| guidance |"):
        raise UserError(
            f"--output would write its table over {page}, which is another page; name "
            "another picture"
        )


def _rows(source: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of a file, or of a folder's finished runs."""
    from glide_jax.sweep import result, run_list

    if source.suffix == ".jsonl":
        return result.read_rows(source)
    plan = run_list.read(source)
    rows = result.make_rows(plan, source)
    if len(rows) < len(plan.runs):
        logging.warning(
            "%d of %d runs are finished; the others are not drawn",
            *(len(rows), len(plan.runs)),
        )
    return rows
