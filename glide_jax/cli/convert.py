"""Released weights in and out, bit for bit.

    glide convert --from=openai --kind=base --input=base.pt --output=models/base
    glide convert --to=openai --input=runs/cfg/bundle --output=base.pt
    glide convert --from=openai --kind=base --config=runs/cfg/bundle --input=base.pt \\
        --output=back

Kinds: base, base-inpaint, upsample, upsample-inpaint, clip-image, clip-text. The noised
CLIP is two files and one bundle: convert both into the same folder, in any order. A .pt
file takes PyTorch (pip install -e ".[torch]"); a .safetensors file does not.

--to=openai writes base.options.json beside base.pt: the keyword arguments that
create_model_and_diffusion of glide-text2im needs. It says what neither file can carry.
--from=openai expects the released sizes; --config names a bundle (or its config.json)
whose sizes, settings and tokenizer the file has instead.
"""

from __future__ import annotations

import pathlib

from absl import flags

from glide_jax.cli import define, output_folders
from glide_jax.errors import UserError
from glide_jax.runtime import paths

ROLES = {"base": "base", "upsample": "upsampler", "clip": "clip"}


def define_flags(values: flags.FlagValues) -> None:
    """--from or --to, --kind, --config, --input, --output."""
    for name, meaning in (
        ("from", "whose file --input is, to be made a bundle"),
        ("to", "whose names --output is to have, of the bundle --input"),
    ):
        flags.DEFINE_enum(name, None, ["openai"], meaning, flag_values=values)
    add = define.Define(values)
    meaning = "--from: a bundle of the same sizes; the released sizes if left out"
    add.path("config", meaning)
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
        _from_openai(values.kind, values.config, source, target)
    elif values.config:
        raise UserError("--config is for --from=openai; a bundle has its own, drop it")
    else:
        _to_openai(values.kind or "", source, target)
    return 0


def _from_openai(
    kind: str | None, like: str | None, source: pathlib.Path, folder: pathlib.Path
) -> None:
    from glide_jax.convert import bundles, names, released

    if not kind:
        raise UserError(f"--kind is missing; use one of {', '.join(names.KINDS)}")
    config, tokenizer = released.make_config(kind), ""
    if like:
        config, tokenizer = bundles.read_settings(paths.local_path(like, "--config"))
    with output_folders.made_folder(str(folder)):
        if bundles.from_openai(kind, config, source, folder, tokenizer=tokenizer):
            role = ROLES[kind.partition("-")[0]]
            print(f"{source} is converted to {folder}; give it as --{role}={folder}")
        else:
            print(
                f"{source} is half of a noised CLIP; convert the other of clip-image "
                f"and clip-text into {folder} as well"
            )


def _to_openai(kind: str, folder: pathlib.Path, target: pathlib.Path) -> None:
    from glide_jax.convert import bundles

    with output_folders.made_folder(str(target.parent)):
        written = bundles.to_openai(folder, target, kind)
    print(f"{folder} is written to {target} under the released names of {written.kind}")
    if written.options:
        print(
            f"{written.options} holds what {written.kind} weights do not: sizes, noise "
            "schedule and respacing, as create_model_and_diffusion takes them"
        )
    for line in written.left_out:
        print(f"not in the files: {line}")
