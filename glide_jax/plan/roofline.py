"""A lower bound on the time of a compiled step, from its instructions.

An instruction takes at least the time of its operations at the chip's peak, and at
least that of its bytes at the bandwidth of the chip's memory; the longer of the two
counts. Instructions follow each other, and the networks work beside them:

    bound = max(sum over instructions of max(FLOPs / peak, bytes / bandwidth), network)

This is not a prediction. Real matrix units reach 0.6 to 0.8 of their peak, short
kernels cost their start, small arrays stay in a cache (which makes memory faster than
assumed here), and exchanges wait for what they exchange.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from glide_jax.plan import hlo, work
from glide_jax.plan.machines import Machine

COSTLIEST = 10  # rows of the table
# Share of the bfloat16 peak. GPUs: TF32 tensor cores, and float32 units without them
# (67 of 989 TFLOP/s on H100). TPUs: one pass of bfloat16, and the six that make up
# float32.
_SHARES = {
    True: {"bf16": 1.0, "f32": 1.0, "f32 highest": 1 / 6},
    False: {"bf16": 1.0, "f32": 1 / 2, "f32 highest": 1 / 15},
}
# Hz. From the peaks and the matrix units of the Cloud TPU pages: 2 * 128^2 operations
# per cycle and unit, 4 units per core; v4 and v5p run two cores as one device.
_CLOCKS = {"v4": 1.05e9, "v5e": 1.5e9, "v5p": 1.75e9}

Groups = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Rates of one device.

    Attributes:
      flops: operations per second, by `work.Work.precision`.
      bandwidth: bytes per second of its memory.
    """

    flops: Mapping[str, float]
    bandwidth: float

    @classmethod
    def of(cls, machine: Machine) -> Peaks:
        """Returns the published rates of a device of a machine."""
        peak = machine.peak_flops / machine.chip.devices
        shares = _SHARES[machine.is_tpu]
        return cls(
            {precision: peak * share for precision, share in shares.items()},
            machine.chip.memory_bandwidth / machine.chip.devices,
        )

    def matrix_seconds(self, one: work.Work) -> float:
        """Returns the time of an instruction's operations."""
        return one.flops / self.flops[one.precision]

    def memory_seconds(self, one: work.Work) -> float:
        """Returns the time of an instruction's memory traffic."""
        return (one.bytes_read + one.bytes_written) / self.bandwidth

    def bound(self, one: work.Work) -> float:
        """Returns the bound of an instruction, seconds; 0 for a collective."""
        if one.network_bytes:
            return 0.0
        return max(self.matrix_seconds(one), self.memory_seconds(one))


class Part(NamedTuple):
    """A compiled program that is called several times, e.g. a part of a sampler.

    Attributes:
      program: as scheduled.
      calls: number of calls.
      turns: of all calls together, for the loop whose length the compiler does not
        know; None: it counts as one turn a call.
    """

    program: hlo.Program
    calls: int = 1
    turns: int | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """All instructions of one kind that one line of the source made.

    Attributes:
      kind, source: see `work.Work`.
      runs: kernels that start.
      flops, bytes_read, bytes_written: of all runs.
      seconds: the bound of all runs; 0 for a collective.
      cycles: the TPU compiler's own estimate of all runs; None: it gives none.
    """

    kind: str
    source: str
    runs: int
    flops: float
    bytes_read: int
    bytes_written: int
    seconds: float
    cycles: float | None


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The bound of a program on one device.

    Attributes:
      flops: operations of the program, recomputed ones included.
      matrix_seconds: they alone, at the peak of their type.
      bytes_read, bytes_written: of the device's memory.
      memory_seconds: they alone, at the memory's bandwidth.
      network_bytes: received by the device, by network.
      network_seconds: they alone, by network.
      seconds: the bound.
      kernels: instructions that start, loops unrolled.
      attention: fused attention kernels among them.
      cycles: the TPU compiler's own estimate; None for a GPU.
      cycles_seconds: at the chip's clock; None if the clock is not known.
      unknown_loops: loops that were counted as one turn.
      kinds: by kind alone, costliest first.
      costliest: by kind and source, costliest first.
    """

    flops: float
    matrix_seconds: float
    bytes_read: int
    bytes_written: int
    memory_seconds: float
    network_bytes: dict[str, float]
    network_seconds: dict[str, float]
    seconds: float
    kernels: int
    attention: int
    cycles: float | None
    cycles_seconds: float | None
    unknown_loops: list[str]
    kinds: list[Row]
    costliest: list[Row]

    def mfu(self, model_flops: float, peak: float) -> dict[str, float | None]:
        """Bounds on the model FLOPs utilisation.

        Args:
          model_flops: of a step and a device, without recomputation.
          peak: of a device, per second.
        """
        by_cycles = self.cycles_seconds and model_flops / peak / self.cycles_seconds
        return {
            "bound": model_flops / peak / self.seconds,
            "by_cycles": by_cycles,
        }


def analyse(text: str, machine: Machine, is_slow: Callable[[Groups], bool]) -> Roofline:
    """Returns the bound of a program on a device of a machine.

    Args:
      text: the compiled program, `jax.stages.Compiled.as_text`.
      machine: that the program is compiled for.
      is_slow: whether groups of devices (positions in the mesh) exchange data over the
        slow network.
    """
    return analyse_parts([Part(hlo.parse(text))], machine, is_slow)


def analyse_parts(
    parts: Sequence[Part], machine: Machine, is_slow: Callable[[Groups], bool]
) -> Roofline:
    """Returns the bound of programs that run one after the other; see `analyse`."""
    found = [one for part in parts for one in work.measure(*part)]
    peaks = Peaks.of(machine)
    received = {"fast": 0.0, "slow": 0.0}
    for one in found:
        received["slow" if is_slow(one.groups) else "fast"] += one.network_bytes
    network = {
        "fast": received["fast"] / machine.fast_bytes,
        "slow": received["slow"] / machine.slow_bytes,
    }
    cycles, clock = _cycles(found), _CLOCKS.get(machine.name)
    return Roofline(
        flops=sum(one.flops for one in found),
        matrix_seconds=sum(map(peaks.matrix_seconds, found)),
        bytes_read=sum(one.bytes_read for one in found),
        bytes_written=sum(one.bytes_written for one in found),
        memory_seconds=sum(map(peaks.memory_seconds, found)),
        network_bytes=received,
        network_seconds=network,
        seconds=max(sum(map(peaks.bound, found)), *network.values()),
        kernels=sum(one.runs for one in found),
        attention=sum(one.runs for one in found if one.kind == "attention"),
        cycles=cycles,
        cycles_seconds=cycles / clock if cycles and clock else None,
        unknown_loops=[
            name for part in parts for name in part.program.unknown_loops(part.turns)
        ],
        kinds=_rows(found, peaks.bound, lambda one: (one.kind, "")),
        costliest=_rows(found, peaks.bound, lambda one: (one.kind, one.source))[
            :COSTLIEST
        ],
    )


def _cycles(found: Iterable[work.Work]) -> float | None:
    estimates = [one.cycles for one in found if one.cycles is not None]
    return sum(estimates) if estimates else None


def _rows(
    found: Iterable[work.Work],
    bound: Callable[[work.Work], float],
    key: Callable[[work.Work], tuple[str, str]],
) -> list[Row]:
    """Sums the work by a key, costliest first."""
    groups: dict[tuple[str, str], list[work.Work]] = collections.defaultdict(list)
    for one in found:
        groups[key(one)].append(one)
    rows = [
        Row(
            kind=kind,
            source=source,
            runs=sum(one.runs for one in ones),
            flops=sum(one.flops for one in ones),
            bytes_read=sum(one.bytes_read for one in ones),
            bytes_written=sum(one.bytes_written for one in ones),
            seconds=sum(map(bound, ones)),
            cycles=_cycles(ones),
        )
        for (kind, source), ones in groups.items()
    ]
    return sorted(rows, key=lambda row: row.seconds, reverse=True)
