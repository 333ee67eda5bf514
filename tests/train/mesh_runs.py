"""Five steps of a small model on a mesh, for tests that compare meshes.

Imported by scripts on fake devices; every kind of phase is here, with dropout on and
every random stream drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from glide_jax.config import defaults, resolve
from glide_jax.data import pipeline
from glide_jax.parallel import device_mesh, sharding
from glide_jax.runtime import random_streams
from glide_jax.train import optimizer, placement, teachers, train_state

ROWS, STEPS = 16, 5

# Attention of two heads, on the way down, in the middle and on the way up.
BASE = defaults.Text2ImConfig(
    image_px=8,
    num_channels=16,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_px=(8,),
    head_channels=8,
    norm_groups=4,
    dropout_prob=0.1,
    text_context=8,
    vocab_size=320,
    text_width=32,
    text_layers=2,
    text_heads=4,
    compute_dtype="float32",
)
MODELS: dict[str, defaults.ModelConfig] = {
    "base": BASE,
    "upsampler": dataclasses.replace(BASE, low_res_px=4),
    "inpainting": dataclasses.replace(BASE, inpaint=True),
    "clip": defaults.NoisedClipConfig(
        image_px=8,
        patch_px=4,
        image_width=32,
        image_layers=2,
        image_heads=4,
        text_context=8,
        vocab_size=320,
        text_width=32,
        text_layers=2,
        text_heads=4,
        embed_dim=16,
        compute_dtype="float32",
    ),
}


class Outcome(NamedTuple):
    """Losses, parameters, the whole state and the last step's metrics."""

    losses: list[float]
    params: dict[str, np.ndarray]
    state: train_state.TrainState
    metrics: dict[str, Any]


def make_config(kind: str, changes: Mapping[str, Any] | None = None) -> defaults.Config:
    """Settings of a kind of phase; every tensor is cut that can be."""
    is_clip = kind == "clip"
    config = defaults.Config(
        model=MODELS[kind],
        # Attention's key bias has no gradient but rounding's, 1e-9, in the tensor of a
        # query bias that has one: an epsilon far above it, or Adam follows its signs.
        optim=defaults.OptimConfig(learning_rate=1e-3, eps=1e-5),
        train=defaults.TrainConfig(
            global_batch_size=ROWS, caption_drop_prob=0.0 if is_clip else 0.2
        ),
        mesh=defaults.MeshConfig(min_shard_mb=0.0),
    )
    return resolve.override(config, changes or {})


def make_mesh(data: int, fsdp: int, tensor: int):
    """A mesh of the first devices."""
    config = defaults.MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
    return device_mesh.make_mesh(config, jax.devices()[: data * fsdp * tensor])


def make_batch(config: defaults.Config, seed: int) -> dict[str, np.ndarray]:
    """Noise in the shapes of the run's batches."""
    rng = np.random.default_rng(seed)
    mesh = make_mesh(1, 1, 1)
    batch = {}
    for name, leaf in placement.abstract_batch(config, mesh).items():
        if leaf.dtype == np.float32:
            batch[name] = rng.uniform(-1, 1, leaf.shape).astype(np.float32)
        else:
            batch[name] = rng.integers(1, 300, leaf.shape).astype(leaf.dtype)
    batch["text_mask"] = rng.random(batch["tokens"].shape) < 0.8
    batch["example_index"] = np.arange(seed * ROWS, (seed + 1) * ROWS, dtype=np.int32)
    if "inpaint_mask" in batch:
        batch["inpaint_mask"] = (batch["inpaint_mask"] > 0).astype(np.float32)
    return batch


def start(config: defaults.Config, mesh) -> tuple[Any, train_state.TrainState]:
    """The jitted step of a run, and its first state."""
    objective = placement.make_objective(config, mesh, 0)
    described = placement.abstract_state(config, objective)
    where = placement.place_state(config, described, mesh)
    optim = optimizer.make_optimizer(config.optim)
    begin = jax.jit(
        lambda params: train_state.make_state(config, params, optim),
        out_shardings=where,
    )
    state = begin(make_params(described.params))
    jitted = placement.jit_train_step(config, objective, mesh, where)
    seed = sharding.replicate(np.int32(config.seed), mesh)
    fixed = [seed]
    if config.train.teacher:
        abstract = teachers.abstract_params(config, mesh)
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        fixed.append(jax.device_put(make_params(abstract), places))
    return lambda state, batch: jitted(state, batch, *fixed), state


def make_params(described: Any) -> Any:
    """Noise for every parameter, in numpy: initializers take longer to compile.

    A model's own last layers begin at zero, and nothing before them has a gradient
    until they have moved: rounding would decide the first steps of all the rest.
    """
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = 0.05 * rng.standard_normal(leaf.shape)
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[-2:-1] if leaf.ndim < 4 else leaf.shape[:-1])
            noise *= 20 / np.sqrt(fan_in)
        return np.float32(noise + (path[-1].key == "scale"))

    return jax.tree_util.tree_map_with_path(draw, described)


def run(config: defaults.Config, mesh, steps: int = STEPS) -> Outcome:
    """The steps, one after the other."""
    train_step, state = start(config, mesh)
    losses = []
    for k in range(steps):
        batch = sharding.to_global(own_rows(make_batch(config, k), mesh), mesh)
        state, metrics, _ = train_step(state, batch)
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    assert int(state.updates) == steps
    # Gathered, for a process sees its own part only.
    whole = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(mesh))
    params = flat(whole(state.params))
    return Outcome(losses, params, jax.block_until_ready(state), metrics)


def own_rows(batch: dict[str, np.ndarray], mesh) -> dict[str, np.ndarray]:
    """The rows that this process makes of a batch."""
    rows = pipeline.rows_of(ROWS, *device_mesh.batch_slice(mesh))
    return {name: value[rows.start : rows.stop] for name, value in batch.items()}


def flat(tree: Any) -> dict[str, np.ndarray]:
    """Arrays by path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def gradient_at(config: defaults.Config, params: Any) -> dict[str, np.ndarray]:
    """The gradient of the first batch at these parameters, on one device."""
    mesh = make_mesh(1, 1, 1)
    objective = placement.make_objective(config, mesh, 0)
    if config.train.teacher:
        teacher = make_params(teachers.abstract_params(config, mesh))
        objective = objective.with_teacher(teacher)
    batch = make_batch(config, 0)

    def loss(params):
        def keys_of(stream):
            return random_streams.example_keys(0, stream, 0, batch["example_index"])

        return objective.loss(params, batch, keys_of, {})[0]

    return flat(jax.jit(jax.grad(loss))(params))


def assert_same(
    found: Outcome, expected: Outcome, config: defaults.Config, rtol: float
) -> None:
    """Equal losses, and equal tensors where there was a gradient to learn from.

    Adam divides a gradient by its own size, so a tensor whose gradient is rounding
    alone (a bias in front of a norm) moves by rounding's signs.
    """
    gradient = gradient_at(config, expected.state.params)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=rtol)
    assert expected.losses[0] != expected.losses[-1], "nothing was learnt"
    compared = 0
    for name, value in expected.params.items():
        if np.linalg.norm(gradient[name]) > 1e-6:
            error = np.linalg.norm(found.params[name] - value) / np.linalg.norm(value)
            assert error < rtol, (name, error)
            compared += 1
    assert compared > len(expected.params) / 2, compared
