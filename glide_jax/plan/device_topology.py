"""Topologies of TPUs and GPUs for plans.

`v5p:4x4x8` is a slice of TPU v5p, `h100:64` are 64 GPUs. A fast network (ICI) connects
the chips of a slice, a slow one (DCN) the slices. Machines of eight GPUs correspond to
slices, with NVLink as the fast network.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.plan import machines
from glide_jax.runtime import wording

if TYPE_CHECKING:
    from jax.sharding import AbstractMesh, Mesh

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of chips of one kind, and how they are connected.

    Attributes:
      machine: the kind of machine.
      shape: of one TPU slice; for GPUs their number.
      num_slices: number of slices; 1 for GPUs.
    """

    machine: machines.Machine
    shape: tuple[int, ...]
    num_slices: int = 1

    @property
    def num_chips(self) -> int:
        """Number of chips in all slices."""
        return math.prod(self.shape) * self.num_slices

    @property
    def num_devices(self) -> int:
        """Number of JAX devices."""
        return self.num_chips * self.machine.chip.devices

    @property
    def devices_per_host(self) -> int:
        """Number of JAX devices of one host."""
        per_slice = math.prod(self.shape)
        chips_here = min(self.machine.chips_per_host, per_slice)
        return chips_here * self.machine.chip.devices

    @property
    def num_hosts(self) -> int:
        """Number of hosts in all slices."""
        return math.ceil(self.num_devices / self.devices_per_host)

    @property
    def fast_domain(self) -> int:
        """Number of devices that the fast network connects."""
        if self.machine.is_tpu:
            return self.num_devices // self.num_slices
        return self.devices_per_host

    @property
    def tpu_slices(self) -> int | None:
        """Number of slices for `parallel.device_mesh`; None for GPUs."""
        return self.num_slices if self.machine.is_tpu else None

    @property
    def name(self) -> str:
        """The value of the flag: v5p:4x4x8 or h100:64."""
        return f"{self.machine.name}:{'x'.join(map(str, self.shape))}"

    @property
    def sold_as(self) -> str:
        """The product's name; "" if it equals `name` or is not known."""
        if not self.machine.count_in_name:
            return ""
        count = math.prod(self.shape) * self.machine.count_in_name
        kind = {"v5e": "v5litepod"}.get(self.machine.name, self.machine.name)
        return f"{kind}-{count}"

    def one_host(self) -> Topology:
        """Returns the devices of one host, which a process that samples has."""
        if self.num_hosts == 1:
            return self
        chips = self.machine.chips_per_host
        if not self.machine.is_tpu:
            return Topology(self.machine, (chips,))
        shapes = [tuple(map(int, s.split("x"))) for s in self.machine.shapes]
        return Topology(self.machine, next(s for s in shapes if math.prod(s) == chips))

    def describe(self) -> str:
        """Returns one line for a report."""
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
    """Parses --topology, --chips and --slices.

    Raises:
      UserError: neither or both of the first two are given, or a kind, shape or number
        does not exist.
    """
    if topology and not gpus:
        return _parse_tpu(topology, num_slices or 1)
    if not gpus or topology:
        given = "both" if topology else "neither"
        raise UserError(
            f"--topology and --chips: {given} given; use --topology=v5p:4x4x8 for TPUs "
            "or --chips=h100:64 for GPUs"
        )
    if num_slices is not None:
        raise UserError(f"--slices={num_slices} is for TPUs; count all GPUs in --chips")
    return _parse_gpu(gpus)


def _parse_tpu(text: str, num_slices: int) -> Topology:
    kind, _, shape = text.lower().partition(":")
    if kind not in machines.TPUS:
        named = ", ".join(machines.TPUS)
        raise UserError(
            f"--topology={text} is not a known TPU; use one of {named} with a shape, "
            "e.g. v5p:4x4x8"
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
            f"--slices={num_slices}: Cloud TPU connects slices of v4 and later, not of "
            f"{kind}; leave --slices out"
        )
    return Topology(machine, tuple(map(int, shape.split("x"))), num_slices)


def _larger_shapes(machine: machines.Machine) -> str:
    if len(machine.shapes[0].split("x")) < 3:
        return ""
    return (
        f", and larger ones of multiples of 4 in ascending order (e.g. 8x8x16), up to "
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
            f"--chips={text} is not a known GPU; use one of {', '.join(machines.GPUS)} "
            "with a number, e.g. h100:64"
        )
    per_host = machines.MACHINES[kind].chips_per_host
    is_whole = count.isdecimal() and int(count) > 0
    if not is_whole or (int(count) > per_host and int(count) % per_host):
        if not count:
            raise UserError(f"--chips={text} has no number of GPUs; use e.g. {kind}:64")
        raise UserError(
            f"--chips={text}: {count!r} is not a number of GPUs in machines of "
            f"{per_host}; use up to {per_host} or a multiple, e.g. {kind}:64"
        )
    return Topology(machines.MACHINES[kind], (int(count),))


@dataclasses.dataclass(frozen=True)
class Span:
    """The parts of a mesh axis over the fast and the slow network."""

    fast: int
    slow: int

    @property
    def size(self) -> int:
        """Size of the axis."""
        return self.fast * self.slow


def spans(
    config: defaults.MeshConfig, mesh: AbstractMesh | Mesh, topology: Topology
) -> dict[str, Span]:
    """Returns the extent of each axis of the mesh over both networks.

    For TPUs it is given by the *_dcn sizes. Devices of GPU machines are numbered
    machine by machine, and the last axis of a mesh runs fastest, so tensor, then fsdp,
    then data fill a machine.
    """
    slow = {axis: getattr(config, f"{axis}_dcn") for axis in AXES}
    if topology.machine.is_tpu or math.prod(slow.values()) != 1:
        for axis in AXES:
            if slow[axis] == -1:
                slow[axis] = mesh.shape[axis] // getattr(config, axis)
        return {axis: Span(mesh.shape[axis] // slow[axis], slow[axis]) for axis in AXES}
    room, extents = topology.fast_domain, {}
    for axis in reversed(AXES):
        fast = math.gcd(mesh.shape[axis], room)
        extents[axis] = Span(fast, mesh.shape[axis] // fast)
        room //= fast
    return extents
