"""Compiles the train step of each phase for eight described H100, on four meshes.

    python experiments/figures/phase_table.py

Each row is what `glide plan --chips=h100:8 --compile` says of one phase, size and mesh.
The formula's bytes, and the bound on MFU, are computed again for each page.
Rows that experiments/results/plan/phases_h100.jsonl already has are kept, so that a run
that was cut off continues; a row takes half a minute to ten minutes. The table is
experiments/results/plan/phases_h100.md.
"""

from __future__ import annotations

import functools
import itertools
import json
import pathlib
import subprocess
import sys
import time

from glide_jax.config import experiments, resolve
from glide_jax.plan import (
    abstract_devices,
    cost,
    device_topology,
    machines,
    memory,
    problem,
)

CHIPS = "h100:8"
RESULTS = pathlib.Path("experiments/results/plan")
ROWS, PAGE_PATH = RESULTS / "phases_h100.jsonl", RESULTS / "phases_h100.md"
PHASES = (
    *("base64", "base64_cfg", "base64_inpaint"),
    *("upsample256", "upsample256_inpaint", "noised_clip64"),
)
SIZES = ("paper", "released")
# In the order in which they are compiled.
MESHES = {
    "fsdp=8": {"data": 1, "fsdp": 8},
    "data=2 fsdp=2 tensor=2": {"data": 2, "fsdp": 2, "tensor": 2},
    "data=2 fsdp=4": {"data": 2, "fsdp": 4},
    "data=8": {"data": 8, "fsdp": 1},
}
# Images of a step: one microbatch with room on eight cards that hold the state whole.
BATCH = {"base64": 32, "upsample256": 16, "noised_clip64": 256}
GIB = 2**30


def make_flags(phase: str, size: str, mesh: str) -> list[str]:
    """Of `glide plan`, for one row."""
    batch = BATCH[phase.split("_")[0] if phase not in BATCH else phase]
    return [
        f"--config=experiments/configs/{phase}.py:{size}",
        f"--chips={CHIPS}",
        "--compile",
        f"--config.train.global_batch_size={batch}",
        "--config.train.microbatches=1",
        *(f"--config.mesh.{axis}={length}" for axis, length in MESHES[mesh].items()),
    ]


def compile_row(phase: str, size: str, mesh: str) -> dict:
    """What the command says, or why it refuses."""
    command = [pathlib.Path(sys.executable).with_name("glide"), "plan"]
    flags = make_flags(phase, size, mesh)
    start = time.monotonic()
    done = subprocess.run([*command, *flags, "--json"], capture_output=True, text=True)
    row = {
        "phase": phase,
        "size": size,
        "mesh": mesh,
        "flags": flags,
        "command_secs": round(time.monotonic() - start, 1),
    }
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return row | {"error": lines[-1] if lines else f"exit {done.returncode}"}
    plan = json.loads(done.stdout)
    compiler, bound = plan["compiler"], plan["compiler"]["roofline"]
    return row | {
        "available_bytes": plan["bytes_available_per_device"],
        "compiler_bytes": compiler["total_bytes"],
        "compiler": compiler["compiler"],
        "compile_secs": compiler["seconds"],
        "bound_secs": bound["seconds"],
        "attention": bound["attention"],
        "kernels": bound["kernels"],
    }


@functools.cache
def estimate(phase: str, size: str, flags: tuple[str, ...]) -> tuple[int, float]:
    """Returns the formula's bytes of a device, and its model FLOPs of a step."""
    settings = (flag.partition("=") for flag in flags)
    changes = {
        name.removeprefix("--config."): int(value)
        for name, _, value in settings
        if name.startswith("--config.")
    }
    config = resolve.override(experiments.load(phase, size), changes)
    where = device_topology.parse(None, CHIPS, None)
    given = problem.make_problem(config, where)
    flops = cost.estimate(config, where, network_seconds={}).flops_per_step
    bytes_ = memory.estimate(given, memory.measure_state(given.state)).total
    return bytes_, flops / where.num_devices


def make_cells(row: dict) -> list[str]:
    """A line of the table."""
    named = [f"{row['phase']}:{row['size']}", row["mesh"]]
    if "error" in row:
        return [*named, row["error"].removeprefix("glide plan: "), *[""] * 5]
    found = row["compiler_bytes"]
    formula, flops = estimate(row["phase"], row["size"], tuple(row["flags"]))
    peak = machines.MACHINES[CHIPS.partition(":")[0]].peak_flops
    return [
        *named,
        "" if found <= row["available_bytes"] else "does not fit",
        f"{found / GIB:.1f}",
        f"{formula / GIB:.1f} ({formula / found - 1:+.0%})",
        f"{row['attention']:,}",
        f"{row['bound_secs'] * 1e3:.0f}",
        f"{flops / peak / row['bound_secs']:.0%}",
    ]


def read_rows() -> list[dict]:
    if not ROWS.exists():
        return []
    return [json.loads(line) for line in ROWS.read_text().splitlines()]


def run() -> None:
    """Compiles what is missing, and writes the table after each row."""
    rows = read_rows()
    write_page(rows)
    known = {(row["phase"], row["size"], row["mesh"]) for row in rows}
    missing = abstract_devices.missing(device_topology.parse(None, CHIPS, None))
    for mesh, size, phase in itertools.product(MESHES, SIZES, PHASES):
        if (phase, size, mesh) in known:
            continue
        if missing:
            sys.exit("; ".join(missing))
        row = compile_row(phase, size, mesh)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        rows.append(row)
        print(" | ".join(make_cells(row)), flush=True)
        write_page(rows)


def write_page(rows: list[dict]) -> None:
    columns = ["phase", "mesh", "note", "compiler, GiB", "formula, GiB"]
    columns += ["fused attention", "bound, ms", "MFU at most"]
    orders = PHASES, SIZES, tuple(MESHES)
    rows = sorted(
        rows,
        key=lambda row: [
            order.index(row[name])
            for order, name in zip(orders, ("phase", "size", "mesh"), strict=True)
        ],
    )
    table = [columns, ["---"] * len(columns), *map(make_cells, rows)]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    total = len(PHASES) * len(SIZES) * len(MESHES)
    refused = sum("error" in row for row in rows)
    counts = {"compiled": len(rows) - refused, "refused": refused, "total": total}
    PAGE_PATH.write_text(PAGE.format(**counts, table=lines))


PAGE = """# Phases compiled for eight H100

`python experiments/figures/phase_table.py` wrote this page: train steps by
`glide plan --chips=h100:8 --compile`. Of {total} rows (phase, size and mesh)
{compiled} are compiled, and {refused} are refused by the rules of the mesh.
GiB are those of one device. The bound is that of the roofline, often the
network, since a device has few images here. The global batch is 32 images of a base
model, 16 of an upsampler, 256 of the noised CLIP, in one microbatch. The commands are
in phases_h100.jsonl.

{table}
"""

if __name__ == "__main__":
    run()
