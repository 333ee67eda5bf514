"""What a soak did and found, as JSON and as a page."""

from __future__ import annotations

import json
import os
import pathlib
import platform
from typing import Any

import jax
import jaxlib

from tests.chaos import injections, training
from tests.chaos import soak as soaks

MEANINGS = {
    0: "done",
    2: "a mistake of the user's, mended by hand",
    42: "stopped by a signal, all saved",
    134: "another process was lost",
    137: "killed",
    143: "terminated before it could save",
}


def describe(
    soak: soaks.Soak,
    *,
    seed: int,
    minutes: float,
    local_every: int,
    num_steps: int,
    same: dict[str, int],
    wrong: str,
) -> dict[str, Any]:
    """The whole of it as JSON values; `wrong` is empty where all is equal."""
    return {
        "is_equal": not wrong,
        "wrong": wrong,
        "seed": seed,
        "minutes": minutes,
        "local_every": local_every,
        "processes": training.PROCESSES,
        "steps": num_steps,
        "starts": soak.starts,
        "full_disk": soak.disk.told,
        "exit_codes": {str(code): n for code, n in sorted(soak.codes.items())},
        "injected": {
            name: dict(sorted(outcomes.items()))
            for name, outcomes in soak.tally.items()
        },
        "same": same,
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
        },
    }


def write(folder: pathlib.Path, found: dict[str, Any]) -> None:
    """report.json and report.md."""
    (folder / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "report.md").write_text(page(found))


def page(found: dict[str, Any]) -> str:
    """The report to be read."""
    verdict = (
        "The run ended equal to the undisturbed one, bit for bit."
        if found["is_equal"]
        else f"**The proof failed:** {found['wrong'].splitlines()[0]}"
    )
    local = f" --local_every={found['local_every']}" if found["local_every"] else ""
    versions = ", ".join(f"{n} {v}" for n, v in found["versions"].items())
    injected = [
        f"| {name} | {_times_done(outcomes)} | {_joined(outcomes)} |"
        for name, outcomes in found["injected"].items()
    ]
    codes = [
        f"| {code} | {MEANINGS.get(int(code), 'killed by a signal')} | {count} |"
        for code, count in found["exit_codes"].items()
    ]
    same = [f"| {name} | {count} |" for name, count in found["same"].items() if count]
    return "\n".join(
        [
            f"# A run under disturbance{', with local checkpoints' if local else ''}",
            "",
            f"`launch/chaos.sh --minutes={found['minutes']:g} --seed={found['seed']}"
            f"{local}`: "
            f"{found['processes']} processes, {found['steps']} steps, "
            f"{found['starts']} starts. {verdict}",
            "",
            f"{found['machine']}; {versions}. Full disk: {found['full_disk']}. Two of "
            "the tar shards are damaged from the beginning, for both runs: one is cut, "
            "one has pictures with wrong bits; what they lack is in "
            "bad_records_*.jsonl, which is compared too.",
            "",
            "| injected | times | what followed: exit code, or what the run did |",
            "|---|---|---|",
            *injected,
            "",
            "| exit code of a start | meaning | times |",
            "|---|---|---|",
            *codes,
            "",
            "Started again without anybody's help on 42 and from 128 up only; after 2 "
            "once the disk or the shard was mended. 0 is the end of each of the runs.",
            "",
            "| the same in both runs | number |",
            "|---|---|",
            *same,
            "",
        ]
    )


def _times_done(outcomes: dict[str, int]) -> int:
    return sum(outcomes.values()) - outcomes.get(injections.NOTHING_YET, 0)


def _joined(outcomes: dict[str, int]) -> str:
    return "; ".join(f"{what} ({count})" for what, count in outcomes.items()) or "-"
