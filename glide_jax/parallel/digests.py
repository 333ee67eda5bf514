"""Digests of sharded arrays: the same on every mesh, without gathering them.

The digest of an array is a sum modulo 2**32, over its elements, of

    mix(bits, i) = fmix32(bits ^ fmix32(i * STRIDE + LANE))                      (1)

in two lanes with different constants. `bits` are those of one element (of one half of
it, if it has 64), i is its row-major index, and fmix32 is MurmurHash3's finalizer, a
bijection. So any change of one element changes both lanes, swapped elements almost
surely do, and parts may be summed in any order on any device.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

STRIDE = 0x9E3779B1  # odd, so that i -> i * STRIDE is a bijection
LANES = (0x2545F491, 0xC2B2AE3D)
# Digests per transfer: a program with this many operands is compiled.
_ROWS = 512


def leaf_digests(tree: Any) -> dict[str, str]:
    """Returns 16 hexadecimal digits for each array, by path ("unet/stem/kernel").

    A collective if the arrays span several processes: all of them must call it.
    """
    return start(tree)()


def start(tree: Any) -> Callable[[], dict[str, str]]:
    """Starts `leaf_digests` and returns a function that waits for the result.

    The computation is enqueued on return, so that the arrays may be donated next; the
    function only reads, and may be called in another thread.
    """
    places, batches = _start(tree)

    def finish() -> dict[str, str]:
        digests = {}
        for (path, parts), values in zip(places.items(), _fetch(batches), strict=True):
            firsts = [copies[0] for copies in parts]
            sums = values[firsts].sum(axis=0, dtype=np.uint32)
            digests[path] = "".join(f"{int(lane):08x}" for lane in sums)
        return digests

    return finish


def differing_replicas(tree: Any) -> list[tuple[str, list[int]]]:
    """Returns arrays whose replicas differ: (path, ids of devices in the minority).

    Without a majority the copy of the mesh's first device is considered correct.
    A collective, like `leaf_digests`.
    """
    devices = list(_mesh_of(jax.tree.leaves(tree)).devices.flat)
    places, batches = _start(tree)
    differing = []
    for (path, parts), values in zip(places.items(), _fetch(batches), strict=True):
        wrong = [i for copies in parts for i in _minority(copies, values)]
        if wrong:
            differing.append((path, sorted(devices[i].id for i in wrong)))
    return differing


def _start(tree: Any) -> tuple[dict[str, list[list[int]]], list[jax.Array]]:
    """Starts the sums of every array.

    Returns:
      By path the positions of devices that hold the same part, and the enqueued sums.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    mesh = _mesh_of([leaf for _, leaf in leaves])
    places: dict[str, list[list[int]]] = {}
    rows = []
    for path, leaf in leaves:
        leaf, sharding = _on_mesh(leaf, mesh)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        places[name] = _copies(sharding, leaf.shape)
        rows.append(_partial_sums(sharding)(leaf))
    batches = [
        _replicate(mesh)(rows[begin : begin + _ROWS])
        for begin in range(0, len(rows), _ROWS)
    ]
    return places, batches


def _fetch(batches: list[jax.Array]) -> list[np.ndarray]:
    """Returns (devices, lanes) uint32 of each leaf."""
    return [row for batch in batches for row in np.asarray(batch)]


def _minority(copies: list[int], values: np.ndarray) -> list[int]:
    votes: dict[bytes, list[int]] = defaultdict(list)
    for position in copies:
        votes[values[position].tobytes()].append(position)
    # Of equal counts max returns the first, the copy of the first device.
    majority = max(votes.values(), key=len)
    return [position for position in copies if position not in majority]


def _mesh_of(leaves: list[Any]) -> Mesh:
    """Returns the mesh of the leaves; a mesh of one device if they have none."""
    for leaf in leaves:
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding):
            return _concrete_mesh(sharding)
    devices = {d for leaf in leaves for d in getattr(leaf, "devices", set)()}
    device = min(devices or {jax.devices()[0]}, key=lambda d: d.id)
    return Mesh([device], ("all",), axis_types=(AxisType.Auto,))


def _concrete_mesh(sharding: NamedSharding) -> Mesh:
    assert isinstance(sharding.mesh, Mesh), "arrays are on existing devices"
    return sharding.mesh


def _on_mesh(leaf: Any, mesh: Mesh) -> tuple[jax.Array, NamedSharding]:
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, NamedSharding) and sharding.mesh == mesh:
        return leaf, sharding
    sharding = NamedSharding(mesh, P())
    return jax.device_put(leaf, sharding), sharding


def _copies(sharding: NamedSharding, shape: tuple[int, ...]) -> list[list[int]]:
    """Returns positions in the mesh, grouped by the part that they hold."""
    indices = sharding.devices_indices_map(shape)
    holders: dict[tuple, list[int]] = defaultdict(list)
    for position, device in enumerate(_concrete_mesh(sharding).devices.flat):
        key = tuple((part.start, part.stop) for part in indices[device])
        holders[key].append(position)
    return list(holders.values())


@functools.cache
def _partial_sums(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    """Returns a program: array -> (devices, lanes) uint32, sums of each device's part.

    There is one per sharding, compiled for each shape: a tree has thousands of arrays,
    but few combinations of both.
    """
    mesh = _concrete_mesh(sharding)
    axes = mesh.axis_names
    own = jax.shard_map(
        functools.partial(_sums_of_part, mesh=mesh, spec=sharding.spec),
        mesh=mesh,
        in_specs=sharding.spec,
        out_specs=P(axes),
        check_vma=False,  # sums of replicas may differ
    )

    def sums(leaf: jax.Array) -> jax.Array:
        # Arrays in host memory are copied to the device first.
        leaf = jax.device_put(leaf, sharding.with_memory_kind("device"))
        return own(leaf)

    return jax.jit(sums, out_shardings=NamedSharding(mesh, P(axes)))


@functools.cache
def _replicate(mesh: Mesh) -> Callable[[list[jax.Array]], jax.Array]:
    """Returns a program that stacks sums and replicates them on every device."""
    return jax.jit(jnp.stack, out_shardings=NamedSharding(mesh, P()))


def _sums_of_part(part: jax.Array, *, mesh: Mesh, spec: P) -> jax.Array:
    bits = as_bits(part)
    offsets = [_first_row(axes) for axes in spec]
    offsets += [0] * (bits.ndim - len(offsets))
    sizes = [
        size * _parts(axes, mesh)
        for size, axes in zip(bits.shape, (*spec, *[None] * bits.ndim), strict=False)
    ]
    index = jnp.zeros(bits.shape, jnp.uint32)
    for axis, (offset, size) in enumerate(zip(offsets, bits.shape, strict=True)):
        stride = jnp.uint32(math.prod(sizes[axis + 1 :]) % 2**32)
        row = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        index += (row + jnp.uint32(offset) * jnp.uint32(size)) * stride
    sums = [
        jnp.sum(_mix(bits, index, jnp.uint32(lane)), dtype=jnp.uint32) for lane in LANES
    ]
    return jnp.stack(sums)[None]


def as_bits(array: jax.Array) -> jax.Array:
    """Returns an array's bits as uint32; a 64-bit element as two, on a new last axis.

    Raises:
      TypeError: elements of another size than 1, 2, 4 or 8 bytes.
    """
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    width = array.dtype.itemsize
    if width not in (1, 2, 4, 8):
        raise TypeError(f"{array.dtype} has no digest: its elements have {width} bytes")
    word = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[width]
    return jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)


def _mix(bits: jax.Array, index: jax.Array, lane: jax.Array) -> jax.Array:
    """Equation (1) of the module."""
    return _fmix32(bits ^ _fmix32(index * jnp.uint32(STRIDE) + lane))


def _fmix32(h: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3: every bit of h affects every bit of the result."""
    h ^= h >> 16
    h *= jnp.uint32(0x85EBCA6B)
    h ^= h >> 13
    h *= jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def _names(axes: Any) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)


def _parts(axes: Any, mesh: Mesh) -> int:
    """Returns the number of shards of an entry of a PartitionSpec."""
    return math.prod(mesh.shape[name] for name in _names(axes))


def _first_row(axes: Any) -> jax.Array | int:
    """Returns the index of the shard that this device holds."""
    names = _names(axes)
    return jax.lax.axis_index(names) if names else 0
