"""Loads the experiment files of the project by name."""

from __future__ import annotations

import importlib.util

from glide_jax.config import resolve
from glide_jax.config.defaults import Config
from glide_jax.runtime import paths


def load(name: str, size: str) -> Config:
    """Returns the configuration of a size from experiments/configs/NAME.py."""
    path = paths.root() / paths.CONFIGS / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return resolve.from_config_dict(module.get_config(size))
