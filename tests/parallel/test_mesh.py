"""The mesh uses every device once, or says which size to change."""

import dataclasses

import jax
import numpy as np
import pytest

from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.parallel import mesh
from tests import fake_devices


def test_one_device_makes_a_mesh_of_ones_with_auto_axes():
    made = mesh.make_mesh(defaults.MeshConfig())
    assert dict(made.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert made.axis_types == (jax.sharding.AxisType.Auto,) * 3


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"fsdp": 2}, "product 2 does not divide the number of devices, 1"),
        ({"data": 3}, "product 3 does not equal the number of devices, 1"),
        ({"data": -1, "fsdp": -1}, "at most one is -1"),
        ({"tensor": 0}, "sizes are 1 or more"),
    ],
)
def test_a_mesh_that_leaves_devices_over_is_refused(sizes, message):
    with pytest.raises(UserError, match=message):
        mesh.make_mesh(defaults.MeshConfig(**sizes))


def test_eight_devices_take_any_layout_and_name_the_batch_that_fits():
    fake_devices.run_with_devices("""
        import jax
        from glide_jax.config import defaults
        from glide_jax.errors import UserError
        from glide_jax.parallel import mesh

        def shape(**sizes):
            made = mesh.make_mesh(defaults.MeshConfig(**sizes))
            assert {d.id for d in made.devices.flat} == set(range(8))
            return tuple(made.shape.values())

        assert shape() == (8, 1, 1)
        assert shape(fsdp=4) == (2, 4, 1)
        assert shape(data=1, fsdp=-1, tensor=2) == (1, 4, 2)

        made = mesh.make_mesh(defaults.MeshConfig(data=2, fsdp=2, tensor=2))
        mesh.check_batch(100, made)  # tensor devices share their examples
        made = mesh.make_mesh(defaults.MeshConfig(fsdp=2))
        try:
            mesh.check_batch(100, made)
        except UserError as error:
            assert str(error) == (
                "train.global_batch_size=100 is not divisible by 8 "
                "(mesh data=4, fsdp=2); use 96 or 104"
            ), error
        else:
            raise AssertionError("100 was taken")

        try:
            mesh.make_mesh(defaults.MeshConfig(data_dcn=2))
        except UserError as error:
            assert "2 parts, but the devices lie in 1 slices" in str(error), error
        else:
            raise AssertionError("one host was taken for two slices")
    """)


def test_a_batch_smaller_than_the_mesh_is_told_the_smallest_that_fits():
    made = mesh.make_mesh(defaults.MeshConfig())
    mesh.check_batch(1, made)
    with pytest.raises(UserError, match=r"=0 is not divisible .*; use 1$"):
        mesh.check_batch(0, made)


@pytest.mark.parametrize(
    ("sizes", "processes", "expected"),
    [
        # (data, fsdp, tensor), process of each device, slice of each process
        ((8, 1, 1), [0, 0, 0, 0, 1, 1, 1, 1], [(0, 2), (1, 2)]),
        ((2, 4, 1), [0, 0, 1, 1, 2, 2, 3, 3], [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((4, 1, 2), [0, 0, 0, 0, 1, 1, 1, 1], [(0, 2), (1, 2)]),
        # The tensor axis joins processes 0 and 1, and 2 and 3.
        ((2, 1, 4), [0, 0, 1, 1, 2, 2, 3, 3], [(0, 2), (0, 2), (1, 2), (1, 2)]),
        # A torus may lay its hosts across the mesh.
        ((8, 1, 1), [0, 0, 1, 1, 0, 0, 1, 1], [(0, 2), (1, 2)]),
    ],
)
def test_processes_share_out_the_batch(monkeypatch, sizes, processes, expected):
    made = mesh_of(sizes, processes)
    found = []
    for process in sorted(set(processes)):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        found.append(mesh.batch_slice(made))
    assert found == expected


def test_a_tensor_axis_that_cuts_through_processes_is_refused():
    made = mesh_of((2, 1, 3), [0, 0, 1, 1, 2, 2])
    with pytest.raises(UserError, match="tensor=3 does not fit processes of 2 devices"):
        mesh.batch_slice(made)


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as a mesh looks at."""

    id: int
    process_index: int


def mesh_of(sizes, processes) -> jax.sharding.Mesh:
    devices = [Device(id, process) for id, process in enumerate(processes)]
    return jax.sharding.Mesh(np.reshape(devices, sizes), mesh.AXES)
