"""The small models of tests/sample as the models of a page."""

from __future__ import annotations

import dataclasses

import pytest

from glide_jax.demo import bundles as demo_bundles
from tests.sample.conftest import bundles, models, tokenizer, write_bundle

__all__ = ["bundles", "models", "tokenizer"]


@pytest.fixture(scope="session")
def guided(models, tmp_path_factory) -> str:
    """The bundle of a base model that repaints, and that knows the empty caption."""
    model = models["base_inpaint"]
    train = dataclasses.replace(model.config.train, caption_drop_prob=0.2)
    config = dataclasses.replace(model.config, train=train)
    folder = tmp_path_factory.mktemp("guided") / "base"
    return str(write_bundle(folder, dataclasses.replace(model, config=config)))


@pytest.fixture(scope="session")
def loaded(bundles, guided) -> demo_bundles.Models:
    """That model with an upsampler and a CLIP."""
    folders = [str(bundles[name]) for name in ("upsampler_inpaint", "clip")]
    return demo_bundles.load(demo_bundles.Bundles(guided, *folders))
