"""Print a chip's compiler flags, for a shell to set before it starts `glide train`.

    glide flags --chip=v5p --slices=2
    eval "$(glide flags --chip=h100)"

Flags that are already set follow these, so they take precedence. The reason for each
flag is in glide_jax/parallel/compiler.py. The launchers in launch/ set the flags.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import define
from glide_jax.errors import UserError
from glide_jax.parallel import compiler


def define_flags(values: flags.FlagValues) -> None:
    """Defines --chip and --slices."""
    add = define.Define(values)
    add.choice("chip", list(compiler.CHIPS), "kind of chip of the run, e.g. v5p")
    meaning = "number of TPU slices, connected by DCN, e.g. 2"
    add.whole("slices", meaning, 1, least=1)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Prints one `export` per variable."""
    if arguments or values.chip is None:
        given = f"{arguments[0]!r} is not a flag" if arguments else "--chip is missing"
        raise UserError(f"{given}; use e.g. glide flags --chip=v5p --slices=2")
    if values.slices > 1 and values.chip in ("cpu", *compiler.GPUS):
        raise UserError(
            f"--slices={values.slices}: --chip={values.chip} has no slices; leave "
            "--slices out"
        )
    variables = compiler.flags_for(values.chip, values.slices)
    if not variables:
        print(f"# {values.chip} needs no flags")
    for name, settings in variables.items():
        print(f'export {name}="{settings} ${{{name}:-}}"')
    return 0
