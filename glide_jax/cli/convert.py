"""Released weights in and out, bit for bit.

    glide convert --from=openai --kind=base --input=base.pt --output=models/base
    glide convert --to=openai --input=runs/cfg/bundle --output=base.pt

Kinds: base, base-inpaint, upsample, upsample-inpaint, clip-image, clip-text. The noised
CLIP is two files and one bundle: convert both into the same folder, in any order. A .pt
file takes PyTorch (pip install -e ".[torch]"); a .safetensors file does not.
"""

from __future__ import annotations

import pathlib

from absl import flags

from glide_jax.cli import define, output
from glide_jax.errors import UserError

ROLES = {"base": "base", "upsample": "upsampler", "clip": "clip"}


def define_flags(values: flags.FlagValues) -> None:
    """--from or --to, --kind, --input, --output."""
    for name, meaning in (
        ("from", "whose file --input is, to be made a bundle"),
        ("to", "whose names --output is to have, of the bundle --input"),
    ):
        flags.DEFINE_enum(name, None, ["openai"], meaning, flag_values=values)
    add = define.Define(values)
    add.text("kind", "what the file holds, e.g. base; with --to: a U-Net's own")
    add.path("input", "--from: a .pt or .safetensors file; --to: a bundle's folder")
    add.path("output", "--from: a new folder; --to: a new .pt or .safetensors file")


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Converts the one file or bundle given."""
    if arguments:
        raise UserError(f"{arguments[0]!r} is no flag; name it --input={arguments[0]}")
    inwards = values["from"].value
    if bool(inwards) == bool(values.to):
        raise UserError("give either --from=openai or --to=openai")
    for name in ("input", "output"):
        if not values[name].value:
            raise UserError(f"--{name} is missing; see `glide convert --help`")
    source, target = pathlib.Path(values.input), pathlib.Path(values.output)
    if inwards:
        _from_openai(values.kind, source, target)
    else:
        _to_openai(values.kind or "", source, target)
    return 0


def _from_openai(kind: str | None, source: pathlib.Path, folder: pathlib.Path) -> None:
    from glide_jax.convert import bundles, names, released

    if not kind:
        raise UserError(f"--kind is missing; use one of {', '.join(names.KINDS)}")
    config = released.config(kind)
    with output.made_folder(str(folder)):
        if bundles.from_openai(kind, config, source, folder):
            role = ROLES[kind.partition("-")[0]]
            print(f"{source} is converted to {folder}; give it as --{role}={folder}")
        else:
            print(
                f"{source} is half of a noised CLIP; convert the other of clip-image "
                f"and clip-text into {folder} as well"
            )


def _to_openai(kind: str, folder: pathlib.Path, target: pathlib.Path) -> None:
    from glide_jax.convert import bundles

    with output.made_folder(str(target.parent)):
        kind = bundles.to_openai(folder, target, kind)
    print(f"{folder} is written to {target} under the released names of {kind}")
