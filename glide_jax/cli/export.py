"""Export a trained workdir as a bundle, which `glide sample` reads.

    glide export runs/base --output=runs/base/bundle
    glide export runs/base --output=out/base --ema=0.999 --dtype=float32 --step=20000
    glide export runs/base --program --sampler=ddim --respacing=50
    glide export runs/base --program --guidance_mode=cfg+clip --clip=runs/clip/bundle

With --program, the bundle's folder "program" contains the complete sampler, which runs
without this package: python BUNDLE/program/run.py

SIGTERM or Ctrl-C ends the export with exit code 42 and leaves an older bundle
unchanged; the same command starts again.
"""

from __future__ import annotations

import pathlib

from absl import flags

from glide_jax.cli import define, stopping
from glide_jax.errors import UserError
from glide_jax.runtime import mirrors, paths
from glide_jax.sample import options


def define_flags(values: flags.FlagValues) -> None:
    """--output, --ema, --step, --dtype, --program and the settings of the program."""
    add = define.Define(values)
    add.path("output", "folder of the bundle; default: WORKDIR/bundle")
    add.text("ema", "decay of the average, e.g. 0.999; default: the first one")
    add.whole("step", "step of the checkpoint; default: the newest", least=0)
    dtypes = ["bfloat16", "float32"]
    add.choice("dtype", dtypes, "dtype of the stored weights", "bfloat16")
    meaning = "also write the sampler as a serialized program for cpu, cuda and tpu"
    add.switch("program", meaning, False)
    add.path("clip", "bundle of the noised CLIP, for --guidance_mode=clip or cfg+clip")
    for name in options.program_choices():
        about = options.about(name)
        meaning = f"of the program: {about.help}"
        if about.choices:
            add.choice(name, list(about.choices), meaning)
        else:
            add.text(name, meaning)
    add.text("prompt", "caption of the program's example")


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Writes the bundle of the one workdir given."""
    from glide_jax.train import export

    if len(arguments) != 1:
        raise UserError(
            f"{len(arguments)} workdirs are given; give one, e.g. "
            "`glide export runs/base`"
        )
    workdir = paths.local_path(arguments[0], "workdir")
    if (workdir / "bundle.json").is_file():
        raise UserError(f"{workdir} is a bundle; give a workdir of glide train")
    output = pathlib.Path(values.output) if values.output else workdir / "bundle"
    if not values.output:
        mirrors.write(workdir)
        mirrors.claim(workdir)

    with stopping.on_signal() as poll:
        step = export.export(
            workdir,
            output,
            decay=values.ema or "",
            dtype=values.dtype,
            step=values.step,
            more_files=_program_files(values, workdir),
            on_progress=poll,
        )
    print(f"exported step {step} of {workdir} to {output}")
    return 0


def _program_files(values: flags.FlagValues, workdir: pathlib.Path) -> dict[str, bytes]:
    names = ("clip", *options.program_choices(), "prompt")
    given = {name: values[name].value for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if not values.program:
        if given:
            name = next(iter(given))
            raise UserError(f"--{name} needs --program; give both or neither")
        return {}
    from glide_jax.sample import program, restore
    from glide_jax.train import run_folder

    config = run_folder.load_config(workdir)
    tokenizer = run_folder.load_tokenizer(workdir)
    clip = restore.load_bundle(given.pop("clip")) if "clip" in given else None
    return program.make_files(
        config, tokenizer, workdir, clip, dtype=values.dtype, **given
    )
