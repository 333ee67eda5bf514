"""Convert released weights to bundles, and bundles to released weights, bit for bit.

    glide convert --from=openai --kind=base --input=base.pt --output=models/base
    glide convert --to=openai --input=runs/cfg/bundle --output=base.pt
    glide convert --from=openai --kind=base --config=runs/cfg/bundle --input=base.pt \\
        --output=back

Kinds: base, base-inpaint, upsample, upsample-inpaint, clip-image, clip-text. The noised
CLIP is two files and one bundle: convert both into the same folder, in any order. A .pt
file requires PyTorch (pip install -e ".[torch]"); a .safetensors file does not.

--to=openai also writes base.options.json next to base.pt, with the keyword arguments of
create_model_and_diffusion of glide-text2im, and prints what neither file can store.
--from=openai expects the released sizes. For other sizes, --config gives a bundle (or
its config.json) with the sizes, settings and tokenizer of the file.
"""

from __future__ import annotations

import pathlib

from absl import flags

from glide_jax.cli import define, output_folders
from glide_jax.errors import UserError
from glide_jax.runtime import paths

ROLES = {"base": "base", "upsample": "upsampler", "clip": "clip"}


def define_flags(values: flags.FlagValues) -> None:
    """Defines --from, --to, --kind, --config, --input and --output."""
    for name, meaning in (
        ("from", "publisher of the file --input, which becomes a bundle"),
        ("to", "publisher whose tensor names --output gets, for the bundle --input"),
    ):
        flags.DEFINE_enum(name, None, ["openai"], meaning, flag_values=values)
    add = define.Define(values)
    meaning = "--from: a bundle of the same sizes; default: the released sizes"
    add.path("config", meaning)
    meaning = "model in the file, e.g. base; --to: required for a noised CLIP only"
    add.text("kind", meaning)
    add.path("input", "--from: a .pt or .safetensors file; --to: a bundle's folder")
    add.path("output", "--from: a new folder; --to: a new .pt or .safetensors file")


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Converts one file or bundle."""
    if arguments:
        raise UserError(
            f"{arguments[0]!r} is not a flag; give it as --input={arguments[0]}"
        )
    is_import = values["from"].value
    if bool(is_import) == bool(values.to):
        raise UserError("give either --from=openai or --to=openai")
    for name in ("input", "output"):
        if not values[name].value:
            raise UserError(f"--{name} is missing; see `glide convert --help`")
    source, target = pathlib.Path(values.input), pathlib.Path(values.output)
    if is_import:
        _from_openai(values.kind, values.config, source, target)
    elif values.config:
        raise UserError(
            "--config is for --from=openai; a bundle has its own settings, leave it out"
        )
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
                f"{source} is one half of a noised CLIP; convert the other of "
                f"clip-image and clip-text to {folder} as well"
            )


def _to_openai(kind: str, folder: pathlib.Path, target: pathlib.Path) -> None:
    from glide_jax.convert import bundles

    with output_folders.made_folder(str(target.parent)):
        written = bundles.to_openai(folder, target, kind)
    print(f"{folder} is written to {target} under the released names of {written.kind}")
    if written.options:
        print(
            f"{written.options} has sizes, noise schedule and respacing as arguments "
            "of create_model_and_diffusion"
        )
    for line in written.left_out:
        print(f"not in the files: {line}")
