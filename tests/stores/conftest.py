"""The servers of gs:// and s3://, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stores import servers


@pytest.fixture(scope="session")
def running() -> Iterator[servers.Servers]:
    for package in ("gcsfs", "s3fs", "moto", "gcp_storage_emulator"):
        pytest.importorskip(package, reason="needs the extras [stores,stores-test]")
    with servers.run() as both:
        yield both


@pytest.fixture
def stores(
    running: servers.Servers, monkeypatch: pytest.MonkeyPatch
) -> servers.Servers:
    """The servers, found by this process and its children."""
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return running
