"""Print a chip's compiler flags, for a shell to set before it starts `glide train`.

    glide flags --chip=v5p --slices=2
    eval "$(glide flags --chip=h100)"

Flags that are set already come after these, so they win. The reason for each flag is in
glide_jax/parallel/compiler.py; the launchers under launch/ set them by themselves.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import define
from glide_jax.errors import UserError
from glide_jax.parallel import compiler


def define_flags(values: flags.FlagValues) -> None:
    """--chip and --slices."""
    add = define.Define(values)
    add.choice("chip", list(compiler.CHIPS), "what the run computes on, e.g. v5p")
    meaning = "TPU slices that the data centre's network joins, e.g. 2"
    add.whole("slices", meaning, 1, least=1)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Prints one `export` for each variable."""
    if arguments or values.chip is None:
        given = f"{arguments[0]!r} is no flag" if arguments else "--chip is missing"
        raise UserError(f"{given}; use e.g. glide flags --chip=v5p --slices=2")
    if values.slices > 1 and values.chip in ("cpu", *compiler.GPUS):
        raise UserError(
            f"--slices={values.slices}: --chip={values.chip} has no slices; leave it"
            " out"
        )
    found = compiler.flags_for(values.chip, values.slices)
    if not found:
        print(f"# {values.chip} needs no flags")
    for name, settings in found.items():
        print(f'export {name}="{settings} ${{{name}:-}}"')
    return 0
