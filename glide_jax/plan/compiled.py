"""Compiles the train step for chips that need not be here.

The compilers of both platforms run on any CPU, see abstract_devices.py. Their buffer
assignment is exact: the bytes below are those that the program uses on each device.
Their count of operations is not used, because it counts the body of a loop once;
roofline.py counts those of the compiled program.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from glide_jax.config.defaults import Config
from glide_jax.parallel import device_mesh
from glide_jax.plan import abstract_devices, device_topology, roofline
from glide_jax.train import placement

# Called with the name of what is compiled when that begins.
OnCompile = Callable[[str], None]
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
_REQUIRED = re.compile(
    r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)"
)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiler's report of the bytes per device.

    Attributes:
      argument_bytes: state and batch; the new state reuses the old one's buffers.
      temporary_bytes: buffers within the step.
      program_bytes: the code.
      total_bytes: needed by the step; if it does not fit, as reported in the error.
      available_bytes: memory of the device if the step does not fit, else None.
      seconds: compilation time.
      compiler: its version.
      roofline: a bound on the step's time; None if there is no program.
    """

    argument_bytes: int
    temporary_bytes: int
    program_bytes: int
    total_bytes: int
    available_bytes: int | None
    seconds: float
    compiler: str
    roofline: roofline.Roofline | None = None

    @property
    def fits(self) -> bool:
        """Whether the step fits into the memory of a device."""
        return self.available_bytes is None


def compile_step(
    config: Config,
    topology: device_topology.Topology,
    on_compile: OnCompile = lambda name: None,
) -> Compiled:
    """Compiles the step that `glide train` runs on these devices.

    Args:
      config: of the run.
      topology: of the chips.
      on_compile: see `OnCompile`.

    Raises:
      UserError: the compiler is not installed.
    """
    devices = abstract_devices.make_devices(topology)
    mesh = device_mesh.make_mesh(config.mesh, devices=devices)
    step = placement.abstract_step(config, mesh)
    compiler = abstract_devices.compiler_name(topology)
    on_compile(
        f"one train step of {config.name}"
        f" (train.microbatches={config.train.microbatches}) for {topology.describe()}"
    )
    start = time.perf_counter()
    try:
        with abstract_devices.uncached():
            program = step.step.lower(*step.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        needed, available = read_out_of_memory(str(error))
        seconds = time.perf_counter() - start
        return Compiled(0, 0, 0, needed, available, seconds, compiler)
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    # Donated arguments count once.
    persistent = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
    total = persistent + memory.temp_size_in_bytes
    # libtpu refuses a program that does not fit. The compiler for GPUs does not: a real
    # GPU refuses it when it starts.
    available = topology.machine.memory_bytes
    return Compiled(
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        program_bytes=memory.generated_code_size_in_bytes,
        total_bytes=total,
        available_bytes=None if total <= available else int(available),
        seconds=seconds,
        compiler=compiler,
        roofline=roofline.analyse(
            program.as_text(), topology.machine, slow_network(mesh, topology)
        ),
    )


def slow_network(
    mesh: Mesh, topology: device_topology.Topology
) -> Callable[[roofline.Groups], bool]:
    """Returns whether groups of positions in the mesh reach over the slow network."""

    def domain(position: int) -> int:
        device = mesh.devices.flat[position]
        if topology.machine.is_tpu:
            return getattr(device, "slice_index", 0)
        return device.id // topology.devices_per_host

    return lambda groups: any(len(set(map(domain, group))) > 1 for group in groups)


def read_out_of_memory(message: str) -> tuple[int, int]:
    """Parses (needed, available) bytes from the compiler's error message.

    Raises:
      RuntimeError: the message reports another error.
    """
    match = _USED.search(message) or _REQUIRED.search(message)
    if "RESOURCE_EXHAUSTED" not in message or match is None:
        raise RuntimeError(f"the compiler failed: {message}")
    needed, needed_unit, available, available_unit = match.groups()
    return (
        int(float(needed) * _UNITS[needed_unit]),
        int(float(available) * _UNITS[available_unit]),
    )
