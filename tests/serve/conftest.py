"""The small models of tests/sample, and a server of them on a loopback port."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from glide_jax.sample import cascade
from tests.sample.conftest import bundles, models, tokenizer

__all__ = ["bundles", "models", "tokenizer"]

TOKEN = "a-token-of-the-tests"
BATCH = 2


@dataclasses.dataclass
class Running:
    """A server in this process."""

    url: str
    glide: cascade.Glide
    service: object


@contextlib.contextmanager
def serving(glide, *, batching=None, limits=None, access=None):
    """Starts a server with the token of the tests, and stops it."""
    from glide_jax.serve import app, listening, reading, service

    own = service.Service(
        glide,
        model_name="small",
        batching=service.Batching(**{"batch_size": BATCH, **(batching or {})}),
        limits=reading.Limits(**(limits or {})),
        access=app.Access(**{"token": TOKEN, **(access or {})}),
    )
    with listening.listen("127.0.0.1", 0, has_token=True) as listener:
        own.start(listener)
        port = listener.getsockname()[1]
        try:
            yield Running(f"http://127.0.0.1:{port}", glide, own)
        finally:
            assert own.stop(60)


@pytest.fixture(scope="session")
def inpainter(models) -> cascade.Glide:
    """A base model alone, which also repaints."""
    return cascade.Glide(models["base_inpaint"])
