"""The teacher of a distillation: its weights, and whether a student can learn from it.

A run with train.teacher folds the teacher's guidance into a student that reads the
scale (train.student_steps=0), halves the steps of the teacher, or matches the moments
of its pictures (train.student_loss).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from glide_jax import array_types
from glide_jax.checkpoint import bundle
from glide_jax.config import choices
from glide_jax.config.defaults import Config, Text2ImConfig
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.parallel import sharding, sharding_rules
from glide_jax.train import init_from


class Teacher(NamedTuple):
    """A loaded teacher; see `init_from.Origin`."""

    origin: init_from.Origin
    digest: str  # of the parameters in float32


def is_fold(config: Config) -> bool:
    """Whether a run folds guidance into a student."""
    return bool(config.train.teacher) and not config.train.student_steps


def matches_moments(config: Config) -> bool:
    """Whether a second network trains beside the student; see diffusion/moments.py."""
    return config.train.student_loss == "match_moments"


def trained_networks(config: Config) -> int:
    """Number of networks of the model's size that a run trains."""
    return 2 if matches_moments(config) else 1


def model_of(config: Config, prediction: str = "x_and_eps") -> Text2ImConfig:
    """The sizes of the teacher of a run, which follow from the student's.

    `prediction` is the teacher's, one of process.PREDICTIONS.
    """
    model = config.model
    assert isinstance(model, Text2ImConfig)
    return dataclasses.replace(
        model,
        guidance_range=() if is_fold(config) else model.guidance_range,
        residual_low_res=model.residual_low_res and prediction in choices.WITH_X_START,
        dropout_prob=0.0,
    )


def load(config: Config) -> Teacher:
    """Reads and checks the teacher of a run.

    Raises:
      UserError: not a workdir or a bundle, or a teacher that the student cannot learn
        from.
    """
    path = config.train.teacher
    check_config(init_from.read_config(path, setting="train.teacher"), config)
    origin = init_from.load(path, setting="train.teacher")
    return Teacher(origin, digest_of(origin.params))


def digest_of(params: array_types.Params) -> str:
    """The SHA-256 of the names and float32 values of parameters."""
    digest = hashlib.sha256()
    for name, leaf in sorted(bundle.flatten(params).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).data)
    return digest.hexdigest()


def check_config(teacher: Config, student: Config) -> None:
    """Raises UserError unless a student can learn from a teacher, by their settings."""
    path = student.train.teacher
    if not isinstance(teacher.model, Text2ImConfig):
        raise UserError(
            f"train.teacher={path} has a {teacher.model.family} model; give a base "
            "model or an upsampler"
        )
    if is_fold(student) and teacher.model.guidance_range:
        raise UserError(
            f"train.teacher={path} is a student that already reads the guidance scale; "
            "fold the model that it learned from, or halve this one by "
            "train.student_steps"
        )
    expected = model_of(student, teacher.diffusion.prediction)
    free = ("dropout_prob", "compute_dtype")
    differing = [
        f"model.{field.name} {found!r} (here {wanted!r})"
        for field in dataclasses.fields(expected)
        if field.name not in free
        and (found := getattr(teacher.model, field.name))
        != (wanted := getattr(expected, field.name))
    ]
    differing += [
        f"diffusion.{name} {found!r} (here {wanted!r})"
        for name in ("schedule", "num_timesteps")
        if (found := getattr(teacher.diffusion, name))
        != (wanted := getattr(student.diffusion, name))
    ]
    if differing:
        raise UserError(
            f"train.teacher={path} has {', '.join(differing)}; a student has its "
            "teacher's settings"
        )
    _check_prediction(teacher, student)
    _check_steps(teacher, student)


def student_prediction(prediction: str) -> str:
    """What a student predicts, by what its teacher does: eps alone is not enough."""
    return "x_and_eps" if prediction == "eps" else prediction


def _check_prediction(teacher: Config, student: Config) -> None:
    before, after = teacher.diffusion.prediction, student.diffusion.prediction
    expected = student_prediction(before)
    if after != expected:
        raise UserError(
            f"diffusion.prediction={after}, but a student of a teacher that predicts "
            f"{before} predicts {expected}; set diffusion.prediction={expected}"
        )


def _check_steps(teacher: Config, student: Config) -> None:
    steps, native = student.train.student_steps, teacher.train.student_steps
    if matches_moments(student):
        _check_moments(teacher, student)
        return
    if native and not steps:
        raise UserError(
            f"train.teacher={student.train.teacher} draws in {native} steps, and a "
            "fold needs a teacher of every timestep; fold first, then halve"
        )
    if native and native != 2 * steps:
        raise UserError(
            f"train.student_steps={steps} is not half of the {native} steps of "
            f"train.teacher={student.train.teacher}; use {native // 2}"
            if native % 2 == 0
            else f"train.teacher={student.train.teacher} draws in {native} steps, "
            "which cannot be halved"
        )
    if teacher.train.student_loss != "halve":
        raise UserError(
            f"train.teacher={student.train.teacher} adds noise in each of its steps, "
            "and halving needs steps without; give the model that it learned from"
        )


def _check_moments(teacher: Config, student: Config) -> None:
    path, native = student.train.teacher, teacher.train.student_steps
    if native:
        raise UserError(
            f"train.teacher={path} is a student of {native} steps, and moments are "
            "matched at every timestep; give the model that it learned from, and this "
            "one as train.init_from"
        )
    if teacher.diffusion.prediction == "eps":
        raise UserError(
            f"train.teacher={path} predicts eps, which does not determine the picture "
            "at the noisy end; give a base model with folded guidance, or one that "
            "predicts v, or use train.student_loss=halve"
        )


def abstract_params(config: Config, mesh: Mesh | AbstractMesh) -> Any:
    """ShapeDtypeStructs of the teacher's parameters on a mesh, in the compute dtype."""
    model = model_of(config)
    shapes = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.ShapeDtypeStruct(
            leaf.shape, build.dtype_in_memory(path, model.compute_dtype)
        ),
        build.abstract_params(model),
    )
    family = build.family_of(model)
    rules = sharding_rules.make_rules(family.sharding_rules, config.mesh.rules)
    where = sharding.shard_tree(
        shapes, mesh, rules=rules, params=shapes, min_shard_mb=config.mesh.min_shard_mb
    )
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        where,
    )


def put(teacher: Teacher, config: Config, mesh: Mesh) -> array_types.Params:
    """The teacher's parameters on the mesh."""

    def place(leaf: np.ndarray, target: jax.ShapeDtypeStruct) -> jax.Array:
        array = np.asarray(leaf).astype(target.dtype)
        return jax.make_array_from_callback(
            array.shape, target.sharding, lambda index: array[index]
        )

    return jax.tree.map(place, teacher.origin.params, abstract_params(config, mesh))


def forward_flops(config: Config) -> float:
    """FLOPs of the teacher for one image of a training step; 0 without a teacher.

    The teacher makes two passes, with and without the caption or at two timesteps, but
    one for moments.
    """
    if not config.train.teacher:
        return 0.0
    parts = build.forward_flops(model_of(config))
    captions = 2 if is_fold(config) else 1
    passes = 1 if matches_moments(config) else 2
    return passes * parts["unet"] + captions * (
        parts["text"] + parts["text_keys_values"]
    )


def facts(teacher: Teacher, config: Config) -> Mapping[str, Any]:
    """What a student's checkpoints and bundle say of its teacher, JSON values."""
    return {
        "teacher": config.train.teacher,
        "step": teacher.origin.step,
        "params_sha256": teacher.digest,
    }
