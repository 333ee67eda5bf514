"""The work of each instruction of a compiled program: operations and bytes.

Operations are those of products.py. Bytes are those that an instruction reads from and
writes to the device's main memory, each operand once: caches are not modelled.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from glide_jax.plan import hlo, products

# No work of their own: names, views and the ends of asynchronous instructions.
_FREE = frozenset(
    {
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
        *("after-all", "partition-id", "replica-id", "opt-barrier", "domain"),
    }
)
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Instructions of a fusion that read no more of their first operand than they return.
_SLICES = ("dynamic-slice", "slice", "gather")
Instructions = Mapping[str, hlo.Instruction]


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one instruction, all its runs together.

    Attributes:
      name: of the instruction; a profile has the same names.
      kind: "convolution", "matrix product", "attention", a collective, or the
        compiler's name of a fusion or an instruction, without its number.
      source: FILE:LINE of this package that made it; "" if unknown.
      runs: how often it runs.
      flops: operations.
      precision: share of the chip's bfloat16 rate that the operands' type reaches is
        looked up by it: "bf16", "f32", "f32 highest".
      bytes_read, bytes_written: of the main memory.
      network_bytes: received by a device.
      groups: of devices that exchange data, as positions in the mesh.
      cycles: as the TPU compiler estimates them; None: it gives no estimate.
    """

    name: str
    kind: str
    source: str
    runs: int
    flops: float = 0.0
    precision: str = "bf16"
    bytes_read: int = 0
    bytes_written: int = 0
    network_bytes: float = 0.0
    groups: tuple[tuple[int, ...], ...] = ()
    cycles: float | None = None


def measure(
    program: hlo.Program, calls: int = 1, turns: int | None = None
) -> list[Work]:
    """Returns the work of every instruction that a device runs; see `hlo.Program.run`.

    Args:
      program: as scheduled.
      calls: number of calls of the program.
      turns: of all calls together, for loops of unknown length.
    """
    return [
        work
        for instruction, runs in program.run(calls, turns)
        if (work := _measure(program, instruction, runs)) is not None
    ]


def _measure(
    program: hlo.Program, instruction: hlo.Instruction, runs: int
) -> Work | None:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done") or opcode == "async-update":
        return None
    found = Work(
        name=instruction.name,
        kind=_stem(instruction.name if opcode == "fusion" else opcode),
        source=instruction.source,
        runs=runs,
        cycles=_cycles(instruction, runs),
    )
    inner = list(products.products(program, instruction))
    if inner:
        main = max(inner, key=lambda product: product.flops)
        found = dataclasses.replace(
            found,
            kind=main.kind,
            flops=runs * sum(product.flops for product in inner),
            precision=main.precision,
        )
    if collective := _collective(program, instruction):
        return _exchange(found, collective, runs)
    read, written = _bytes(program, instruction)
    return dataclasses.replace(
        found, bytes_read=runs * read, bytes_written=runs * written
    )


def _stem(name: str) -> str:
    """Returns a name without numbers and without what every fusion is called."""
    stem = re.sub(r"[.\d]+$", "", name).removesuffix("_fusion")
    return re.sub(r"(\.clone|\.remat\d*)+$", "", stem)


def _cycles(instruction: hlo.Instruction, runs: int) -> float | None:
    cycles = instruction.backend.get("window_config", {}).get("estimated_cycles")
    return None if cycles is None else runs * float(cycles)


# Collectives


def _collective(
    program: hlo.Program, instruction: hlo.Instruction
) -> hlo.Instruction | None:
    """Returns the collective that an instruction is or starts."""
    for _, one in products.within(program, instruction):
        if one.opcode.removesuffix("-start") in _COLLECTIVES:
            return one
    return None


def _exchange(found: Work, collective: hlo.Instruction, runs: int) -> Work:
    kind = collective.opcode.removesuffix("-start")
    groups = _groups(collective.attributes)
    peers = max((len(group) for group in groups), default=1)
    # An -start returns its operands besides its results; results come last.
    sizes = [shape.bytes for shape in collective.shapes]
    if collective.opcode.endswith("-start") and kind in (
        "all-gather",
        "collective-permute",
    ):
        sizes = sizes[len(collective.operands) : 2 * len(collective.operands)] or sizes
    whole = sum(sizes) * (peers if kind == "reduce-scatter" else 1)
    share = (peers - 1) / peers
    received = {
        "all-reduce": 2 * share,
        "collective-permute": 1,
        "collective-broadcast": 1,
    }.get(kind, share)
    return dataclasses.replace(
        found,
        kind=kind,
        network_bytes=float(runs * whole * received),
        bytes_read=runs * whole,
        bytes_written=runs * whole,
        groups=groups,
    )


def _groups(attributes: str) -> tuple[tuple[int, ...], ...]:
    """Parses replica_groups in each form that compilers print.

    They are lists {{0,1},{2,3}}; reshaped and transposed numbers [4,2]<=[2,4]T(1,0);
    or axes of a mesh: mesh['a'=2,'b'=4] {'b'}, where 'b':(2)2 is the part of size 2 of
    an axis below a part of size 2.
    """
    if match := re.search(
        r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes
    ):
        return _mesh_groups(*match.groups())
    if match := re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    ):
        shape, reshape, order = (
            [int(n) for n in part.split(",")] if part else None
            for part in match.groups()
        )
        numbers = np.arange(math.prod(reshape or [])).reshape(reshape or [])
        numbers = numbers.transpose(order).reshape(shape or [])
        return tuple(tuple(int(n) for n in row) for row in numbers)
    match = re.search(
        r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}", attributes
    )
    rows = re.findall(r"\{([\d,]+)\}", match.group(1)) if match else []
    return tuple(tuple(int(n) for n in row.split(",")) for row in rows)


def _mesh_groups(mesh: str, axes: str) -> tuple[tuple[int, ...], ...]:
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", mesh)}
    parts: dict[str, tuple[int, ...]] = {name: (n,) for name, n in sizes.items()}
    inside: set[tuple[str, int]] = set()
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes):
        if size:
            parts[name] = (
                int(before),
                int(size),
                sizes[name] // int(before) // int(size),
            )
        inside.add((name, 1 if size else 0))
    labels = [(name, i) for name, split in parts.items() for i in range(len(split))]
    numbers = np.arange(math.prod(sizes.values()))
    numbers = numbers.reshape([n for split in parts.values() for n in split])
    order = sorted(range(len(labels)), key=lambda i: labels[i] in inside)
    width = math.prod(parts[name][i] for name, i in inside)
    rows = numbers.transpose(order).reshape(-1, width)
    return tuple(tuple(int(n) for n in row) for row in rows)


# Memory


def _bytes(program: hlo.Program, instruction: hlo.Instruction) -> tuple[int, int]:
    """Bytes of main memory that an instruction reads and writes."""
    scope = program.computations[program.scope_of(instruction)]
    written = sum(s.bytes for s in _results(instruction) if s.space == 0)
    shapes = [scope[name].shapes for name in instruction.operands]
    read = [sum(s.bytes for s in operand if s.space == 0) for operand in shapes]
    if instruction.opcode == "fusion":
        inner = program.computations[instruction.called[0]]
        return _fusion_bytes(inner, read, written)
    if instruction.opcode in _SLICES:
        return written, written
    if instruction.opcode == "dynamic-update-slice":
        update = read[1]
        return update, update
    if instruction.opcode == "slice-start":  # (operand, slice, context)
        piece = instruction.shapes[1]
        moved = min(sum(read), piece.bytes)
        return moved, moved if piece.space == 0 else 0
    if instruction.opcode in ("copy-start", "async-start"):
        written = sum(s.bytes for s in instruction.shapes[:1] if s.space == 0)
    return sum(read), written


def _results(instruction: hlo.Instruction) -> tuple[hlo.Shape, ...]:
    """The arrays that an instruction returns, without a library's scratch space."""
    if instruction.opcode == "custom-call" and len(instruction.shapes) > 1:
        return tuple(s for s in instruction.shapes if s.dtype not in ("u8", "s8"))
    return instruction.shapes


def _fusion_bytes(
    inner: Instructions, read: list[int], written: int
) -> tuple[int, int]:
    """Corrects for operands of which a fusion reads or writes only a slice."""
    for one in inner.values():
        if one.opcode != "parameter":
            continue
        number = int(one.literal)
        users = [user for user in inner.values() if one.name in user.operands]
        if users and all(user.opcode in _SLICES for user in users):
            read[number] = min(
                read[number], sum(user.shapes[0].bytes for user in users)
            )
        for user in users:
            if user.opcode != "dynamic-update-slice" or user.operands[0] != one.name:
                continue
            # The operand is updated in place.
            update = inner[user.operands[1]].shapes[0].bytes
            whole = user.shapes[0].bytes
            read[number] = 0
            written = max(update, written - whole + update)
    return sum(read), written
