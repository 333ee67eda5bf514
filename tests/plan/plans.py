"""Runs to plan: a small one, and the paper's from the experiment files."""

from __future__ import annotations

import dataclasses

from glide_jax import presets
from glide_jax.config import defaults
from glide_jax.plan import device_topology, problem


def small_config(**sections: dict) -> defaults.Config:
    """A tiny base model's run of 64 pictures a step; sections={"mesh": {...}}."""
    config = defaults.Config(
        name="small",
        model=presets.base("tiny"),
        train=defaults.TrainConfig(global_batch_size=64, num_steps=100),
        mesh=defaults.MeshConfig(fsdp=4, min_shard_mb=0.0),
    )
    changed = {
        section: dataclasses.replace(getattr(config, section), **values)
        for section, values in sections.items()
    }
    return dataclasses.replace(config, **changed)


def small(where: str = "v5p:2x2x2", slices: int | None = None, **sections: dict):
    """The small run on a machine; 2x2x2 are 8 devices."""
    return problem.make_problem(
        small_config(**sections), device_topology.parse(where, None, slices)
    )


def released(model: defaults.ModelConfig, where: str, **train: object):
    """A run of a released model."""
    config = defaults.Config(
        name="released", model=model, train=defaults.TrainConfig(**train)
    )
    return problem.make_problem(config, device_topology.parse(where, None, None))
