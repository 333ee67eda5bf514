"""Which devices is a run planned for? Named as they are sold, none of them here.

`v5p:4x4x8` is a slice of TPU v5p, `h100:64` are 64 GPUs. A slice has a fast network
inside (ICI) and a slow one to other slices (DCN); machines of eight GPUs are the same
picture with NVLink inside.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.plan import machines
from glide_jax.runtime import wording

if TYPE_CHECKING:
    import jax
    from jax.sharding import AbstractMesh, Mesh

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips of one kind.

    Attributes:
      machine: the kind.
      shape: of one slice of TPUs; of GPUs, the one number of all.
      num_slices: of that shape; 1 with GPUs.
    """

    machine: machines.Machine
    shape: tuple[int, ...]
    num_slices: int = 1

    @property
    def num_chips(self) -> int:
        """In all slices."""
        return math.prod(self.shape) * self.num_slices

    @property
    def num_devices(self) -> int:
        """As JAX counts them."""
        return self.num_chips * self.machine.chip.devices

    @property
    def devices_per_host(self) -> int:
        """JAX devices of one machine."""
        per_slice = math.prod(self.shape)
        chips_here = min(self.machine.chips_per_host, per_slice)
        return chips_here * self.machine.chip.devices

    @property
    def num_hosts(self) -> int:
        """Machines, in all slices."""
        return math.ceil(self.num_devices / self.devices_per_host)

    @property
    def fast_domain(self) -> int:
        """Devices that the fast network joins."""
        if self.machine.is_tpu:
            return self.num_devices // self.num_slices
        return self.devices_per_host

    @property
    def tpu_slices(self) -> int | None:
        """Slices as `parallel.mesh` counts them: None of GPUs."""
        return self.num_slices if self.machine.is_tpu else None

    @property
    def name(self) -> str:
        """As a flag takes it: v5p:4x4x8 or h100:64."""
        return f"{self.machine.name}:{'x'.join(map(str, self.shape))}"

    @property
    def sold_as(self) -> str:
        """The product's name, "" where it is the same or none is known."""
        if not self.machine.count_in_name:
            return ""
        count = math.prod(self.shape) * self.machine.count_in_name
        kind = {"v5e": "v5litepod"}.get(self.machine.name, self.machine.name)
        return f"{kind}-{count}"

    def describe(self) -> str:
        """One line for a person."""
        parts = [wording.counted(self.num_chips, f"{self.machine.name} chip")]
        if self.num_slices > 1:
            parts = [f"{self.num_slices} slices of {self.name}", *parts]
        else:
            parts = [self.name, *parts]
        if self.sold_as:
            parts.append(f"sold as {self.sold_as}")
        parts.append(wording.counted(self.num_hosts, "host"))
        return ", ".join(parts)


def parse(topology: str | None, gpus: str | None, num_slices: int | None) -> Topology:
    """The chips that --topology, --chips and --slices name.

    Raises:
      UserError: neither or both are given, or one names what does not exist.
    """
    if bool(topology) == bool(gpus):
        given = "both" if topology else "neither"
        raise UserError(
            f"--topology and --chips: {given} given; say --topology=v5p:4x4x8 for TPUs "
            "or --chips=h100:64 for GPUs"
        )
    if topology:
        return _parse_tpu(topology, num_slices or 1)
    if num_slices is not None:
        raise UserError(
            f"--slices={num_slices} counts slices of TPUs; name all GPUs in --chips"
        )
    return _parse_gpu(gpus)


def _parse_tpu(text: str, num_slices: int) -> Topology:
    kind, _, shape = text.lower().partition(":")
    if kind not in machines.TPUS:
        named = ", ".join(machines.TPUS)
        raise UserError(
            f"--topology={text} names no TPU; use one of {named} with a shape, e.g. "
            "v5p:4x4x8"
        )
    machine = machines.MACHINES[kind]
    if not _exists(machine, shape):
        larger = ""
        if shape.count("x") == 2 or "x" not in shape:
            larger = _larger_shapes(machine)
        raise UserError(
            f"--topology={text} does not exist; slices of {kind} are "
            f"{', '.join(machine.shapes)}{larger}"
        )
    if num_slices > 1 and not machine.joins_slices:
        raise UserError(
            f"--slices={num_slices}: Cloud TPU joins slices from v4 on, not of {kind}; "
            "leave --slices out"
        )
    return Topology(machine, tuple(map(int, shape.split("x"))), num_slices)


def _larger_shapes(machine: machines.Machine) -> str:
    if len(machine.shapes[0].split("x")) < 3:
        return ""
    return (
        f", and larger ones of multiples of 4 in rising order (e.g. 8x8x16), up to "
        f"{machine.max_chips} chips"
    )


def _exists(machine: machines.Machine, shape: str) -> bool:
    if shape in machine.shapes:
        return True
    sides = shape.split("x")
    if len(sides) != 3 or len(machine.shapes[0].split("x")) != 3:
        return False
    if not all(side.isdecimal() and int(side) for side in sides):
        return False
    numbers = [int(side) for side in sides]
    return (
        all(number % 4 == 0 for number in numbers)
        and numbers == sorted(numbers)
        and math.prod(numbers) <= machine.max_chips
    )


def _parse_gpu(text: str) -> Topology:
    kind, _, count = text.lower().partition(":")
    if kind not in machines.GPUS:
        raise UserError(
            f"--chips={text} names no known GPU; use one of {', '.join(machines.GPUS)} "
            "with a number, e.g. h100:64"
        )
    per_host = machines.MACHINES[kind].chips_per_host
    is_whole = count.isdecimal() and int(count) > 0
    if not is_whole or (int(count) > per_host and int(count) % per_host):
        if not count:
            raise UserError(
                f"--chips={text} names no number of GPUs; write e.g. {kind}:64"
            )
        raise UserError(
            f"--chips={text}: {count!r} is no number of GPUs in machines of "
            f"{per_host}; use up to {per_host} or a multiple, e.g. {kind}:64"
        )
    return Topology(machines.MACHINES[kind], (int(count),))


@dataclasses.dataclass(frozen=True)
class Span:
    """An axis of the mesh over the two networks; its size is their product."""

    fast: int
    slow: int

    @property
    def size(self) -> int:
        return self.fast * self.slow


def spans(
    config: defaults.MeshConfig, mesh: AbstractMesh | Mesh, topology: Topology
) -> dict[str, Span]:
    """How far each axis of the mesh reaches.

    The *_dcn sizes tell of TPUs. Devices of GPU machines are numbered machine by
    machine, and the last axis of a mesh runs fastest, so tensor, then fsdp, then data
    fill a machine.
    """
    slow = {axis: getattr(config, f"{axis}_dcn") for axis in AXES}
    if topology.machine.is_tpu or math.prod(slow.values()) != 1:
        for axis in AXES:
            if slow[axis] == -1:
                slow[axis] = mesh.shape[axis] // getattr(config, axis)
        return {axis: Span(mesh.shape[axis] // slow[axis], slow[axis]) for axis in AXES}
    room, found = topology.fast_domain, {}
    for axis in reversed(AXES):
        fast = math.gcd(mesh.shape[axis], room)
        found[axis] = Span(fast, mesh.shape[axis] // fast)
        room //= fast
    return found


def missing_for_compiling(topology: Topology) -> list[str]:
    """Why nothing can be compiled for these chips here, a sentence each; often none."""
    if not topology.machine.is_tpu:
        return [
            f"there is no compiler for {topology.machine.name} here: XLA compiles for "
            "a GPU only on a machine with one; without --compile bytes are by formula"
        ]
    if importlib.util.find_spec("libtpu") is None:
        return [
            "libtpu, which compiles for TPUs on any CPU, is not installed; "
            'pip install -e ".[tpu]", or leave --compile out: bytes are by formula'
        ]
    return []


def prepare_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets libtpu compile on a machine without TPUs, quietly; before jax is imported.

    It would ask the cloud's metadata server what machine this is, write its log to
    /tmp, and take a lock that a second compilation on this machine would die of.
    """
    environment["JAX_PLATFORMS"] = "cpu"
    for name, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_LOG_DIR": "disabled",
    }.items():
        environment.setdefault(name, value)


def make_devices(topology: Topology) -> list[jax.Device]:
    """The devices as libtpu describes them: a mesh of them compiles, and runs nothing.

    Raises:
      UserError: it is not installed, or GPUs are asked for.
    """
    for reason in missing_for_compiling(topology):
        raise UserError(reason)
    from jax.experimental import topologies

    options = {"num_slices": topology.num_slices} if topology.num_slices > 1 else {}
    if topology.machine.name == "v4":
        # Its two cores as one device, as JAX has them on a real one.
        options["chip_config_name"] = "megacore"
    if math.prod(topology.shape) < topology.machine.chips_per_host:
        options["chips_per_host_bounds"] = (*topology.shape, *(1,) * 3)[:3]
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=topology.name, **options
    )
    return list(described.devices)
