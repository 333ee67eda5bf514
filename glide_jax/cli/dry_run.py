"""What a training command would do: settings, parameters, bytes, shardings."""

from __future__ import annotations

import jax

from glide_jax.config import resolve, validate
from glide_jax.config.defaults import Config
from glide_jax.models import build
from glide_jax.parallel import mesh as meshes
from glide_jax.parallel import sharding
from glide_jax.train import init_from, setup

# float32 parameter, two moments of Adam and one average each.
BYTES = 4


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
    meshes.check_batch(config.train.global_batch_size, mesh)
    if devices is None:
        setup.open_sources(config)
        if config.train.init_from:
            origin = init_from.read_config(config.train.init_from)
            init_from.check_fits(origin, config)
    params = build.abstract_params(config.model)
    shardings = sharding.shard_tree(params, mesh, min_shard_mb=config.mesh.min_shard_mb)
    leaves, where = jax.tree.leaves(params), jax.tree.leaves(shardings)
    on_device = sum(
        BYTES * _count(s.shard_shape(leaf.shape))
        for leaf, s in zip(leaves, where, strict=True)
    )
    copies = 3 + len(config.ema.decays)
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    table = [
        f"  {jax.tree_util.keystr(path, simple=True, separator='/'):<60} "
        f"{leaf.shape!s:<24} {s.spec}"
        for (path, leaf), s in zip(paths, where, strict=True)
    ]
    parts = build.parameters_by_part(params)
    return "\n".join(
        [
            resolve.to_json(config),
            f"mesh: {dict(mesh.shape)}",
            f"parameters: {build.parameter_count(params):,}",
            *(f"  {part:<24} {count:>14,}" for part, count in parts.items()),
            f"state a device: {copies * on_device / 2**20:,.1f} MiB "
            f"(parameters, two moments, {len(config.ema.decays)} averages; float32)",
            "shardings:",
            *table,
        ]
    )


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
