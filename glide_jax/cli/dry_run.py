"""What a training command would do: settings, parameters, bytes, shardings."""

from __future__ import annotations

import jax

from glide_jax.config import resolve, validate
from glide_jax.config.defaults import Config
from glide_jax.models import build
from glide_jax.parallel import mesh as meshes
from glide_jax.parallel import sharding

# float32 parameter, two moments of Adam and one average each.
BYTES = 4


def report(config: Config) -> str:
    """The report as text; nothing is allocated or written.

    Raises:
      UserError: whatever would stop the run before its first step.
    """
    validate.validate(config)
    mesh = meshes.make_mesh(config.mesh)
    meshes.check_batch(config.train.global_batch_size, mesh)
    is_clip = config.model.family == "noised_clip"
    fns = (build.make_clip if is_clip else build.make_denoiser)(config.model)
    params = jax.eval_shape(fns.init, jax.random.key(0))
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
