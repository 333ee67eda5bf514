"""Distil a base model, an upsampler, or both, to samplers of a few steps.

    glide distil --base=runs/quickstart/bundles/base_cfg \\
        --upsampler=runs/quickstart/bundles/upsampler --teacher_steps=16 \\
        --upsampler_teacher_steps=8 --output=runs/distil
    glide distil --base=runs/glide/base --steps=8 --halve=base64_halve:released \\
        --halve.train.num_steps=20000 --output=runs/distil8

The base model's guidance is folded into a student that reads the scale; then each
student makes half of its teacher's steps, down to --steps and --upsampler_steps. Every
stage is a training run as of `glide train`, in OUTPUT/NAME; its bundle is
OUTPUT/bundles/NAME. The command ends with report.json and samples.png, which compare
the students with the teacher from the same noise. The same command skips finished
stages and resumes an interrupted one.
"""

from __future__ import annotations

import pathlib

from absl import flags

from glide_jax.cli import config_flag, define
from glide_jax.errors import UserError
from glide_jax.runtime import paths

FACTOR = 16  # of the teacher's steps over the last student's, by default


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of models, steps, stages and output."""
    add = define.Define(values)
    add.path(
        "base", "bundle of a base model, trained with dropped captions to be guided"
    )
    add.path("upsampler", "bundle of an upsampler")
    add.path("output", "output folder, e.g. runs/distil")
    add.whole("steps", "steps of the last student of the base model", 4, least=1)
    add.whole(
        "upsampler_steps", "steps of the last student of the upsampler", 2, least=1
    )
    add.whole(
        "teacher_steps",
        f"steps of the base model before the first halving; {FACTOR} times --steps if "
        "left out",
        least=2,
    )
    add.whole(
        "upsampler_teacher_steps",
        f"the same for the upsampler; {FACTOR} times --upsampler_steps if left out",
        least=2,
    )
    add.whole(
        "pictures",
        "number of pictures that compare each stage of the base model; a quarter as "
        "many compare the upsampler's",
        256,
        least=2,
    )
    for name in ("fold", "halve", "upsampler_halve"):
        config_flag.define(values, name)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Trains the stages that are left, and compares all with their first teacher."""
    from glide_jax.distil import report, stages
    from glide_jax.runtime import ledger, lifecycle
    from glide_jax.train import run_folder

    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag; see glide distil --help")
    if values.output is None:
        raise UserError("--output is missing, e.g. --output=runs/distil")
    root = paths.local_path(values.output, "--output")
    chains = []
    for request in _requests(values):
        planned = stages.plan(request, root)
        origin = stages.first_config(request)
        configs = [stages.make_config(stage, request, origin) for stage in planned]
        chains.append(report.Chain(request, planned, configs))
    done = ledger.Ledger(root / "ledger.json")
    if root.is_dir() and any(root.iterdir()) and not done.is_done("pictures"):
        raise UserError(
            f"--output={root} is not empty and has no distillation to continue; give a "
            "new folder"
        )
    run_folder.prepare(root, flag="--output")
    done.keep_setting("pictures", values.pictures)
    for chain in chains:
        asked = chain.request
        done.keep_setting(asked.role, str(asked.teacher))
        # Stages of another first one would have the names of these.
        done.keep_setting(f"{asked.prefix}teacher_steps", asked.teacher_steps)
    total, number = sum(len(chain.stages) for chain in chains), 0
    for chain in chains:
        for stage, config in zip(chain.stages, chain.configs, strict=True):
            number += 1
            code = stages.run(stage, config, root, done, f"[{number}/{total}]")
            if code != lifecycle.ExitCode.OK:
                return code
        count = (
            values.pictures if chain.request.role == "base" else values.pictures // 4
        )
        report.measure(chain, root, done, max(2, count))
    print(report.as_text(report.write(chains, root, done)))
    print(f"\npictures: {root / 'samples.png'}")
    print(f"results:  {root / 'report.json'}")
    print(f"bundles:  {root / 'bundles'}")
    return lifecycle.ExitCode.OK


def _requests(values: flags.FlagValues):
    """Returns the models to distil.

    Raises:
      UserError: no model, or flags of a model that is not given.
    """
    from glide_jax.distil import stages

    found = []
    for role, prefix, kinds in (
        ("base", "", ("fold", "halve")),
        ("upsampler", "upsampler_", ("upsampler_halve",)),
    ):
        bundle = values[role].value
        given = {
            kind: config_flag.read(values, kind, example="base64_halve:tiny")
            for kind in kinds
            if values[kind].value is not None
        }
        if bundle is None:
            for name in (f"{prefix}steps", f"{prefix}teacher_steps", *given):
                if values[name].present:
                    raise UserError(
                        f"--{name} has no effect without --{role}; give its bundle"
                    )
            continue
        steps = getattr(values, f"{prefix}steps")
        found.append(
            stages.Request(
                role,
                pathlib.Path(bundle),
                steps,
                getattr(values, f"{prefix}teacher_steps") or FACTOR * steps,
                fold=given.get("fold"),
                halve=given.get(kinds[-1]),
            )
        )
    if not found:
        raise UserError(
            "--base and --upsampler are missing; give the bundle of a model to distil, "
            "e.g. --base=runs/quickstart/bundles/base_cfg"
        )
    return found
