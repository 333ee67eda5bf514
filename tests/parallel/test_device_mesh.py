"""The mesh uses every device once; other sizes are errors."""

import dataclasses
import textwrap

import jax
import numpy as np
import pytest

from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.parallel import device_mesh
from tests import fake_devices


def test_one_device_makes_a_mesh_of_ones_with_auto_axes():
    made = device_mesh.make_mesh(defaults.MeshConfig())
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
def test_a_mesh_that_does_not_use_all_devices_is_an_error(sizes, message):
    with pytest.raises(UserError, match=message):
        device_mesh.make_mesh(defaults.MeshConfig(**sizes))


def test_eight_devices_support_all_layouts():
    fake_devices.run_with_devices("""
        import jax
        from glide_jax.config import defaults
        from glide_jax.errors import UserError
        from glide_jax.parallel import device_mesh

        def shape(**sizes):
            made = device_mesh.make_mesh(defaults.MeshConfig(**sizes))
            assert {d.id for d in made.devices.flat} == set(range(8))
            return tuple(made.shape.values())

        assert shape() == (8, 1, 1)
        assert shape(fsdp=4) == (2, 4, 1)
        assert shape(data=1, fsdp=-1, tensor=2) == (1, 4, 2)

        made = device_mesh.make_mesh(defaults.MeshConfig(data=2, fsdp=2, tensor=2))
        device_mesh.check_batch(100, made)  # tensor devices share their examples
        made = device_mesh.make_mesh(defaults.MeshConfig(fsdp=2))
        try:
            device_mesh.check_batch(100, made)
        except UserError as error:
            assert str(error) == (
                "train.global_batch_size=100 is not divisible by 8 "
                "(mesh data=4, fsdp=2); use 96 or 104"
            ), error
        else:
            raise AssertionError("100 was taken")

        try:
            device_mesh.make_mesh(defaults.MeshConfig(data_dcn=2))
        except UserError as error:
            assert "2 parts, but the number of slices is 1" in str(error), error
        else:
            raise AssertionError("one host was taken for two slices")
    """)


SLICES = """
    from glide_jax.plan import abstract_devices, device_topology
    abstract_devices.prepare_environment(device_topology.parse("v5e:4x4", None, None))
    from glide_jax.config import defaults
    from glide_jax.errors import UserError
    from glide_jax.parallel import device_mesh

    def places(devices, **sizes):
        # The slices behind each index of each axis.
        made = device_mesh.make_mesh(defaults.MeshConfig(**sizes), devices)
        assert {d.id for d in made.devices.flat} == {d.id for d in devices}
        return made, {
            axis: [
                {d.slice_index for d in made.devices.take(i, number).flat}
                for i in range(made.shape[axis])
            ]
            for number, axis in enumerate(device_mesh.AXES)
        }
"""


def test_devices_of_two_slices_have_the_planned_layout():
    """The devices are described by libtpu, which starts no TPU for it."""
    pytest.importorskip("libtpu")
    fake_devices.run_with_devices(
        textwrap.dedent(SLICES)
        + textwrap.dedent("""
        for name, slices in ("v5e:4x4", 2), ("v5p:2x2x4", 2), ("tpu7x:2x2x1", 4):
            where = device_topology.parse(name, None, slices)
            devices = abstract_devices.make_devices(where)
            assert device_mesh.count_slices(devices) == slices
            for sizes in {}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}:
                made, of = places(devices, **sizes)
                # Whole slices follow each other along data, and along it alone.
                first = [next(iter(found)) for found in of["data"]]
                assert all(len(found) == 1 for found in of["data"])
                assert len(set(first)) == slices and first == sorted(first)
                others = of["fsdp"] + of["tensor"]
                assert all(len(found) == slices for found in others)
                planned = device_mesh.make_abstract_mesh(
                    defaults.MeshConfig(**sizes), len(devices), slices
                )
                assert planned.shape == made.shape
            made, of = places(devices, data=1, fsdp=-1, fsdp_dcn=slices)
            assert dict(made.shape) == {"data": 1, "fsdp": len(devices), "tensor": 1}
            assert all(len(found) == 1 for found in of["fsdp"])
            try:
                device_mesh.make_mesh(defaults.MeshConfig(data_dcn=3 * slices), devices)
            except UserError as error:
                assert str(slices) in str(error) and chr(10) not in str(error), error
            else:
                raise AssertionError("more parts than slices were taken")
        """)
    )


def test_without_dcn_sizes_the_data_axis_spans_the_slices():
    two = device_mesh.over_slices(defaults.MeshConfig(fsdp=8), 2)
    assert (two.data_dcn, two.fsdp_dcn, two.tensor_dcn) == (2, 1, 1)
    own = defaults.MeshConfig(fsdp_dcn=2)
    assert device_mesh.over_slices(own, 2) == own
    left = defaults.MeshConfig(data=8, data_dcn=-1)
    assert device_mesh.over_slices(left, 2) == left
    for no_slices in 1, None:
        plain = defaults.MeshConfig()
        assert device_mesh.over_slices(plain, no_slices) == plain


@pytest.mark.parametrize(
    ("sizes", "devices", "slices", "shape"),
    [
        ({}, 32, 2, (32, 1, 1)),
        ({"fsdp": 4}, 48, 3, (12, 4, 1)),
        ({"data": 16}, 32, 2, (32, 1, 1)),  # 16 of each slice
        ({"data": 2, "data_dcn": -1, "fsdp": 8}, 32, 2, (4, 8, 1)),
        ({"data": 1, "fsdp": 16, "fsdp_dcn": 2}, 32, 2, (1, 32, 1)),
        ({"data": 4, "fsdp": 8}, 32, None, (4, 8, 1)),
        ({"data": 4, "data_dcn": 2}, 8, None, (8, 1, 1)),  # two hosts of GPUs
    ],
)
def test_an_abstract_mesh_has_the_shape_of_a_mesh(sizes, devices, slices, shape):
    config = defaults.MeshConfig(**sizes)
    made = device_mesh.make_abstract_mesh(config, devices, slices)
    assert tuple(made.shape.values()) == shape


@pytest.mark.parametrize(
    ("sizes", "slices", "named"),
    [
        ({"data": 32}, 2, "32 in 2 slices"),
        ({"fsdp": 3}, 2, "32 in 2 slices"),
        ({"data_dcn": 2}, 1, "number of slices is 1"),
        ({"fsdp_dcn": 2}, 4, "number of slices is 4"),
        ({"data": 8, "tensor_dcn": -1}, 2, "number of slices is 2"),
    ],
)
def test_dcn_sizes_that_do_not_match_the_slices_are_errors(sizes, slices, named):
    with pytest.raises(UserError, match=named) as caught:
        device_mesh.make_abstract_mesh(defaults.MeshConfig(**sizes), 32, slices)
    assert "\n" not in str(caught.value)


def test_a_batch_smaller_than_the_mesh_is_an_error():
    made = device_mesh.make_mesh(defaults.MeshConfig())
    device_mesh.check_batch(1, made)
    with pytest.raises(UserError, match=r"=0 is not divisible .*; use 1$"):
        device_mesh.check_batch(0, made)


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
def test_processes_hold_slices_of_the_batch(monkeypatch, sizes, processes, expected):
    made = mesh_of(sizes, processes)
    found = []
    for process in sorted(set(processes)):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        found.append(device_mesh.batch_slice(made))
    assert found == expected


def test_a_tensor_axis_that_splits_processes_is_an_error():
    made = mesh_of((2, 1, 3), [0, 0, 1, 1, 2, 2])
    with pytest.raises(UserError, match="tensor=3 does not fit processes of 2 devices"):
        device_mesh.batch_slice(made)


@dataclasses.dataclass(frozen=True)
class Device:
    """The attributes of a device that a mesh reads."""

    id: int
    process_index: int


def mesh_of(sizes, processes) -> jax.sharding.Mesh:
    devices = [Device(id, process) for id, process in enumerate(processes)]
    return jax.sharding.Mesh(np.reshape(devices, sizes), device_mesh.AXES)
