"""The stages of a distillation: one fold of a guided base model, then halvings.

    base:       teacher -> base_fold -> base_32 -> base_16 -> base_8 -> base_4
    upsampler:  teacher -> upsampler_16 -> ... -> upsampler_2

Each stage is a training run as of `glide train` in OUTPUT/NAME, with the model before
it as its teacher. Its bundle is OUTPUT/bundles/NAME.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib

from glide_jax import presets
from glide_jax.checkpoint import bundle
from glide_jax.config import experiments, resolve, validate
from glide_jax.config.defaults import Config, Text2ImConfig
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.runtime import lifecycle, wording
from glide_jax.runtime.ledger import Ledger
from glide_jax.train import export, init_from, loop, teachers

# Sampling steps of the bundle of a fold, before any halving.
FOLD_STEPS = "50"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training run.

    Attributes:
      name: of its folder and bundle, e.g. base_4.
      role: "base" or "upsampler".
      teacher: bundle of its teacher.
      steps: of the student; 0: of the fold.
    """

    name: str
    role: str
    teacher: pathlib.Path
    steps: int = 0


@dataclasses.dataclass(frozen=True)
class Request:
    """The distillation of one model.

    Attributes:
      role: "base" or "upsampler".
      teacher: bundle of the first teacher.
      steps: of the last student.
      teacher_steps: of the teacher before the first halving.
      fold, halve: settings of the two kinds of stage; None: those of the experiment
        files, for the preset that has the teacher's sizes.
    """

    role: str
    teacher: pathlib.Path
    steps: int
    teacher_steps: int
    fold: Config | None = None
    halve: Config | None = None

    @property
    def prefix(self) -> str:
        """What the names of the model's flags begin with."""
        return "" if self.role == "base" else "upsampler_"

    def halvings(self) -> list[int]:
        """The steps of each student, e.g. 32, 16, 8, 4.

        Raises:
          UserError: halving teacher_steps does not reach steps.
        """
        found, left = [], self.teacher_steps
        while left > self.steps and left % 2 == 0:
            left //= 2
            found.append(left)
        if left != self.steps or not found:
            raise UserError(
                f"--{self.prefix}teacher_steps={self.teacher_steps} cannot be halved "
                f"to --{self.prefix}steps={self.steps}; give {self.steps} times a "
                f"power of two, e.g. {16 * self.steps}"
            )
        return found


def plan(request: Request, root: pathlib.Path) -> list[Stage]:
    """Returns the stages of one model in their order, checked.

    Raises:
      UserError: a teacher of another role, one that is a student itself, steps that
        halving does not reach or that the teacher does not have, or a stage whose
        settings are inconsistent.
    """
    config = first_config(request)
    role = build.role_of(config.model)
    if role != request.role:
        raise UserError(
            f"--{request.role}={request.teacher} has the role {role}; give a bundle "
            f"of the role {request.role}"
        )
    if config.train.teacher:
        raise UserError(
            f"--{request.role}={request.teacher} is a student itself; give the model "
            "that it learned from"
        )
    most = config.diffusion.num_timesteps
    if request.teacher_steps > most:
        raise UserError(
            f"--{request.prefix}teacher_steps={request.teacher_steps} is more than the "
            f"{most} timesteps of --{request.role}={request.teacher}; give at most "
            f"{most}"
        )
    is_folded = _is_folded(request, config)
    if request.role == "base" and not is_folded:
        logging.info(
            "guidance is not folded: %s was trained without empty captions",
            request.teacher,
        )
    stages = [Stage(f"{role}_fold", role, request.teacher)] if is_folded else []
    for steps in request.halvings():
        teacher = root / "bundles" / stages[-1].name if stages else request.teacher
        stages.append(Stage(f"{role}_{steps}", role, teacher, steps))
    # Now, as a later stage would fail only after hours.
    before = config
    for stage in stages:
        student = make_config(stage, request, config)
        validate.validate(student)
        teachers.check_config(before, student)
        before = student
    return stages


def first_config(request: Request) -> Config:
    """Returns the settings of the first teacher; UserError if it is not a bundle."""
    if not bundle.is_bundle(request.teacher):
        raise UserError(
            f"--{request.role}={request.teacher} is not a bundle; make one with "
            "`glide export`"
        )
    return init_from.read_config(str(request.teacher), setting=f"--{request.role}")


def make_config(stage: Stage, request: Request, origin: Config) -> Config:
    """Returns the settings of a stage.

    Model, noise, dropped captions, the corruption of low_res and the sampling defaults
    are those of `origin`, the first teacher; the length, the optimizer, the data and
    the mesh are those of the experiment.

    Raises:
      UserError: no experiment fits the sizes of the first teacher, or a given one is
        of another family or loss.
    """
    model = origin.model
    assert isinstance(model, Text2ImConfig)
    given = request.halve if stage.steps else request.fold
    kind = "halve" if stage.steps else "fold"
    prefix = "base64" if stage.role == "base" else "upsample256"
    if given is None:
        given = experiments.load(f"{prefix}_{kind}", find_size(model, stage.role))
    _check_given(given, stage, like=f"{prefix}_{kind}")
    assert isinstance(given.model, Text2ImConfig)
    is_folded = _is_folded(request, origin)
    prediction = teachers.student_prediction(origin.diffusion.prediction)
    is_changed = bool(model.low_res_px) and prediction != origin.diffusion.prediction
    config = dataclasses.replace(
        given,
        name=f"{origin.name}_{stage.name}",
        model=dataclasses.replace(
            model,
            guidance_range=given.model.guidance_range if is_folded else (),
            residual_low_res=model.residual_low_res or is_changed,
            dropout_prob=0.0,
            compute_dtype=given.model.compute_dtype,
        ),
        diffusion=dataclasses.replace(origin.diffusion, prediction=prediction),
        data=dataclasses.replace(
            given.data,
            tokenizer="",
            low_res_corruption=origin.data.low_res_corruption,
            low_res_corruption_strength=origin.data.low_res_corruption_strength,
        ),
        sample=dataclasses.replace(
            origin.sample,
            sampler="ddim",
            eta=0.0,
            respacing=f"grid{stage.steps}" if stage.steps else FOLD_STEPS,
        ),
    )
    return resolve.override(
        config,
        {
            "train.teacher": str(stage.teacher),
            "train.student_steps": stage.steps,
            "train.caption_drop_prob": origin.train.caption_drop_prob,
        },
    )


def _check_given(given: Config, stage: Stage, *, like: str) -> None:
    """Refuses the settings of another model or of another loss."""
    if not isinstance(given.model, Text2ImConfig):
        raise UserError(
            f"{given.name} is no experiment of a {stage.role} model, but of a "
            f"{given.model.family}; give one like {like}"
        )
    if given.train.student_loss != "halve":
        raise UserError(
            f"{given.name} has train.student_loss={given.train.student_loss}, and a "
            f"distillation halves; give one like {like}, or use `glide train`"
        )


def _is_folded(request: Request, origin: Config) -> bool:
    """Whether the first student reads the guidance scale."""
    return request.role == "base" and bool(origin.train.caption_drop_prob)


def find_size(model: Text2ImConfig, role: str) -> str:
    """Returns the preset with the sizes of a model.

    Raises:
      UserError: there is none.
    """
    make = presets.base if role == "base" else presets.upsampler
    free = {
        **{"dropout_prob": 0.0, "compute_dtype": "float32", "vocab_size": 1},
        "residual_low_res": False,
    }
    for size in presets.STUDENT_SIZES:
        known = make(size, inpaint=model.inpaint)
        if dataclasses.replace(known, **free) == dataclasses.replace(model, **free):
            return size
    flags = "--fold and --halve" if role == "base" else "--upsampler_halve"
    known_sizes = ", ".join(presets.STUDENT_SIZES)
    raise UserError(
        f"the {role} model has the sizes of none of {known_sizes}; name the experiment "
        f"files of its stages by {flags}"
    )


def run(
    stage: Stage, config: Config, root: pathlib.Path, done: Ledger, heading: str
) -> lifecycle.ExitCode:
    """Trains and exports a stage, or resumes it; skips a finished one."""
    if done.is_done(stage.name):
        logging.info("%s %s: already done", heading, stage.name)
        return lifecycle.ExitCode.OK
    steps = wording.counted(config.train.num_steps, "training step")
    logging.info("%s %s, %s", heading, stage.name, steps)
    workdir = root / stage.name
    with done.timed(stage.name):
        code = loop.train(config, workdir)
        if code != lifecycle.ExitCode.OK:
            return code
        export.export(workdir, root / "bundles" / stage.name)
    done.finish(stage.name, {"training_steps": config.train.num_steps})
    return lifecycle.ExitCode.OK
