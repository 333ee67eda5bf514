"""Coordinates the processes of a run: start, agreement, and shutdown.

JAX shares arrays between processes; everything else (settings, a tokenizer, a failure)
is sent through the key-value store of its coordinator. For a single process all of
this does nothing.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import pathlib
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import jax
import jaxlib.version

# The store has no public API, as of jax 0.11.
from jax._src import distributed as jax_distributed
from jax.experimental import multihost_utils

import glide_jax
from glide_jax.config import resolve
from glide_jax.config.defaults import Config
from glide_jax.errors import PeerLostError, UserError
from glide_jax.parallel import cluster_env, rendezvous
from glide_jax.runtime import lifecycle

# A process without a heartbeat for this long is lost; JAX then ends the others.
HEARTBEAT_SECS = 60
# How often a process checks whether another one has failed.
POLL_SECS = 1.0
# Messages of JAX's communication backends when a process is gone.
_PEER_LOST = re.compile(
    r"gloo|connection (closed|reset|refused)|closed by peer|unavailable|heartbeat"
    r"|deadline|coordination service|preempted|nccl|socket",
    re.IGNORECASE,
)
_STATUS = re.compile(r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED): ")
# Waiting has no separate limit: a process that does not arrive has failed, as reported.
_FOREVER_MS = 7 * 24 * 3600 * 1000
_FAILED = "glide_jax/failed"


def is_joined() -> bool:
    """Whether this process trains together with others."""
    return jax.distributed.is_initialized()


def process_id() -> int:
    """Returns the index of this process, without initializing the devices."""
    return _state().process_id


def process_count() -> int:
    """Returns the number of processes, without initializing the devices."""
    return _state().num_processes


def coordinator() -> str:
    """Returns the host:port of process 0 as JAX connected to it; "" if not joined."""
    return _state().coordinator_address or ""


class Together:
    """Joins the processes given by the environment, while the `with` block runs.

    All must enter it before any of them computes. An error that leaves the block in one
    process ends every other with the same message and exit code, whatever they are
    waiting for: a step, a checkpoint, the next barrier.
    """

    def __init__(
        self, asked: Config | Mapping[str, Any], *, are_apart: bool = False
    ) -> None:
        """Takes what all processes must have been given.

        Args:
          asked: the settings of a run, or the flags of a command and their values.
          are_apart: whether each process computes on its own devices only. Otherwise
            they run one program on the devices of all.
        """
        self._asked, self._are_apart = asked, are_apart
        self._is_over = threading.Event()

    def __enter__(self) -> Together:
        """Waits for all processes and checks that they agree.

        Raises:
          UserError: processes did not connect in time (named), or settings or versions
            differ from those of process 0.
        """
        cluster = cluster_env.find(os.environ)
        if cluster is None:
            return self
        # It passes SIGTERM on to all processes; those that are apart end by themselves.
        jax.config.update("jax_enable_preemption_service", not self._are_apart)
        _connect(cluster)
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            check_facts(self._asked)
        except UserError as error:
            self._report_failure(error)
            raise
        wait_for_all("start")
        if not self._are_apart:
            _compile_together()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not is_joined():
            return
        if error is not None:
            self._report_failure(error)
            if is_peer_lost(error):
                # Threads of this process may wait for the other one forever.
                reason = str(error).partition("\n")[0]
                logging.error("another process is gone (%s)", reason)
                _leave(_exit_code(error))
            return
        wait_for_all("end")
        self._is_over.set()

    def _report_failure(self, error: BaseException) -> None:
        """Ends the other processes; this one ends with its own traceback or line."""
        self._is_over.set()
        code = _exit_code(error)
        is_told = isinstance(error, (UserError, lifecycle.StoppedError))
        kind = "" if is_told else f"{type(error).__name__}: "
        line = f"{_own_name()}: {kind}{str(error).partition(chr(10))[0]}"
        try:
            key = f"{_FAILED}/{process_id()}"
            _state().client.key_value_set(key, json.dumps([code, line]))
        except jax.errors.JaxRuntimeError:
            pass  # the coordinator is gone, and with it all others
        _wait_for_readers()
        # Before JAX's own shutdown, which waits for processes that have exited.
        atexit.register(_leave, code)

    def _listen(self) -> None:
        while not self._is_over.wait(POLL_SECS):
            try:
                failures = _state().client.key_value_dir_get(_FAILED)
            except jax.errors.JaxRuntimeError:
                return  # the coordinator is gone, and JAX ends this process
            if failures and not self._is_over.is_set():
                code, line = json.loads(failures[0][1])
                logging.error("stopped: %s", line)
                _wait_for_readers()
                _leave(code)


def from_first(name: str, make: Callable[[], bytes]) -> bytes:
    """Broadcasts the result of `make`, which runs on process 0 only.

    Each name may be used once in a run.
    """
    if not is_joined():
        return make()
    key, client = f"glide_jax/{name}", _state().client
    if process_id() > 0:
        return client.blocking_key_value_get_bytes(key, _FOREVER_MS)
    made = make()
    client.key_value_set_bytes(key, made)
    return made


def check_equal(what: str, value: object, remedy: str) -> None:
    """Raises UserError in every process whose value differs from process 0's.

    Args:
      what: name of the value; each may be used once in a run.
      value: compared as a string.
      remedy: end of the error message.
    """
    mine = str(value)
    first = from_first(what, mine.encode).decode()
    if mine != first:
        raise UserError(
            f"{what} is {mine} in {_own_name()}, but {first} in process 0; {remedy}"
        )


def wait_for_all(name: str) -> None:
    """A barrier of all processes; each name may be used once in a run."""
    if is_joined():
        _state().client.wait_at_barrier(f"glide_jax/{name}", _FOREVER_MS)


def arrive(name: str) -> None:
    """Notes that this process is at a place; each name may be used once in a run."""
    if is_joined():
        _state().client.key_value_set(f"glide_jax/{name}/{process_id()}", "")


def have_all_arrived(name: str) -> bool:
    """Whether all processes are at a place where they `arrive`."""
    if not is_joined():
        return True
    here = _state().client.key_value_dir_get(f"glide_jax/{name}")
    return len(here) == process_count()


class StopPoll:
    """Polls periodically whether to stop; every process gets the same answers.

    A single process stops once `stop` is requested. Among several, SIGTERM to any one
    makes JAX choose a call that none has reached yet, so all must poll equally often.
    Once the answer is yes, it remains so.
    """

    def __init__(self, stop: lifecycle.StopRequest) -> None:
        self._stop = stop
        self._asked = 0
        self.is_stopping = False

    def __call__(self) -> bool:
        """Returns whether to stop."""
        if not self.is_stopping and is_joined():
            self._asked += 1
            self.is_stopping = multihost_utils.reached_preemption_sync_point(
                self._asked
            )
        elif not self.is_stopping:
            self.is_stopping = self._stop.requested
        return self.is_stopping


def _connect(cluster: cluster_env.Cluster) -> None:
    arguments: dict[str, Any] = {
        "initialization_timeout": cluster.timeout_secs,
        "heartbeat_timeout_seconds": HEARTBEAT_SECS,
    }
    if cluster.coordinator is not None:
        rendezvous.wait_for_processes(cluster)
        arguments |= {
            "coordinator_address": cluster.coordinator,
            "num_processes": cluster.num_processes,
            "process_id": cluster.process_id,
            "local_device_ids": cluster.local_devices,
            # Otherwise JAX uses one device per process under Slurm.
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(**arguments)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        # A retryable code: the launcher starts the processes again.
        raise PeerLostError(
            f"the processes did not connect within {cluster.timeout_secs} s "
            f"({reason}); check that all are started and can reach each other"
        ) from error


def _compile_together() -> None:
    """Makes all processes compile for about the same time.

    gloo times out if a process enters a collective 30 s after the others. On CPUs JAX's
    cache has the programs of process 0 only, which would otherwise run ahead.
    """
    if jax.default_backend() == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)


def check_facts(asked: Config | Mapping[str, Any]) -> None:
    """Raises UserError if the facts of this process differ from process 0's."""
    versions = {
        "glide_jax": f"{glide_jax.__version__} with code {code_digest()[:12]}",
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "python": ".".join(map(str, sys.version_info[:2])),
    }
    is_run = isinstance(asked, Config)
    mine = [
        socket.gethostname(),
        versions,
        resolve.to_json(asked) if is_run else json.dumps(dict(asked)),
    ]
    facts = from_first("facts", lambda: json.dumps(mine).encode())
    host, first_versions, settings = json.loads(facts)
    for name, version in versions.items():
        if version != first_versions[name]:
            raise UserError(
                f"{_own_name()} runs {name} {version}, process 0 ({host}) "
                f"{first_versions[name]}; install the same on every host"
            )
    if is_run:
        what, remedy = "settings", "the same --config and the same flags after it"
        differences = resolve.differences(resolve.from_json(settings), asked)
    else:
        what, remedy = "flags", "the same flags"
        differences = _flag_differences(json.loads(settings), json.loads(mine[2]))
    if differences:
        raise UserError(
            f"{_own_name()} has other {what} than process 0 ({host}): "
            f"{'; '.join(differences)}; start every process with {remedy}"
        )


def _flag_differences(first: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """Returns a text for each flag with another value than process 0's."""
    return [
        f"--{name}: {first.get(name, 'not given')} -> {own.get(name, 'not given')}"
        for name in dict.fromkeys([*first, *own])
        if first.get(name) != own.get(name)
    ]


def code_digest(folder: pathlib.Path = pathlib.Path(__file__).parents[1]) -> str:
    """Returns the SHA-256 of a folder's Python files, by default this package's."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _own_name() -> str:
    return f"process {process_id()} ({socket.gethostname()})"


def _exit_code(error: BaseException) -> int:
    """Returns the exit code of the command line for an error."""
    if isinstance(error, UserError):
        return error.exit_code
    if isinstance(error, lifecycle.StoppedError):
        return lifecycle.ExitCode.PREEMPTED
    if isinstance(error, KeyboardInterrupt):
        return lifecycle.ExitCode.INTERRUPTED
    return lifecycle.ExitCode.PEER_LOST if is_peer_lost(error) else 1


def is_peer_lost(error: BaseException) -> bool:
    """Whether the error reports that another process is unreachable.

    JAX raises runtime errors as its own error type or, while a program is launched, as
    a ValueError that starts with the runtime's status.
    """
    text = str(error)
    is_runtimes = isinstance(error, jax.errors.JaxRuntimeError) or (
        isinstance(error, (ValueError, RuntimeError)) and _STATUS.match(text)
    )
    return bool(is_runtimes and _PEER_LOST.search(text))


def _wait_for_readers() -> None:
    """Delays the exit of process 0, which hosts the store that the others read."""
    if process_id() == 0:
        time.sleep(3 * POLL_SECS)


def _leave(code: int) -> None:
    """Ends this process at once: its other threads may wait forever."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _state() -> Any:
    """Returns JAX's record of the distributed run: client, process_id, num_processes.

    Used instead of jax.process_index(), which initializes the devices.
    """
    return jax_distributed.global_state
