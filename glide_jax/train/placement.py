"""A run on a mesh: shapes and shardings of its state, and its compiled steps.

Nothing here allocates an array or reads data, so it works for hardware that is not
present: `glide plan` compiles the step for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AbstractMesh, Mesh

from glide_jax.config.defaults import Config, Text2ImConfig
from glide_jax.models import attention_kernels, build
from glide_jax.parallel import device_mesh, sharding, sharding_rules
from glide_jax.runtime import random_streams
from glide_jax.train import objectives, optimizer, step, teachers, train_state


class AbstractStep(NamedTuple):
    """The train step and its arguments, as ShapeDtypeStructs with shardings.

    `step.lower(*arguments).compile()` compiles it.
    """

    step: step.TrainStep
    state: train_state.TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    seed: jax.ShapeDtypeStruct
    teacher: Any  # the parameters of a student's teacher, else None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of the step."""
        rest = () if self.teacher is None else (self.teacher,)
        return self.state, self.batch, self.seed, *rest


class Placed(NamedTuple):
    """The abstract state of a run and its shardings.

    The devices of an AbstractMesh need not exist.
    """

    mesh: Mesh | AbstractMesh
    state: train_state.TrainState
    where: train_state.TrainState


def place(config: Config, mesh: Mesh | AbstractMesh) -> Placed:
    """The abstract state before the first step, which does not depend on the pad id.

    Raises:
      UserError: see `place_state`.
    """
    state = abstract_state(config, objectives.make_objective(config, pad_id=0))
    return Placed(mesh, state, place_state(config, state, mesh))


def abstract_step(config: Config, mesh: Mesh) -> AbstractStep:
    """The jitted step of a run on a mesh; its devices may be those of a topology.

    Raises:
      UserError: settings that do not fit the mesh.
    """
    check_fits(config, mesh)
    objective = make_objective(config, mesh, pad_id=0)
    state = abstract_state(config, objective)
    where = place_state(config, state, mesh)
    teacher = None
    if config.train.teacher:
        teacher = teachers.abstract_params(config, mesh)
    return AbstractStep(
        jit_train_step(config, objective, mesh, where),
        with_places(state, where),
        abstract_batch(config, mesh),
        jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.replicated(mesh)),
        teacher,
    )


def check_fits(config: Config, mesh: Mesh | AbstractMesh) -> None:
    """Raises UserError for a batch or a model that the mesh cannot divide evenly."""
    device_mesh.check_batch(
        config.train.global_batch_size, mesh, microbatches=config.train.microbatches
    )
    heads = build.family_of(config.model).attention_heads(config.model)
    sharding_rules.check_heads(heads, mesh)


def make_objective(
    config: Config,
    mesh: Mesh,
    pad_id: int,
    *,
    is_training: bool = True,
    teacher_prediction: str = "",
) -> objectives.Objective:
    """The run's objective, with activations constrained to the mesh."""
    return objectives.make_objective(
        config,
        pad_id,
        is_training=is_training,
        constrain=sharding.make_constrain(mesh),
        attention=attention_kernels.attend_on(mesh, device_mesh.BATCH_AXES, "tensor"),
        teacher_prediction=teacher_prediction,
    )


def abstract_state(
    config: Config, objective: objectives.Objective
) -> train_state.TrainState:
    """Shapes and dtypes of the state before the first step."""
    optim = optimizer.make_optimizer(config.optim)
    key = random_streams.stream_key(config.seed, "init")
    return jax.eval_shape(
        lambda key: train_state.make_state(config, objective.init(key), optim), key
    )


def place_state(
    config: Config, state: train_state.TrainState, mesh: Mesh | AbstractMesh
) -> train_state.TrainState:
    """The sharding of each array of the state, by the rules and memory settings.

    Raises:
      UserError: a rule of mesh.rules that cannot be applied, or matches nothing.
    """
    given = config.mesh.rules
    family = build.family_of(config.model)
    table = sharding_rules.make_rules(family.sharding_rules, given)
    sharding.check_rules(state.params, table[: len(given)])
    where = sharding.shard_tree(
        state,
        mesh,
        rules=table,
        params=state.params,
        min_shard_mb=config.mesh.min_shard_mb,
    )
    moved = {}
    if config.optim.moments_on_host:
        moved["opt_state"] = _on_host(state.opt_state, where.opt_state)
    if config.ema.on_host:
        moved["ema_params"] = _on_host(state.ema_params, where.ema_params)
    return dataclasses.replace(where, **moved)


def with_places(abstract_tree: Any, where: Any) -> Any:
    """ShapeDtypeStructs with their shardings."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        abstract_tree,
        where,
    )


def abstract_batch(
    config: Config, mesh: Mesh | AbstractMesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """An abstract global batch (data/schema.py), sharded over the mesh."""
    model, rows = config.model, config.train.global_batch_size
    px, length = model.image_px, model.text_context
    fields = {
        "image": ((rows, px, px, 3), jnp.float32),
        "tokens": ((rows, length), jnp.int32),
        "text_mask": ((rows, length), jnp.bool_),
        "example_index": ((rows,), jnp.int32),
    }
    if isinstance(model, Text2ImConfig) and model.low_res_px:
        fields["low_res"] = ((rows, model.low_res_px, model.low_res_px, 3), jnp.float32)
    if isinstance(model, Text2ImConfig) and model.inpaint:
        fields["inpaint_mask"] = ((rows, px, px, 1), jnp.float32)
    place = sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        for name, (shape, dtype) in fields.items()
    }


def _on_host(tree: Any, where: Any) -> Any:
    """The same shardings in host memory, except for counters, which are tiny."""
    return jax.tree.map(
        lambda leaf, place: (
            place.with_memory_kind(sharding.HOST) if leaf.shape else place
        ),
        tree,
        where,
    )


def jit_train_step(
    config: Config,
    objective: objectives.Objective,
    mesh: Mesh,
    state_shardings: train_state.TrainState,
) -> step.TrainStep:
    """The step over a mesh: state donated, output shardings pinned.

    Arrays in host memory between steps are copied to the devices for the update, and
    back by the output shardings.
    """
    on_devices = sharding.on_devices(state_shardings)
    everywhere = sharding.replicated(mesh)

    # Without it the compiler may replicate gradients on every device.
    def pin(tree):
        tree = jax.tree.map(
            jax.lax.with_sharding_constraint, tree, state_shardings.params
        )
        if mesh.devices.flat[0].platform != "gpu":
            return tree
        # cuDNN orders the dimensions of a kernel otherwise. Without it the compiler
        # transposes moments and averages to that order, and back, in each step. The
        # constraint is on each device's part: the compiler cannot partition it.
        specs = jax.tree.map(lambda place: place.spec, state_shardings.params)
        keep_order = jax.shard_map(
            lambda parts: jax.tree.map(
                lambda x: with_layout_constraint(x, Layout(tuple(range(x.ndim)))), parts
            ),
            mesh=mesh,
            in_specs=(specs,),
            out_specs=specs,
            check_vma=False,
        )
        return keep_order(tree)

    train_step = step.make_train_step(config, objective, pin=pin)

    def step_on_devices(state, batch, seed, *teacher):
        if on_devices != state_shardings:
            state = jax.device_put(state, on_devices)
        return train_step(state, batch, seed, *teacher)

    in_shardings = (state_shardings, sharding.batch_sharding(mesh), everywhere)
    if config.train.teacher:
        teacher = teachers.abstract_params(config, mesh)
        in_shardings += (jax.tree.map(lambda leaf: leaf.sharding, teacher),)
    return jax.jit(
        step_on_devices,
        in_shardings=in_shardings,
        out_shardings=(state_shardings, everywhere, everywhere),
        donate_argnums=0,
    )


def jit_eval_step(
    config: Config, mesh: Mesh, pad_id: int, *, teacher_prediction: str = ""
) -> Callable[..., objectives.Metrics]:
    """The evaluation step over a mesh; see `step.make_eval_step`."""
    objective = make_objective(
        config, mesh, pad_id, is_training=False, teacher_prediction=teacher_prediction
    )
    return jax.jit(
        step.make_eval_step(config, objective),
        out_shardings=sharding.replicated(mesh),
    )


def jit_skip_batch(
    state_shardings: train_state.TrainState,
) -> Callable[[train_state.TrainState], train_state.TrainState]:
    """state -> the state after a batch that was consumed without an update."""

    def skip_batch(state):
        return dataclasses.replace(
            state,
            step=state.step + 1,
            skipped_in_a_row=jnp.zeros_like(state.skipped_in_a_row),
        )

    return jax.jit(
        skip_batch,
        in_shardings=(state_shardings,),
        out_shardings=state_shardings,
        donate_argnums=0,
    )
