"""Processes connect before JAX does, and missing ones are named."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import time

import pytest

from glide_jax.errors import UserError
from glide_jax.parallel import rendezvous
from glide_jax.parallel.cluster_env import Cluster


@pytest.fixture
def address():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def meet(*clusters: Cluster) -> list[str]:
    """What each of these is errors, all at once; "" for a start."""

    def run(cluster: Cluster) -> str:
        try:
            rendezvous.wait_for_processes(cluster)
        except UserError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(len(clusters)) as pool:
        return list(pool.map(run, clusters))


def test_all_processes_connect_and_the_port_is_released(address):
    clusters = [Cluster(address, 3, n, timeout_secs=20) for n in (2, 1, 0)]
    assert meet(*clusters) == [""] * 3
    assert meet(*clusters) == [""] * 3


def test_missing_processes_are_named_in_every_error(address):
    hosts = tuple("abcd")
    clusters = [Cluster(address, 4, n, hosts, timeout_secs=1) for n in (0, 2)]
    errors = meet(*clusters)
    assert errors[0] == errors[1]
    assert "process 1 (b), process 3 (d) of 4 " in errors[0]
    assert "\n" not in errors[0]


def test_of_many_missing_processes_some_are_named(address):
    (error,) = meet(Cluster(address, 1000, 0, timeout_secs=1))
    assert "process 20, 979 more of 1000" in error


def test_a_missing_process_0_is_named(address):
    (error,) = meet(Cluster(address, 2, 1, ("a", "b"), timeout_secs=1))
    assert f"process 0 (a) did not answer at {address}" in error


def test_duplicate_process_ids_are_errors(address):
    clusters = [Cluster(address, 3, n, timeout_secs=20) for n in (0, 1, 1)]
    errors = meet(*clusters)
    assert errors == ["two processes are numbered 1; number each of them once"] * 3


def test_a_restarted_process_is_not_a_duplicate(address):
    host, port = address.split(":")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, Cluster(address, 3, 0, timeout_secs=20))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                with socket.create_connection((host, int(port))) as connection:
                    connection.sendall(b"[1, 3]\n")
                break
        # The one that has gone is not counted when the last of the others comes.
        second = pool.submit(meet, Cluster(address, 3, 2, timeout_secs=20))
        time.sleep(0.5)
        errors = meet(Cluster(address, 3, 1, timeout_secs=20))
        assert (first.result(), second.result(), errors) == ([""], [""], [""])


def test_different_numbers_of_processes_are_errors(address):
    errors = meet(Cluster(address, 2, 0), Cluster(address, 3, 1))
    assert errors[0] == errors[1]
    assert "process 1 counts 3 processes, process 0 counts 2" in errors[0]


def test_a_used_port_is_an_error(address):
    host, port = address.split(":")
    with socket.create_server((host, int(port))):
        (error,) = meet(Cluster(address, 2, 0, timeout_secs=1))
    assert f"cannot listen on port {port}" in error


def test_other_clients_at_the_port_are_ignored(address, monkeypatch):
    monkeypatch.setattr(rendezvous, "_LINE_SECS", 0.5)
    host, port = address.split(":")

    def stray(line: bytes) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with socket.create_connection((host, int(port))) as connection:
                    connection.sendall(line)
                    return
            except OSError:
                time.sleep(0.01)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        first = pool.submit(meet, Cluster(address, 2, 0, timeout_secs=20))
        list(pool.map(stray, [b"GET / HTTP/1.1\r\n\r\n", b"", b"3\n"]))
        assert meet(Cluster(address, 2, 1, timeout_secs=20)) == [""]
        assert first.result() == [""]
