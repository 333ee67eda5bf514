"""Turn a trained workdir into a bundle: what `glide sample` reads.

glide export runs/base --output=runs/base/bundle
glide export runs/base --output=out/base --ema=0.999 --dtype=bfloat16
"""

from __future__ import annotations

import pathlib

from absl import flags

from glide_jax.errors import UserError


def define_flags(values: flags.FlagValues) -> None:
    """--output, --ema, --dtype."""
    flags.DEFINE_string(
        "output", None, "the bundle's folder; WORKDIR/bundle", flag_values=values
    )
    flags.DEFINE_string(
        "ema", "", "which average, e.g. 0.999; the first one", flag_values=values
    )
    flags.DEFINE_enum(
        "dtype",
        "float32",
        ["float32", "bfloat16"],
        "of the stored weights",
        flag_values=values,
    )


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Writes the bundle of the one workdir given."""
    from glide_jax.train import export

    if len(arguments) != 1:
        raise UserError(
            f"{len(arguments)} workdirs given; name one, e.g. glide export runs/base"
        )
    workdir = pathlib.Path(arguments[0])
    output = pathlib.Path(values.output) if values.output else workdir / "bundle"
    step = export.export(workdir, output, decay=values.ema, dtype=values.dtype)
    print(f"step {step} of {workdir} is exported to {output}")
    return 0
