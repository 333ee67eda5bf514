"""What does the compiler say of the real train step on devices that are not here?

libtpu compiles for a named topology on any CPU. Its buffer assignment is exact: the
bytes below are what the program will take of each device. Its count of operations is
not used, as it counts the body of a loop once.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import time

import jax

from glide_jax.config.defaults import Config
from glide_jax.parallel import device_mesh
from glide_jax.plan import device_topology
from glide_jax.train import abstract_state

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
_REQUIRED = re.compile(
    r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)"
)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Bytes a device by the compiler, or what it lacks.

    Attributes:
      argument_bytes: state and batch; the new state takes the old one's place.
      temporary_bytes: everything that lives within the step.
      program_bytes: the code.
      total_bytes: what the step needs; where it does not fit, as far as the compiler
        tells.
      available_bytes: None where all fits.
      seconds: that compiling took.
      compiler: its version.
    """

    argument_bytes: int
    temporary_bytes: int
    program_bytes: int
    total_bytes: int
    available_bytes: int | None
    seconds: float
    compiler: str

    @property
    def fits(self) -> bool:
        """Whether there is a program at all."""
        return self.available_bytes is None


def compile_step(config: Config, topology: device_topology.Topology) -> Compiled:
    """Compiles the step that `glide train` would run on these devices.

    Raises:
      UserError: libtpu is not there, or cannot compile for them.
    """
    devices = device_topology.make_devices(topology)
    mesh = device_mesh.make_mesh(config.mesh, devices=devices)
    step = abstract_state.abstract_step(config, mesh)
    compiler = f"libtpu {importlib.metadata.version('libtpu')}, jax {jax.__version__}"
    start = time.perf_counter()
    try:
        program = step.step.lower(step.state, step.batch, step.seed).compile()
    except jax.errors.JaxRuntimeError as error:
        needed, available = read_out_of_memory(str(error))
        seconds = time.perf_counter() - start
        return Compiled(0, 0, 0, needed, available, seconds, compiler)
    memory = program.memory_analysis()
    # Arguments that the outputs take the place of count once.
    lasting = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
    return Compiled(
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        program_bytes=memory.generated_code_size_in_bytes,
        total_bytes=lasting + memory.temp_size_in_bytes,
        available_bytes=None,
        seconds=time.perf_counter() - start,
        compiler=compiler,
    )


def read_out_of_memory(message: str) -> tuple[int, int]:
    """(needed, available) bytes in the compiler's words; raises any other failure."""
    found = _USED.search(message) or _REQUIRED.search(message)
    if "RESOURCE_EXHAUSTED" not in message or found is None:
        raise RuntimeError(f"the compiler failed: {message}")
    needed, needed_unit, available, available_unit = found.groups()
    return (
        int(float(needed) * _UNITS[needed_unit]),
        int(float(available) * _UNITS[available_unit]),
    )
