"""Measures the time of each kind of instruction of a compiled program.

JAX's profiler records when each instruction ran, under its name in the compiled
program. plan/work.py knows what an instruction of that name is, which line made it and
its work. plan/roofline.py bounds its time on chips whose peaks are published.
"""

from __future__ import annotations

import collections
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from glide_jax.bench import timing
from glide_jax.parallel import chips
from glide_jax.plan import hlo, machines, roofline, work

TRACED_RUNS = 3
SHOWN = 15  # kinds with a row of their own; the others share one
UNKNOWN = "not in the program"
# They contain other instructions, which have times of their own.
_CONTAINERS = ("while", "call", "conditional")


def measure(run: Callable[[], Any], text: str) -> list[dict[str, Any]]:
    """Runs a program a few times under the profiler.

    Args:
      run: runs the program once and waits for it.
      text: the compiled program, `jax.stages.Compiled.as_text`.

    Returns:
      The rows of `summarize`, costliest first. Empty if the profiler names no
      instruction.
    """
    program = hlo.parse(text)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # of no use here, and it takes time
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(TRACED_RUNS):
                run()
        events, devices = collections.Counter[str](), 0
        for path in pathlib.Path(folder).glob("**/*.xplane.pb"):
            profile = jax.profiler.ProfileData.from_file(str(path))
            for plane in device_planes(profile.planes):
                own = seconds_by_name(plane)
                events.update(own)
                devices += bool(own)
    if jax.default_backend() == "cpu":  # one plane has all devices
        devices = jax.local_device_count()
    share = TRACED_RUNS * max(devices, 1)
    seconds = {name: total / share for name, total in events.items()}
    found = work.measure(program)
    return summarize(found, resolve(program, seconds), _find_peaks())


def summarize(
    found: Iterable[work.Work],
    seconds: Mapping[str, float],
    peaks: roofline.Peaks | None,
) -> list[dict[str, Any]]:
    """Adds up measured times by kind of instruction and line of the source.

    Args:
      found: the instructions of the program.
      seconds: of a device and a run of the program, by name of the instruction. Several
        may run at once; their sum can then exceed the time of the run.
      peaks: of a device; None if they are not known.

    Returns:
      A row for each of the `SHOWN` costliest, one named "others" for the rest, and one
      for `seconds` of names that `found` has not: kind, source, instructions started,
      seconds, TFLOP, gigabytes of memory traffic, and bound_seconds, which is None
      without `peaks` and for collectives. Empty if no time is known.
    """
    groups: dict[tuple[str, str], list[work.Work]] = collections.defaultdict(list)
    for one in found:
        if one.name in seconds:
            groups[one.kind, one.source].append(one)

    def total(ones: Sequence[work.Work]) -> float:
        # A computation with several callers has its instructions several times.
        return sum(seconds[name] for name in {one.name for one in ones})

    ordered = sorted(groups.items(), key=lambda item: total(item[1]), reverse=True)
    rest = [one for _, ones in ordered[SHOWN:] for one in ones]
    shown = ordered[:SHOWN] + ([(("others", ""), rest)] if rest else [])
    rows = [
        _row(kind, source, ones, total(ones), peaks) for (kind, source), ones in shown
    ]
    known = {one.name for ones in groups.values() for one in ones}
    unknown = [name for name in seconds if name not in known]
    if unknown:
        lost = sum(seconds[name] for name in unknown)
        rows.append(_row(UNKNOWN, "", [], lost, None) | {"runs": len(unknown)})
    return rows


def _row(
    kind: str,
    source: str,
    ones: Sequence[work.Work],
    seconds: float,
    peaks: roofline.Peaks | None,
) -> dict[str, Any]:
    is_local = bool(ones) and not any(one.network_bytes for one in ones)
    traffic = sum(one.bytes_read + one.bytes_written for one in ones)
    return {
        "kind": kind,
        "source": source,
        "runs": sum(one.runs for one in ones),
        "seconds": timing.rounded(seconds),
        "bound_seconds": timing.rounded(sum(map(peaks.bound, ones)))
        if peaks is not None and is_local
        else None,
        "tflop": timing.rounded(sum(one.flops for one in ones) / 1e12),
        "gigabytes": timing.rounded(traffic / 1e9),
    }


def to_text(rows: Iterable[Mapping[str, Any]], run_seconds: float) -> str:
    """Returns the rows as a table, with the share of the run that they cover."""
    rows = list(rows)
    lines = [f"{'':<28}{'runs':>6}{'s':>10}{'bound':>10}{'TFLOP':>8}{'GB':>8}"]
    for row in rows:
        bound = row["bound_seconds"]
        lines.append(
            f"{row['kind']:<28}{row['runs']:>6}{row['seconds']:>10.5f}"
            f"{'' if bound is None else f'{bound:.5f}':>10}{row['tflop']:>8.3f}"
            f"{row['gigabytes']:>8.2f}  {row['source']}".rstrip()
        )
    total = sum(row["seconds"] for row in rows)
    lines.append(
        f"{'in all':<34}{total:>10.5f}  {total / run_seconds:.0%} of a run of "
        f"{run_seconds:.5f} s"
    )
    return "\n".join(lines)


def device_planes(planes: Iterable[Any]) -> list[Any]:
    """Returns the planes of a profile that have the devices' instructions.

    A CPU has none of its own: the threads of the host run its instructions.
    """
    planes = list(planes)
    own = [plane for plane in planes if plane.name.startswith("/device:")]
    return own or [plane for plane in planes if plane.name == "/host:CPU"]


def seconds_by_name(plane: Any) -> dict[str, float]:
    """Returns the time of each instruction of a plane, all its runs together.

    CPUs and GPUs name the instruction in a field of the event. On TPUs one line of the
    device has the instructions, each event's name being the text of one.
    """
    seconds: dict[str, float] = collections.defaultdict(float)
    for name, nanoseconds in _events(plane):
        seconds[name] += nanoseconds / 1e9
    return dict(seconds)


def _events(plane: Any) -> Iterator[tuple[str, float]]:
    for line in plane.lines:
        is_tpu_line = "TPU" in plane.name and line.name == "XLA Ops"
        for event in line.events:
            named = dict(event.stats).get("hlo_op")
            if named is None and is_tpu_line:
                named = event.name.partition(" = ")[0].lstrip("%")
            if named is not None:
                yield str(named), event.duration_ns


def resolve(program: hlo.Program, seconds: Mapping[str, float]) -> dict[str, float]:
    """Adds the ends of asynchronous instructions to their starts.

    Instructions that contain others are left out.
    """
    instructions = {
        name: one
        for computation in program.computations.values()
        for name, one in computation.items()
    }
    found: dict[str, float] = collections.defaultdict(float)
    for name, value in seconds.items():
        one = instructions.get(name)
        while one is not None and _is_end(one) and one.operands:
            name = one.operands[0]
            one = instructions.get(name)
        if one is None or one.opcode not in _CONTAINERS:
            found[name] += value
    return dict(found)


def _is_end(instruction: hlo.Instruction) -> bool:
    return instruction.opcode.endswith("-done") or instruction.opcode == "async-update"


def _find_peaks() -> roofline.Peaks | None:
    chip = chips.find(jax.devices()[0].device_kind)
    for machine in machines.MACHINES.values():
        if chip is not None and machine.chip == chip:
            return roofline.Peaks.of(machine)
    return None
