"""Copies of a process's local steps on another host, sent over TCP.

Every process listens at the address at which the others reach it. A connection is one
request: a line of JSON with the secret of this start, which process 0 draws and the
coordination service tells to all, and then

    put    a file, which is kept if its digest is right
    get    nothing; the answer is a line and the file

The answer is a line of JSON: a reason why not, or "". The network of a run is trusted
as JAX trusts it: the secret keeps strangers out, and nothing is encrypted.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import logging
import pathlib
import socket
import threading
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, NamedTuple

from glide_jax.checkpoint import item_files, kv_exchange, local_files, manifest
from glide_jax.parallel import distributed

logger = logging.getLogger(__name__)
# A peer that sends or takes nothing for this long is given up.
TIMEOUT_SECS = 60.0
# A firewall may drop packets, and a step waits for the copy of the one before.
CONNECT_SECS = 5.0
_LINE_BYTES = 1 << 16
LOOPBACK = "127.0.0.1"

Address = tuple[str, int]


def keeper_of(process: int, hosts: Sequence[str]) -> int | None:
    """The process that keeps the copies of `process`; None if there is no other.

    It is of the next host, with the same place there; on a single host it is the next
    process.

    Args:
      process: index of a process.
      hosts: the host of each process.
    """
    names = list(dict.fromkeys(hosts))
    if len(hosts) == 1:
        return None
    if len(names) == 1:
        return (process + 1) % len(hosts)
    members = {
        name: [i for i, host in enumerate(hosts) if host == name] for name in names
    }
    following = members[names[(names.index(hosts[process]) + 1) % len(names)]]
    return following[members[hosts[process]].index(process) % len(following)]


def address_towards(host: str, port: int) -> str:
    """The address of this host on its way to another one; no packet is sent."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family, kind, _, _, place = found[0]
    with socket.socket(family, kind) as probe:
        probe.connect(place)
        return probe.getsockname()[0]


class Peer(NamedTuple):
    """What a process tells the others about itself at a start.

    Attributes:
      host: name of its host.
      place: its folder; processes with one place share a disk.
      files: the parts on that disk.
      address: where its server listens; None if it is alone.
    """

    host: str
    place: str
    files: list[local_files.Part]
    address: Address | None

    @staticmethod
    def parse(text: str) -> Peer:
        """The inverse of json.dumps."""
        host, place, files, address = json.loads(text)
        parts = [local_files.Part(*part) for part in files]
        return Peer(host, place, parts, tuple(address) if address else None)


def own_host(channel: kv_exchange.KvExchange) -> str:
    """The address at which the other processes reach this one; all must call it.

    It is the address towards process 0. A process on the host of process 0 may know
    that by a loopback address, and takes its address towards another host.
    """
    found, name = LOOPBACK, socket.gethostname()
    if channel.index > 0:
        host, _, port = distributed.coordinator().rpartition(":")
        found = address_towards(host.strip("[]"), int(port))
    peers = map(json.loads, channel.exchange(json.dumps([name, found])))
    others = [address for host, address in peers if host != name]
    if others and ipaddress.ip_address(found).is_loopback:
        found = address_towards(others[-1], 1)
    return found


class Server:
    """Keeps copies in `folder` and gives out the files below its parent.

    Attributes:
      address: host and port at which it listens.
    """

    def __init__(self, folder: pathlib.Path, host: str, secret: str) -> None:
        self._folder, self._secret = folder, secret
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.address: Address = self._listener.getsockname()[:2]
        # Daemons: a peer that hangs must not keep this process from ending.
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Takes no more requests."""
        # Otherwise a thread that waits in accept keeps the port.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(
                target=self._answer, args=(connection,), daemon=True
            ).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(TIMEOUT_SECS)
            with connection.makefile("rb") as stream:
                asked = _parse(stream.readline(_LINE_BYTES))
                secret = str(asked.get("secret", ""))
                if not hmac.compare_digest(secret.encode(), self._secret.encode()):
                    logger.warning("a stranger's request for local steps is refused")
                    return
                with item_files.WriteAttempt() as attempt:
                    if asked["ask"] == "put":
                        self._keep(asked, stream)
                    else:
                        self._give(asked, connection)
                        return
                connection.sendall(_line({"reason": attempt.reason}))

    def _keep(self, asked: dict[str, Any], stream: BinaryIO) -> None:
        part, left = local_files.Part(*asked["part"]), int(asked["bytes"])

        def read(most: int) -> bytes:
            nonlocal left
            chunk = stream.read(min(most, left))
            left -= len(chunk)
            return chunk

        try:
            local_files.receive(self._folder / part.name, left, read)
        finally:
            # A sender that still sends would not read the reason.
            while left and read(local_files.CHUNK):
                pass
        delete_others(self._folder, part.process, {part.step, *asked["keep"]})

    def _give(self, asked: dict[str, Any], connection: socket.socket) -> None:
        part = local_files.Part(*asked["part"])
        found = local_files.find(self._folder.parent)
        path = next((path for path, one in found.items() if one == part), None)
        if path is None:
            connection.sendall(_line({"reason": "is not there"}))
            return
        with path.open("rb") as file:
            size = file.seek(0, 2)
            connection.sendall(_line({"reason": "", "bytes": size}))
            file.seek(0)
            connection.sendfile(file)


def delete_others(folder: pathlib.Path, process: int, steps: Iterable[int]) -> None:
    """Deletes the files of a process's part of other steps than these."""
    kept = set(steps)
    for path in folder.glob("*.part"):
        name = local_files.parse_name(path.name)
        if name and name.process == process and name.step not in kept:
            path.unlink(missing_ok=True)


def put(
    address: Address,
    secret: str,
    part: local_files.Part,
    content: Sequence[memoryview],
    keep: Iterable[int],
) -> None:
    """Sends a file to the process at `address`, which keeps it.

    Args:
      address: where its server listens.
      secret: of this start.
      part: what the file holds.
      content: the pieces of the file.
      keep: steps of which it keeps the copies that it has, beside this one.

    Raises:
      OSError: it cannot be reached, or did not take the file in time.
      DamagedError: it refused the file; the reason.
    """
    size = sum(map(len, content))
    asked = {"ask": "put", "part": part, "bytes": size, "keep": list(keep)}
    with _connected(address) as connection:
        connection.sendall(_line({"secret": secret, **asked}))
        for chunk in content:
            connection.sendall(chunk)
        with connection.makefile("rb") as stream:
            _check(_parse(stream.readline(_LINE_BYTES)))


def get(
    address: Address, secret: str, part: local_files.Part, path: pathlib.Path
) -> None:
    """Fetches a file from the process at `address` and stores it at `path`.

    Raises:
      OSError: it cannot be reached or the file cannot be written.
      DamagedError: it does not have the file, or the file is damaged.
    """
    with _connected(address) as connection:
        connection.sendall(_line({"secret": secret, "ask": "get", "part": part}))
        with connection.makefile("rb") as stream:
            answer = _parse(stream.readline(_LINE_BYTES))
            _check(answer)
            local_files.receive(path, answer["bytes"], stream.read)


def _connected(address: Address) -> socket.socket:
    connection = socket.create_connection(address, CONNECT_SECS)
    connection.settimeout(TIMEOUT_SECS)
    return connection


def _check(answer: dict[str, Any]) -> None:
    reason = answer.get("reason", "did not answer")
    if reason:
        raise manifest.DamagedError([reason])


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _parse(line: bytes) -> dict[str, Any]:
    """A line of JSON; {} for anything else."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
