"""Topologies: parsing, sizes, and extents of the networks."""

from __future__ import annotations

import math
import re

import jax
import pytest
from jax.sharding import AbstractMesh

from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.parallel import chips, compiler
from glide_jax.plan import abstract_devices, device_topology, machines
from tests import fake_devices


def mesh(data: int, fsdp: int, tensor: int = 1) -> AbstractMesh:
    return AbstractMesh((data, fsdp, tensor), device_topology.AXES)


@pytest.mark.parametrize(
    ("name", "num_chips", "num_devices", "hosts", "sold_as"),
    [
        ("v5p:4x4x8", 128, 128, 32, "v5p-256"),
        ("V5P:2x2x1", 4, 4, 1, "v5p-8"),
        ("v4:4x4x4", 64, 64, 16, "v4-128"),
        ("v5e:16x16", 256, 256, 64, "v5litepod-256"),
        ("v6e:16x16", 256, 256, 64, "v6e-256"),
        ("v5e:1x1", 1, 1, 1, "v5litepod-1"),
        ("tpu7x:2x2x1", 4, 8, 1, ""),
        ("v3:32x32", 1024, 2048, 256, "v3-2048"),
        ("v2:2x2", 4, 8, 1, "v2-8"),
    ],
)
def test_a_slice_is_as_large_as_its_shape_says(
    name, num_chips, num_devices, hosts, sold_as
):
    where = device_topology.parse(name, None, None)
    assert where.num_chips == num_chips
    assert where.num_devices == num_devices
    assert where.num_hosts == hosts
    assert where.sold_as == sold_as
    assert where.name == name.lower()


def test_slices_multiply_chips_but_not_the_fast_domain():
    where = device_topology.parse("v6e:4x4", None, 3)
    assert where.num_chips == 48
    assert where.fast_domain == 16


def test_gpus_are_in_machines_of_eight():
    where = device_topology.parse(None, "h100:64", None)
    assert (where.num_chips, where.num_hosts, where.fast_domain) == (64, 8, 8)
    assert device_topology.parse(None, "h200:4", None).num_hosts == 1


@pytest.mark.parametrize("name", ["v5p:8x8x12", "v5p:16x16x24", "v4:4x4x12"])
def test_slices_of_whole_cubes_exist(name):
    assert device_topology.parse(name, None, None).name == name


@pytest.mark.parametrize(
    ("tpus", "gpus", "slices", "named"),
    [
        (None, None, None, "neither given"),
        ("v5p:4x4x8", "h100:64", None, "both given"),
        ("v5p-256", None, None, "v5p:4x4x8"),
        ("v9:2x2", None, None, "v4, v5e, v5p, v6e, tpu7x"),
        ("v5p:4x4", None, None, "2x2x1, 2x2x2"),
        ("v5p:8x4x4", None, None, "ascending order"),
        ("v4:16x16x24", None, None, "4096 chips"),
        ("v5e:16x32", None, None, "16x16"),
        ("v5e:4x4x4", None, None, "16x16"),
        ("v5e", None, None, "16x16"),
        (None, "h100", None, "h100:64"),
        (None, "h100:12", None, "machines of 8"),
        (None, "h100:0", None, "machines of 8"),
        (None, "b300:8", None, "a100-80gb, h100, h100-pcie, h200"),
        ("v3:4x4", None, 2, "slices of v4 and later"),
        ("v3:2x4", None, None, "slices of v3 are 2x2, 4x4, 4x8"),
        (None, "h100:16", 2, "--slices=2"),
    ],
)
def test_unknown_chips_are_errors_that_list_known_ones(tpus, gpus, slices, named):
    with pytest.raises(UserError, match=named.replace("(", r"\(")) as caught:
        device_topology.parse(tpus, gpus, slices)
    assert "\n" not in str(caught.value)


def test_spans_of_tpus_follow_the_dcn_sizes():
    two = device_topology.parse("v5p:4x4x8", None, 2)
    config = defaults.MeshConfig(fsdp=8, data_dcn=2)
    reach = device_topology.spans(config, mesh(32, 8), two)
    assert reach["data"] == device_topology.Span(16, 2)
    assert reach["fsdp"] == device_topology.Span(8, 1)
    left = defaults.MeshConfig(data=16, fsdp=8, data_dcn=-1)
    assert device_topology.spans(left, mesh(32, 8), two) == reach


@pytest.mark.parametrize(
    ("sizes", "fsdp", "data"),
    [
        ((8, 8, 1), (8, 1), (1, 8)),
        ((4, 16, 1), (8, 2), (1, 4)),
        ((16, 2, 2), (2, 1), (2, 8)),
    ],
)
def test_axes_fill_a_gpu_machine_from_the_last_one(sizes, fsdp, data):
    where = device_topology.parse(None, "h100:64", None)
    reach = device_topology.spans(defaults.MeshConfig(), mesh(*sizes), where)
    assert reach["fsdp"] == device_topology.Span(*fsdp)
    assert reach["data"] == device_topology.Span(*data)


def test_plans_flags_and_launchers_know_the_same_chips():
    assert tuple(machines.MACHINES) == tuple(chips.CHIPS)
    assert ("cpu", *chips.CHIPS) == compiler.CHIPS
    launchers = (fake_devices.ROOT / "launch" / "common.sh").read_text()
    (line,) = re.findall('(?m)^CHIPS="(.*)"$', launchers)
    assert tuple(line.split()) == compiler.CHIPS


def test_every_machine_has_plausible_figures():
    for machine in machines.MACHINES.values():
        # Of every generation the network inside is faster than the one outside, and
        # a device has at least the 8 GB of a core of v2.
        assert machine.fast_bytes > machine.slow_bytes
        assert machine.memory_bytes > 8e9
        assert machine.host_memory_bytes > machine.memory_bytes
        assert machine.is_tpu == (machine.name in machines.TPUS)


def test_the_environment_for_libtpu_keeps_user_settings():
    environment = {"TPU_LOG_DIR": "/somewhere"}
    where = device_topology.parse("v5e:4x4", None, None)
    abstract_devices.prepare_environment(where, environment)
    assert environment["TPU_LOG_DIR"] == "/somewhere"
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"


def test_programs_for_absent_devices_stay_out_of_the_cache():
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    with abstract_devices.uncached():
        assert getattr(jax.config, name) == math.inf
    assert getattr(jax.config, name) == before
