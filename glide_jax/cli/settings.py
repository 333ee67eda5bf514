"""Print every setting of a run: name, default, meaning and values.

    glide settings
    glide settings train
    glide settings data.sources
    glide settings --markdown

Experiment files change some of these defaults; a dry run of `glide train` prints the
values of a run.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import define
from glide_jax.errors import UserError


def define_flags(values: flags.FlagValues) -> None:
    """Defines --markdown."""
    meaning = "print docs/settings.md"
    define.Define(values).switch("markdown", meaning, default=False)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Prints the settings whose names begin with the argument, or all."""
    from glide_jax.config import reference

    if len(arguments) > 1:
        raise UserError(
            f"{len(arguments)} names given; give at most one, e.g. glide settings train"
        )
    found = reference.sections(*arguments)
    show = reference.to_markdown if values.markdown else reference.to_text
    print(show(found))
    return 0
