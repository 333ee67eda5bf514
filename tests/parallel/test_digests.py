"""Digests detect changes of an array and do not depend on its sharding."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from glide_jax.parallel import digests
from tests import fake_devices

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint8", "bool", "int8")


def fmix32(h: np.ndarray) -> np.ndarray:
    h = h ^ (h >> np.uint32(16))
    h = h * np.uint32(0x85EBCA6B)
    h = h ^ (h >> np.uint32(13))
    h = h * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def reference(array: np.ndarray) -> str:
    """The same digest in numpy, from the module's equation."""
    width = min(array.dtype.itemsize, 4)
    flat = np.ascontiguousarray(array).reshape(-1)
    bits = flat.view(f"uint{8 * width}").astype(np.uint32)
    index = np.arange(bits.size, dtype=np.uint32) * np.uint32(digests.STRIDE)
    lanes = [
        fmix32(bits ^ fmix32(index + np.uint32(lane))).sum(dtype=np.uint32)
        for lane in digests.LANES
    ]
    return "".join(f"{int(lane):08x}" for lane in lanes)


def make_array(dtype: str, shape: tuple[int, ...] = (3, 5)) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 100, shape)
    return values.astype(dtype if dtype != "bfloat16" else ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4), (0, 3)])
def test_the_digest_follows_its_equation(dtype, shape):
    array = make_array(dtype, shape)
    assert digests.leaf_digests({"a": array}) == {"a": reference(array)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_any_bit_of_any_element_changes_both_halves(dtype):
    array = make_array(dtype)
    changed = {}
    for byte in range(array.nbytes):
        for bit in range(8):
            copy = bytearray(array.tobytes())
            copy[byte] ^= 1 << bit
            changed[f"{byte}_{bit}"] = np.frombuffer(copy, array.dtype).reshape(3, 5)
    whole = reference(array)
    found = digests.leaf_digests(changed)
    assert len(found) == array.nbytes * 8
    for digest in found.values():
        assert digest[:8] != whole[:8]
        assert digest[8:] != whole[8:]


def test_swapped_elements_change_the_digest():
    array = np.arange(30, dtype=np.float32).reshape(5, 6)
    orders = {"t": array.T.reshape(5, 6), "r": array[::-1], "c": array[:, ::-1]}
    swapped = array.copy()
    swapped[0, 0], swapped[4, 5] = array[4, 5], array[0, 0]
    found = digests.leaf_digests({"a": array, "s": swapped, **orders})
    assert len(set(found.values())) == 5


ON_MESHES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from glide_jax.config import defaults
from glide_jax.parallel import device_mesh, digests
from tests.parallel.test_digests import reference

rng = np.random.default_rng(0)
tree = {
    "w": rng.normal(size=(8, 16, 4)).astype("float32"),
    "h": jnp.asarray(rng.normal(size=(16, 8)), jnp.bfloat16),
    "count": np.int32(7),
    "b": rng.normal(size=3).astype("float32"),
}
expected = {name: reference(np.asarray(leaf)) for name, leaf in tree.items()}
specs = [
    {"w": P("fsdp"), "h": P(("data", "fsdp")), "count": P(), "b": P()},
    {"w": P("data", "fsdp", "tensor"), "h": P(None, "fsdp"), "count": P(), "b": P()},
    {"w": P(None, ("fsdp", "data")), "h": P("tensor", "data"), "count": P(), "b": P()},
]
for data, fsdp, tensor in ((2, 4, 1), (2, 2, 2), (1, 8, 1), (8, 1, 1)):
    sizes = defaults.MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
    made = device_mesh.make_mesh(sizes)
    for spec in specs:
        for memory in ("device", "pinned_host"):
            placed = {
                name: jax.device_put(
                    leaf, NamedSharding(made, spec[name], memory_kind=memory)
                )
                for name, leaf in tree.items()
            }
            assert digests.leaf_digests(placed) == expected, (made, spec, memory)
            assert digests.differing_replicas(placed) == []

made = device_mesh.make_mesh(defaults.MeshConfig(data=4, fsdp=2))
sharding = NamedSharding(made, P("fsdp"))
for bad_positions in ([3], [6, 7], [0]):
    parts = []
    whole = tree["w"]
    for position, device in enumerate(made.devices.flat):
        part = whole[sharding.devices_indices_map(whole.shape)[device]].copy()
        if position in bad_positions:
            part.view("uint32")[1, 2, 3] ^= 1
        parts.append(jax.device_put(part, device))
    array = jax.make_array_from_single_device_arrays(whole.shape, sharding, parts)
    ids = sorted(made.devices.flat[i].id for i in bad_positions)
    good = jax.device_put(tree["b"], NamedSharding(made, P()))
    found = digests.differing_replicas({"good": good, "x": {"w": array}})
    assert found == [("x/w", ids)], found
"""


def test_digests_are_equal_on_every_mesh_and_differing_replicas_are_found():
    fake_devices.run_with_devices(ON_MESHES, devices=8)
