"""Plans of the paper's models on four machines, and the table of them.

    python experiments/figures/plan_table.py
    python experiments/figures/plan_table.py --compile base64_v5p

Each plan is what its command, in the table, prints with --json. The first form makes
them again by formula and keeps what the compiler has said of a plan, if it was asked;
--compile asks it again for one (libtpu; for the 3.5B model, half an hour of CPU time).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import pathlib

from glide_jax.cli import main

RESULTS = pathlib.Path("experiments/results/plan")
GIB = 2**30
CONFIGS = {
    "base64": "base64.py:paper",
    "upsample256": "upsample256.py:paper",
    "noised_clip64": "noised_clip64.py:paper",
}
MACHINES = {
    "v5p": "--topology=v5p:4x4x8",
    "v6e": "--topology=v6e:16x16",
    "v5e": "--topology=v5e:16x16",
    "h100": "--chips=h100:64",
}
# What the first machine's settings, those of the experiment files, are changed to.
CHANGES = {
    "base64_v5e": ("--config.mesh.fsdp=16", "--config.train.remat=('blocks',)"),
    "noised_clip64_v5e": (
        "--config.train.remat=('blocks',)",
        "--config.train.remat_text=blocks",
    ),
    "upsample256_h100": ("--config.train.remat=('none',)",),
    "noised_clip64_h100": (
        "--config.train.remat=('blocks',)",
        "--config.train.remat_text=blocks",
    ),
}


def make_flags(name: str) -> list[str]:
    """Of the plan called MODEL_MACHINE."""
    model, machine = name.rsplit("_", 1)
    return [
        f"--config=experiments/configs/{CONFIGS[model]}",
        MACHINES[machine],
        *CHANGES.get(name, ()),
    ]


def to_shell(flags: list[str]) -> str:
    """As one types them."""
    return " ".join(f'"{flag}"' if "'" in flag else flag for flag in flags)


def make_plan(name: str, *, compiles: bool) -> dict:
    """What `glide plan` says; the compiler's word from the last time it was asked."""
    printed = io.StringIO()
    flags = [*make_flags(name), *(["--compile"] if compiles else [])]
    with contextlib.redirect_stdout(printed):
        if main.run(["plan", *flags, "--json"]):
            raise SystemExit(f"glide plan {to_shell(flags)} failed")
    plan, path = json.loads(printed.getvalue()), RESULTS / f"{name}.json"
    if not compiles and path.exists():
        plan["compiler"] = json.loads(path.read_text())["compiler"]
    path.write_text(json.dumps(plan, indent=1) + "\n")
    return plan


def make_row(plan: dict) -> dict[str, str]:
    """A line of the table by column."""
    mesh = " ".join(f"{axis}={size}" for axis, size in plan["mesh"].items() if size > 1)
    run, sizes, compiler = plan["run"], plan["bytes_per_device"], plan["compiler"]
    return {
        "config": plan["config"],
        "machine": plan["topology"]["name"],
        "batch / parts": f"{run['global_batch_size']:,} / {run['microbatches']}",
        "mesh": mesh,
        "remat": ", ".join([*run["remat"], f"text {run['remat_text']}"]),
        "formula": f"{sizes['total'] / GIB:.1f}",
        "compiler": f"{compiler['total_bytes'] / GIB:.1f}" if compiler else "",
        "room": f"{plan['bytes_available_per_device'] / GIB:.1f}",
        "s a step": f"{plan['seconds_per_step']:.2f}",
        "days": f"{plan['days']:.1f}",
        "chip-hours": f"{plan['chip_hours']:,.0f}",
        "checkpoint": f"{plan['checkpoint_bytes'] / GIB:.0f}",
        "host": f"{plan['host_bytes_peak'] / GIB:.0f}",
    }


def make_differences(plans: dict[str, dict]) -> str:
    """How far the formula is from the compiler, for each plan that was compiled."""
    found = []
    for name, plan in plans.items():
        if plan["compiler"]:
            ratio = plan["bytes_per_device"]["total"] / plan["compiler"]["total_bytes"]
            found.append(f"{ratio - 1:+.0%} ({name})")
    return ", ".join(found)


def make_page(plans: dict[str, dict]) -> str:
    """README.md of plans by name."""
    rows = [make_row(plan) for plan in plans.values()]
    columns = list(rows[0])
    table = [columns, ["---"] * len(columns), *(row.values() for row in rows)]
    words = [plan["compiler"] for plan in plans.values() if plan["compiler"]]
    return PAGE.format(
        differences=make_differences(plans),
        compilers="; ".join(sorted({word["compiler"] for word in words})),
        table="\n".join(f"| {' | '.join(cells)} |" for cells in table),
        commands="\n".join(
            f"glide plan {to_shell(make_flags(name))}"
            + (" --compile" if plan["compiler"] else "")
            for name, plan in plans.items()
        ),
    )


def run() -> None:
    """Writes the plans and README.md beside them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", metavar="PLAN", help="e.g. base64_v5p")
    compiled = parser.parse_args().compile
    names = [f"{model}_{machine}" for machine in MACHINES for model in CONFIGS]
    if compiled and compiled not in names:
        raise SystemExit(f"--compile={compiled}: use one of {', '.join(names)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    plans = {name: make_plan(name, compiles=name == compiled) for name in names}
    (RESULTS / "README.md").write_text(make_page(plans))


PAGE = """# Plans of the paper's models

This page lists what one phase of each model takes on four machines, by `glide plan`.
The whole plans are beside it, one JSON file each. GiB are those of one device: by
formula, by the compiler for the real train step ({compilers}), and what a program may
use (room). Seconds per step are assumed, not measured: MFU 40% on every machine, or the
network where that takes longer. Checkpoint and host memory (while a checkpoint is
written) are in GiB as well.

{table}

The formula assumes that each device holds the activations of its own examples. The
model ensures this by sharding constraints within its blocks; without them the compiler
sharded activations by channels, like the kernels, and the base's step on v5p took 83.3
GiB. Compared with the compiler the formula is {differences}. Two of its terms for TPUs
come from the compiler's programs for v5p (plan/activations.py): weight gradients that
are delayed, and float32 copies inside every norm that the upsampler's step keeps under
`none` where a device has few pictures (28.0 GiB; formula 29.9), which is why the
upsampler is trained with `dots` there. A small U-Net of two levels, 256 and 128
pixels, did not behave so and took 15.5 GiB where the formula gives 22.3. The
[phases compiled for eight H100](phases_h100.md) have the compiler's bytes for GPUs.
Where a row has no number of the compiler, plan a margin.

The commands, in the order of the table:

```
{commands}
```

`python experiments/figures/plan_table.py` writes this page again and keeps the
compiler's numbers; `--compile=PLAN` computes the number of one plan.
"""

if __name__ == "__main__":
    run()
