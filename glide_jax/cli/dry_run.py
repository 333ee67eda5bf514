"""What a training command would do: settings, parameters, bytes, shardings."""

from __future__ import annotations

import math

import jax

from glide_jax import shapes
from glide_jax.config import resolve, validate
from glide_jax.config.defaults import Config
from glide_jax.models import build
from glide_jax.parallel import mesh as meshes
from glide_jax.parallel import sharding
from glide_jax.train import abstract, init_from, objectives, setup
from glide_jax.train import state as states


def report(config: Config, *, devices: int | None = None) -> str:
    """The report as text; nothing is allocated or written.

    Args:
      config: of the run.
      devices: of another machine that the run is planned for; None: of this one, whose
        data and train.init_from have to be there.

    Raises:
      UserError: what would refuse the run at its start.
    """
    validate.validate(config)
    if devices is None:
        mesh = meshes.make_mesh(config.mesh)
    else:
        mesh = meshes.make_abstract_mesh(config.mesh, devices)
    abstract.check_fits(config, mesh)
    if devices is None:
        setup.open_sources(config)
        if config.train.init_from:
            origin = init_from.read_config(config.train.init_from)
            init_from.check_fits(origin, config)
    state = abstract.abstract_state(config, objectives.make_objective(config, 0))
    where = abstract.place_state(config, state, mesh)
    parts = build.parameters_by_part(state.params)
    return "\n".join(
        [
            resolve.to_json(config),
            f"mesh: {dict(mesh.shape)}",
            f"parameters: {build.parameter_count(state.params):,}",
            *(f"  {part:<24} {count:>14,}" for part, count in parts.items()),
            "state a device:",
            *_state_lines(state, where),
            "shardings:",
            *_sharding_lines(state.params, where.params),
        ]
    )


def _state_lines(state: states.TrainState, where: states.TrainState) -> list[str]:
    """Bytes of each part of the state that one device holds, or its host for it."""
    lines, total = [], 0
    for name in ("params", "opt_state", "ema_params"):
        leaves = jax.tree.leaves(getattr(state, name))
        places = jax.tree.leaves(getattr(where, name))
        size = sum(
            math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf, place in zip(leaves, places, strict=True)
        )
        is_on_host = any(place.memory_kind == sharding.HOST for place in places)
        total += 0 if is_on_host else size
        note = " (in the host's memory)" if is_on_host else ""
        lines.append(f"  {name:<24} {size / 2**20:>14,.1f} MiB{note}")
    return [*lines, f"  {'together':<24} {total / 2**20:>14,.1f} MiB"]


def _sharding_lines(params: shapes.Params, where: shapes.Params) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [
        f"  {jax.tree_util.keystr(path, simple=True, separator='/'):<60} "
        f"{leaf.shape!s:<24} {place.spec}"
        for (path, leaf), place in zip(leaves, jax.tree.leaves(where), strict=True)
    ]
