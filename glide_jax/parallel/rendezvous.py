"""Waits for all processes, and names missing ones, before JAX connects them.

JAX waits for all processes too, but names at most two of the missing ones, and may end
a process instead of raising. So processes first connect to process 0, at the port where
JAX's coordinator listens afterwards. Each sends one line of JSON, [process, number of
processes], and receives one when all are connected or the time is over: [error or "",
whether the error is a process that did not connect].
"""

from __future__ import annotations

import contextlib
import json
import socket
import time

from glide_jax.errors import PeerLostError, UserError
from glide_jax.parallel.cluster_env import Cluster

RETRY_SECS = 0.2
_LINE_SECS = 5.0  # a client that sends nothing for this long is ignored
_MAX_NAMED = 20


def wait_for_processes(cluster: Cluster) -> None:
    """Waits until every process of the cluster is connected; needs its coordinator.

    Raises:
      UserError: processes are missing (raised in all others, naming them), two
        processes have the same index, or the port is in use.
    """
    if cluster.process_id == 0:
        _receive(cluster)
    else:
        _report(cluster)


def _receive(cluster: Cluster) -> None:
    here: dict[int, socket.socket] = {}
    deadline = time.monotonic() + cluster.timeout_secs
    problem, is_late = "", False
    with _listen(cluster) as listener:
        while len(here) < cluster.num_processes - 1 and not problem:
            listener.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                problem, is_late = _missing(cluster, here), True
            else:
                problem = _admit(cluster, connection, here)
            if len(here) == cluster.num_processes - 1 and not problem:
                for process in [n for n in here if not _is_there(here[n])]:
                    here.pop(process).close()  # it may be started again
    for connection in here.values():
        # A process that has exited meanwhile is detected when JAX connects them.
        with connection, contextlib.suppress(OSError):
            connection.sendall(f"{json.dumps([problem, is_late])}\n".encode())
    _raise_if(problem, is_late)


def _raise_if(problem: str, is_late: bool) -> None:
    """Raises an error if there is one; a late process may still connect."""
    if problem:
        raise PeerLostError(problem) if is_late else UserError(problem)


def _listen(cluster: Cluster) -> socket.socket:
    port = _address(cluster)[1]
    has_both = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", port),
            family=socket.AF_INET6 if has_both else socket.AF_INET,
            dualstack_ipv6=has_both,
            backlog=cluster.num_processes,
        )
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port} of {socket.gethostname()} "
            f"({error.strerror}); stop the program that uses it, or set another port "
            "in GLIDE_JAX_COORDINATOR"
        ) from error


def _admit(
    cluster: Cluster, connection: socket.socket, here: dict[int, socket.socket]
) -> str:
    """Adds the process at the other end, if it is one; returns the error or ""."""
    try:
        connection.settimeout(_LINE_SECS)
        process, num_processes = map(int, json.loads(_line(connection)))
    except (OSError, TypeError, ValueError):
        connection.close()
        return ""
    problem = ""
    if num_processes != cluster.num_processes:
        problem = (
            f"process {process} counts {num_processes} processes, process 0 counts "
            f"{cluster.num_processes}; give all of them the same number"
        )
    elif process == 0 or (process in here and _is_there(here[process])):
        problem = f"two processes are numbered {process}; number each of them once"
    elif process in here:  # it was started again
        here[process].close()
    # Refused processes also receive the reason.
    here[-1 if problem else process] = connection
    return problem


def _is_there(connection: socket.socket) -> bool:
    """Whether the other end still waits: it sent nothing and has not closed."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(_LINE_SECS)


def _missing(cluster: Cluster, here: dict[int, socket.socket]) -> str:
    absent = [n for n in range(1, cluster.num_processes) if n not in here]
    names = [cluster.name(n) for n in absent[:_MAX_NAMED]]
    if len(absent) > len(names):
        names.append(f"{len(absent) - len(names)} more")
    return (
        f"{', '.join(names)} of {cluster.num_processes} did not connect within "
        f"{cluster.timeout_secs} s; check that they are started and can reach "
        f"{cluster.coordinator}"
    )


def _address(cluster: Cluster) -> tuple[str, int]:
    """Returns host and port of process 0."""
    assert cluster.coordinator is not None, "JAX finds the processes by itself"
    host, _, port = cluster.coordinator.rpartition(":")
    return host.strip("[]"), int(port)


def _report(cluster: Cluster) -> None:
    address = _address(cluster)
    deadline = time.monotonic() + cluster.timeout_secs
    while True:
        try:
            with socket.create_connection(address, timeout=_LINE_SECS) as connection:
                hello = [cluster.process_id, cluster.num_processes]
                connection.sendall(f"{json.dumps(hello)}\n".encode())
                connection.settimeout(None)  # process 0 keeps the time
                problem, is_late = json.loads(_line(connection))
            break
        except OSError as error:
            # Not there yet; its name may not be known yet either.
            if time.monotonic() > deadline:
                raise PeerLostError(
                    f"{cluster.name(0)} did not answer at {cluster.coordinator} within "
                    f"{cluster.timeout_secs} s ({error.strerror or error}); check "
                    "that it is started and that this is its address"
                ) from error
            time.sleep(RETRY_SECS)
    _raise_if(problem, is_late)


def _line(connection: socket.socket) -> str:
    """Reads the next line; raises ConnectionError if it ends before its newline."""
    with connection.makefile("r", encoding="utf-8") as stream:
        line = stream.readline(4096)
    if not line.endswith("\n"):
        raise ConnectionError("the connection was closed")
    return line.rstrip("\n")
