"""Reads the scheduled program of a compiler: XLA's HLO as text.

`parse(compiled.as_text())` returns the computations of a program. An instruction knows
its result's shape, its operands, the computations that it calls, and the line of this
package that made it. Only what roofline.py needs is read.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterator
from typing import Any

# Bits of an element; types that are left out (token, opaque) have none.
_BITS = {
    **{"pred": 8, "s4": 4, "u4": 4, "f4e2m1fn": 4},
    **dict.fromkeys(("s8", "u8", "f8e4m3fn", "f8e5m2"), 8),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
    **dict.fromkeys(("s32", "u32", "f32"), 32),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
    "c128": 128,
}
# TYPE[2,3]{1,0:T(8,128)S(1)}: dimensions, and the layout with the memory space.
_SHAPE = re.compile(r"(\w+)\[([\d,<= ]*)\](?:\{([^}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_SOURCE = re.compile(r'source_file="([^"]+)" source_line=(\d+)')
_FIELD = re.compile(r"(\w+)=(\d+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array in a memory.

    Attributes:
      dtype: XLA's name, e.g. bf16.
      dims: the sizes of the dimensions.
      space: 0 is the device's main memory; on TPUs 1 is the vector memory on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Size, without the padding of a layout."""
        return self.elements * _BITS.get(self.dtype, 0) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation.

    Attributes:
      name, opcode: e.g. fusion.12 and fusion.
      shapes: of the result; several for a tuple.
      operands: names of instructions of the same computation.
      called: names of computations.
      literal: the text in the parentheses, e.g. the number of a parameter.
      attributes: the text behind the operands.
      source: FILE:LINE of the innermost frame of this package; "" if none is known.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    called: tuple[str, ...]
    literal: str
    attributes: str
    source: str

    def attribute(self, name: str) -> str:
        """Returns the value of NAME=value or NAME="value"; "" if there is none."""
        match = re.search(
            rf'\b{name}=(?:"([^"]*)"|\{{([^}}]*)\}}|([^\s,]+))', self.text
        )
        return next((part for part in match.groups() if part), "") if match else ""

    @property
    def text(self) -> str:
        """The attributes without the compiler's own configuration."""
        return self.attributes.partition("backend_config=")[0]

    @property
    def op_name(self) -> str:
        """The JAX operation and the modules around it."""
        match = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return match.group(1) if match else ""

    @functools.cached_property
    def backend(self) -> dict[str, Any]:
        """The compiler's configuration of the instruction."""
        _, _, text = self.attributes.partition("backend_config=")
        if not text.startswith("{"):
            return {}
        try:
            return json.JSONDecoder().raw_decode(text)[0]
        except json.JSONDecodeError:
            return {}


@dataclasses.dataclass(frozen=True)
class Program:
    """A scheduled program.

    Attributes:
      computations: name -> instructions in their order, by name.
      entry: name of the computation that runs first.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str

    @functools.cached_property
    def _scopes(self) -> dict[int, str]:
        return {
            id(instruction): name
            for name, computation in self.computations.items()
            for instruction in computation.values()
        }

    def scope_of(self, instruction: Instruction) -> str:
        """Returns the name of the computation that an instruction is part of."""
        return self._scopes[id(instruction)]

    def run(
        self, calls: int = 1, turns: int | None = None
    ) -> Iterator[tuple[Instruction, int]]:
        """Yields each instruction that runs on its own and how often it runs.

        Loops, calls and conditionals are entered; what a fusion calls is part of it. Of
        a conditional every branch counts once. A loop whose number of turns neither the
        compiler nor the caller knows counts as one turn: `unknown_loops` names those.

        Args:
          calls: number of calls of the program.
          turns: of all calls together, for a loop whose length the compiler does not
            know; not for loops within loops.
        """
        return self._run(self.entry, calls, turns)

    def _run(
        self, name: str, times: int, turns: int | None = None
    ) -> Iterator[tuple[Instruction, int]]:
        for instruction in self.computations[name].values():
            if instruction.opcode == "while":
                count = self.trip_count(instruction)
                unknown = times if turns is None else turns
                body = instruction.attribute("body").lstrip("%")
                yield from self._run(body, unknown if count is None else times * count)
            elif instruction.opcode in ("call", "conditional"):
                for called in instruction.called:
                    yield from self._run(called, times, turns)
            else:
                yield instruction, times

    def unknown_loops(self, turns: int | None = None) -> list[str]:
        """Returns the names of loops without a known number of turns; see `run`."""
        known = set() if turns is None else set(self._outermost_loops(self.entry))
        return [
            instruction.name
            for computation in self.computations.values()
            for instruction in computation.values()
            if instruction.opcode == "while"
            and self.trip_count(instruction) is None
            and instruction.name not in known
        ]

    def trip_count(self, loop: Instruction) -> int | None:
        """Returns the number of turns of a `while`; None if it is not known.

        The compiler for GPUs writes it. That for TPUs does not: there it is counted for
        loops from one constant to another, with a constant step.
        """
        known = loop.backend.get("known_trip_count", {})
        if "n" in known:
            return int(known["n"])
        scope = self.computations[self.scope_of(loop)]
        condition, body = (
            self.computations[loop.attribute(name).lstrip("%")]
            for name in ("condition", "body")
        )
        start = scope[loop.operands[0]]
        test, result = next(reversed(condition.values())), next(reversed(body.values()))
        opcodes = (start.opcode, test.opcode, result.opcode)
        if opcodes != ("tuple", "compare", "tuple"):
            return None
        # The position of the counter in the tuple of the loop's arrays.
        position = condition[test.operands[0]].attribute("index")
        if not position or test.attribute("direction") != "LT":
            return None
        update = body[result.operands[int(position)]]
        if update.opcode != "add" or body[update.operands[0]].attribute("index") != (
            position
        ):
            return None
        first = _constant(scope, start.operands[int(position)])
        stop = _constant(condition, test.operands[1])
        step = _constant(body, update.operands[1])
        if first is None or stop is None or step is None or step < 1:
            return None
        return max(0, -(-(stop - first) // step))

    def _outermost_loops(self, name: str) -> Iterator[str]:
        for instruction in self.computations[name].values():
            if instruction.opcode == "while":
                yield instruction.name
            elif instruction.opcode in ("call", "conditional"):
                for called in instruction.called:
                    yield from self._outermost_loops(called)


def _constant(computation: dict[str, Instruction], name: str) -> int | None:
    """Returns an integer that is a constant, maybe copied; None for other values."""
    instruction = computation[name]
    while instruction.opcode in ("copy", "bitcast"):
        instruction = computation[instruction.operands[0]]
    if instruction.opcode != "constant" or not re.fullmatch(
        r"-?\d+", instruction.literal
    ):
        return None
    return int(instruction.literal)


def parse(text: str) -> Program:
    """Parses a module as `jax.stages.Compiled.as_text` prints it."""
    sources = _Sources.read(text)
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if heading := _COMPUTATION.match(line):
            is_entry, name = heading.groups()
            current = computations.setdefault(name, {})
            entry = name if is_entry else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            instruction = _instruction(match.group(1), match.group(2), sources)
            current[instruction.name] = instruction
    return Program(computations, entry)


def _instruction(name: str, rest: str, sources: _Sources) -> Instruction:
    shape, rest = _split_shape(rest)
    match = _OPCODE.match(rest)
    if match is None:
        raise ValueError(f"not an instruction: {name} = {rest[:80]}")
    end = _closing(rest, match.end() - 1)
    attributes = rest[end + 1 :]
    called = _CALLED.findall(attributes)
    if branches := _BRANCHES.search(attributes):
        called += _OPERAND.findall(branches.group(1))
    return Instruction(
        name=name,
        opcode=match.group(1),
        shapes=shapes(shape),
        operands=tuple(_OPERAND.findall(rest[match.end() : end])),
        called=tuple(called),
        literal=rest[match.end() : end],
        attributes=attributes,
        source=sources.find(attributes),
    )


def _split_shape(text: str) -> tuple[str, str]:
    """Splits the result's shape from the rest; that of a tuple is in parentheses."""
    if text.startswith("("):
        end = _closing(text, 0) + 1
        return text[:end], text[end:]
    shape, _, rest = text.partition(" ")
    return shape, rest


def _closing(text: str, start: int) -> int:
    """Returns the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    raise ValueError(f"no closing parenthesis in {text[:80]}")


@functools.lru_cache(maxsize=4096)
def shapes(text: str) -> tuple[Shape, ...]:
    """Parses the arrays of a shape; a tuple may hold several."""
    found = []
    for dtype, dims, layout in _SHAPE.findall(text):
        sizes = tuple(int(re.sub(r"\D", "", size)) for size in dims.split(",") if size)
        space = _SPACE.search(layout)
        found.append(Shape(dtype, sizes, int(space.group(1)) if space else 0))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class _Sources:
    """The tables of stack frames at the head of a module.

    Attributes:
      files: number -> path.
      locations: number -> (file, line).
      frames: number -> (location, number of the caller's frame).
    """

    files: dict[int, str]
    locations: dict[int, tuple[int, int]]
    frames: dict[int, tuple[int, int]]

    @classmethod
    def read(cls, text: str) -> _Sources:
        tables: dict[str, dict[int, str]] = {}
        rows: dict[int, str] | None = None
        for line in text.splitlines():
            if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
                rows = tables.setdefault(line, {})
            elif rows is not None and line[:1].isdigit():
                number, _, value = line.partition(" ")
                rows[int(number)] = value
            elif _COMPUTATION.match(line):
                break
        files = {
            n: value.strip('"') for n, value in tables.get("FileNames", {}).items()
        }
        locations, frames = {}, {}
        for number, value in tables.get("FileLocations", {}).items():
            fields = {k: int(v) for k, v in _FIELD.findall(value)}
            locations[number] = (fields.get("file_name_id", 0), fields.get("line", 0))
        for number, value in tables.get("StackFrames", {}).items():
            fields = {k: int(v) for k, v in _FIELD.findall(value)}
            frames[number] = (
                fields.get("file_location_id", 0),
                fields.get("parent_frame_id", 0),
            )
        return cls(files, locations, frames)

    def find(self, attributes: str) -> str:
        """Returns FILE:LINE of the innermost frame of this package."""
        match = re.search(r"stack_frame_id=(\d+)", attributes)
        frame = int(match.group(1)) if match else 0
        for _ in range(len(self.frames) + 1):
            location, parent = self.frames.get(frame, (0, 0))
            file, line = self.locations.get(location, (0, 0))
            if place := _place(self.files.get(file, "")):
                return f"{place}:{line}"
            # The text counts parents from 1: the parent of an outermost frame is 1.
            frame = parent - 1
            if frame <= 0:
                break
        match = _SOURCE.search(attributes)
        place = _place(match.group(1)) if match else ""
        return f"{place}:{match.group(2)}" if match and place else ""


def _place(path: str) -> str:
    """Returns the path below this package; "" for a file of another one."""
    _, package, place = path.rpartition("/glide_jax/")
    return place if package and "site-packages" not in place else ""
