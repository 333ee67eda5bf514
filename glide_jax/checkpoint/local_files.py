"""One process's part of a training state, as a file on a disk of its own host.

    a line of JSON    what the file holds: `Header`
    the payload       the bytes of the shards, in the header's order, each aligned
    32 bytes          the SHA-256 of everything before

A part has each distinct shard of the arrays that the process's devices hold. A copy
that another process keeps is the same file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glide_jax.checkpoint import item_files, manifest
from glide_jax.runtime import files

FORMAT = 1
DIGEST_BYTES = hashlib.sha256().digest_size
# Bytes that are hashed, written or received at once.
CHUNK = 8 << 20
# More than any header: damage may have removed the end of the line.
_MOST_LINE_BYTES = 256 << 20
# Of the shards in the payload, so that views of any dtype are aligned.
_ALIGNMENT = 64
_NAME = re.compile(r"([0-9]+)\.([0-9]+)of([0-9]+)\.part")

# (first, index after the last) on each axis.
Span = tuple[tuple[int, int], ...]


class Shard(NamedTuple):
    """A shard: the path of its array, the array's dtype and shape, and its place."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    span: Span

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of the shard itself."""
        return tuple(stop - start for start, stop in self.span)

    @property
    def num_bytes(self) -> int:
        """The size of the shard."""
        return math.prod(self.sizes) * jnp.dtype(self.dtype).itemsize


class Part(NamedTuple):
    """A file of the tier, by what its name and its header say.

    Attributes:
      step: of the state.
      process: the process whose part it is.
      processes: the number of processes that the state is spread over.
      token: of the start that wrote it; see `lineage`.
    """

    step: int
    process: int
    processes: int
    token: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"{self.step}.{self.process}of{self.processes}.part"


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
      part: which part of which state it is.
      mesh: sizes of the axes of the mesh.
      meta: the metadata of the checkpoint, JSON.
      shards: in the order of the payload.
    """

    part: Part
    mesh: Mapping[str, int]
    meta: Mapping[str, Any]
    shards: tuple[Shard, ...]

    def line(self) -> bytes:
        """The first line of the file."""
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)})
        return text.encode() + b"\n"


def parse(line: bytes) -> Header:
    """The inverse of `Header.line`.

    Raises:
      DamagedError: the line is no header, or of another version of the format.
    """
    try:
        found = json.loads(line)
        if found["format"] != FORMAT:
            raise manifest.DamagedError([f"is of format {found['format']}"])
        shards = (
            Shard(path, dtype, tuple(shape), tuple((a, b) for a, b in span))
            for path, dtype, shape, span in found["shards"]
        )
        part = Part(*found["part"])
        return Header(part, found["mesh"], found["meta"], tuple(shards))
    except (ValueError, LookupError, TypeError, RecursionError):
        raise manifest.DamagedError(["has a damaged header"]) from None


def span_of(index: tuple[slice, ...], shape: tuple[int, ...]) -> Span:
    """An index of an array, as JAX gives that of a shard, as numbers."""
    return tuple(
        part.indices(size)[:2] for part, size in zip(index, shape, strict=True)
    )


class HostCopy:
    """The distinct shards that this process holds, with memory for one copy of each.

    Attributes:
      mesh: sizes of the axes of the mesh.
      shards: in the order of the payload.
      payload: the bytes of the newest copy, uint8.
    """

    def __init__(self, items: Mapping[str, Any]) -> None:
        """Takes trees of arrays, to which all later ones must be alike."""
        found: dict[Shard, tuple[int, int]] = {}
        leaves = item_files.leaves_by_path(dict(items))
        for position, (path, leaf) in enumerate(leaves.items()):
            for k, shard in enumerate(leaf.addressable_shards):
                span = span_of(shard.index, leaf.shape)
                about = Shard(path, str(leaf.dtype), tuple(leaf.shape), span)
                found.setdefault(about, (position, k))
        self.mesh = mesh_of(items)
        self.shards = tuple(found)
        self.payload = np.zeros(payload_bytes(self.shards), np.uint8)
        self._places = list(found.values())
        self._views = list(views(self.shards, self.payload).values())

    def take(self, items: Mapping[str, Any]) -> None:
        """Copies the shards of these trees; donating them next is safe."""
        # By position: naming thousands of shards takes longer than their copies.
        leaves = jax.tree.leaves(dict(items))
        found = [leaves[position].addressable_data(k) for position, k in self._places]
        for data in found:
            data.copy_to_host_async()
        for view, data in zip(self._views, found, strict=True):
            # A copy, since on a CPU the source is the memory of the array itself.
            np.copyto(view, np.asarray(data))


def wanted_shards(abstract_items: Mapping[str, Any]) -> list[Shard]:
    """The shards that `shards_of` has for arrays like these ShapeDtypeStructs."""
    found = {}
    for path, leaf in item_files.leaves_by_path(dict(abstract_items)).items():
        places = leaf.sharding.addressable_devices_indices_map(leaf.shape)
        for index in places.values():
            assert index is not None  # devices that can be addressed have one
            span = span_of(index, leaf.shape)
            found[Shard(path, str(leaf.dtype), tuple(leaf.shape), span)] = None
    return list(found)


def mesh_of(items: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of the axes of the mesh that the arrays are on."""
    mesh = jax.tree.leaves(dict(items))[0].sharding.mesh
    return {str(name): int(size) for name, size in mesh.shape.items()}


def _offsets(shards: Iterable[Shard]) -> Iterator[tuple[Shard, int]]:
    """The shards with their offsets in the payload."""
    offset = 0
    for shard in shards:
        yield shard, offset
        offset += -(-shard.num_bytes // _ALIGNMENT) * _ALIGNMENT


def payload_bytes(shards: Iterable[Shard]) -> int:
    """The size of the payload of these shards."""
    return max(
        (begin + shard.num_bytes for shard, begin in _offsets(shards)), default=0
    )


def views(
    shards: Iterable[Shard], payload: np.ndarray
) -> dict[tuple[str, Span], np.ndarray]:
    """The shards in a payload (uint8), by path and place."""
    return {
        (shard.path, shard.span): payload[begin : begin + shard.num_bytes]
        .view(jnp.dtype(shard.dtype))
        .reshape(shard.sizes)
        for shard, begin in _offsets(shards)
    }


def arrays(
    abstract_items: Mapping[str, Any], header: Header, payload: np.ndarray
) -> dict[str, Any]:
    """The items of the state, with the bits of the shards on this process's devices."""
    parts = views(header.shards, payload)

    def place(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name, shape = item_files.path_text(path), leaf.shape

        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # devices that can be addressed have one
            return parts[name, span_of(index, shape)]

        return jax.make_array_from_callback(shape, leaf.sharding, shard)

    return jax.tree_util.tree_map_with_path(place, dict(abstract_items))


def write(
    path: pathlib.Path, line: bytes, payload: np.ndarray, publish: Callable[[], None]
) -> bytes:
    """Writes a file, and calls `publish` before it gets its name; returns its digest.

    Raises:
      OSError: the file cannot be written.
    """
    digest = hashlib.sha256()
    with files.scratch(path) as draft:
        with draft.open("wb") as file:
            for chunk in chunks(line, payload):
                digest.update(chunk)
                file.write(chunk)
            file.write(digest.digest())
        publish()
    return digest.digest()


def chunks(line: bytes, payload: np.ndarray) -> Iterator[memoryview]:
    """The content of a file without its digest, in pieces."""
    yield memoryview(line)
    whole = payload.data
    for begin in range(0, len(whole), CHUNK):
        yield whole[begin : begin + CHUNK]


def receive(path: pathlib.Path, num_bytes: int, read: Callable[[int], bytes]) -> None:
    """Writes a file that arrives in pieces.

    Args:
      path: its final name.
      num_bytes: its size.
      read: returns at most so many further bytes; none at the end.

    Raises:
      DamagedError: it is cut short, or its digest is another; nothing is left.
      OSError: it cannot be written, or received.
    """
    digest, left = hashlib.sha256(), num_bytes - DIGEST_BYTES
    with files.scratch(path) as draft:
        with draft.open("wb") as file:
            while left > 0:
                chunk = read(min(left, CHUNK))
                if not chunk:
                    raise manifest.DamagedError(["was cut short"])
                digest.update(chunk)
                file.write(chunk)
                left -= len(chunk)
            found = b""
            while len(found) < DIGEST_BYTES and (more := read(DIGEST_BYTES)):
                found += more
            file.write(found)
        if found != digest.digest():
            raise manifest.DamagedError(["has another SHA-256 on arrival"])


def read(path: pathlib.Path) -> tuple[Header, np.ndarray]:
    """Reads and verifies a file; returns its header and payload (uint8).

    Raises:
      DamagedError: it is missing, cut short, changed, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(_MOST_LINE_BYTES)
            left = os.fstat(file.fileno()).st_size - len(line) - DIGEST_BYTES
            payload = np.empty(max(left, 0), np.uint8)
            num_bytes = file.readinto(payload.data)
            stored = file.read()
    except OSError as error:
        raise manifest.DamagedError([f"cannot be read ({error.strerror})"]) from error
    digest = hashlib.sha256(line)
    digest.update(payload.data)
    if num_bytes != left or stored != digest.digest():
        raise manifest.DamagedError(["has another SHA-256"])
    return parse(line), payload


def parse_name(name: str) -> Part | None:
    """The inverse of `Part.name`, with an empty token; None for another file."""
    match = _NAME.fullmatch(name)
    return Part(*map(int, match.groups()), token="") if match else None


def find(folder: pathlib.Path) -> dict[pathlib.Path, Part]:
    """The files below `folder`; a damaged header has no token. Nothing is verified."""
    found = {}
    for path in sorted(folder.glob("*/*.part")):
        named = parse_name(path.name)
        if named is None:
            continue
        try:
            with path.open("rb") as file:
                part = parse(file.readline(_MOST_LINE_BYTES)).part
        except (OSError, manifest.DamagedError):
            part = named
        found[path] = part if part.name == path.name else named
    return found
