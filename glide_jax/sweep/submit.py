"""Renders and submits a sweep as an array job of Slurm or as an indexed JobSet.

Both are templates in launch/templates. Task or index i runs the i-th of the runs that
are left, by the command that every runner uses.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import glide_jax
from glide_jax.errors import UserError
from glide_jax.runtime import lifecycle, paths

# RFC 1123; pods append up to 23 characters of 63.
CLOUD_NAME = re.compile("[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
MEMORY = re.compile("0|[1-9][0-9]{0,8}[KMGT]")
LABEL = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_./]*=[-A-Za-z0-9_.]+")


def _option(meaning: str, default: Any = "") -> Any:
    """Returns a field that is a flag of `glide sweep`."""
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclasses.dataclass(frozen=True)
class SlurmOptions:
    """Options of an array job of Slurm."""

    nodes: int | None = _option("nodes of a run, one by default", None)
    gpus: int | None = _option("GPUs of a node; none by default", None)
    cpus: int | None = _option("cores of a node; the cluster's default, often 1", None)
    mem: str = _option("memory of a node, e.g. 64G; the cluster's default")
    partition: str = _option("partition, as for sbatch")
    account: str = _option("account, as for sbatch")
    time: str = _option("time limit of a task, which is requeued then, e.g. 12:00:00")
    chip: str = _option("chip whose compiler flags are set, e.g. h100", "cpu")


@dataclasses.dataclass(frozen=True)
class JobsetOptions:
    """Options of a JobSet."""

    image: str = _option("image of this checkout with its environment; see launch/")
    volume: str = _option("claim and path of a shared volume, e.g. shared:/nfs")
    limits: tuple[str, ...] = _option("resources of a run, e.g. nvidia.com/gpu=1", ())
    node_selector: tuple[str, ...] = _option(
        "label of the nodes, e.g. cloud.google.com/gke-tpu-topology=2x4", ()
    )
    namespace: str = _option("namespace; kubectl's own by default")
    chip: str = _option("chip whose compiler flags are set, e.g. v6e", "cpu")


@dataclasses.dataclass(frozen=True)
class Job:
    """The runs that a cluster starts.

    Attributes:
      name: Name of the sweep.
      ids: Ids of the runs that are left.
      words: Words after `glide` that start one run, except its --only.
      root: The sweep's folder, on a disk that all nodes share.
      parallel: Tasks at a time.
      restarts: Maximum restarts of a task.
      chip: Chip whose compiler flags are set.
    """

    name: str
    ids: Sequence[str]
    words: Sequence[str]
    root: str
    parallel: int
    restarts: int
    chip: str = "cpu"

    def shell_words(self, python: str) -> str:
        """Returns the shell command of one run, where $run is its id."""
        verb, *flags = self.words
        quoted = shlex.join([verb, *flags]).removeprefix(verb)
        return f'{python} -m glide_jax.cli.main {verb} "--only=$run"{quoted}'


def slurm_script(job: Job, options: SlurmOptions) -> str:
    """Returns the script of the array job, for sbatch.

    Raises:
      UserError: The memory has no unit.
    """
    gpus, cpus, mem = options.gpus, options.cpus, options.mem
    partition, account, time = options.partition, options.account, options.time
    if mem and not MEMORY.fullmatch(mem):
        raise UserError(
            f"--mem={mem} is not an amount of memory; give a number with a unit (K, M, "
            "G or T), such as 64G, or 0 for all of a node"
        )
    return _rendered(
        "sweep.sbatch",
        {
            "NAME": job.name,
            "LAST": str(len(job.ids) - 1),
            "PARALLEL": str(job.parallel),
            "NODES": str(options.nodes or 1),
            "CPUS": f"#SBATCH --cpus-per-task={cpus}" if cpus else "",
            "MEM": f"#SBATCH --mem={mem}" if mem else "",
            "GPUS": f"#SBATCH --gpus-per-node={gpus}" if gpus else "",
            "PARTITION": f"#SBATCH --partition={partition}" if partition else "",
            "ACCOUNT": f"#SBATCH --account={account}" if account else "",
            "TIME": f"#SBATCH --time={time}" if time else "",
            "HERE": os.getcwd(),
            "ROOT": job.root,
            "LAUNCH": str(paths.root() / "launch"),
            # The same code on every node, whichever folder the job starts in.
            "PACKAGES": str(pathlib.Path(glide_jax.__file__).parents[1]),
            "PYTHON": shlex.quote(sys.executable),
            "CHIP": job.chip,
            "IDS": " ".join(job.ids),
            "RESTARTS": str(job.restarts),
            "COMMAND": job.shell_words(shlex.quote(sys.executable)),
        },
    )


def jobset_manifest(job: Job, options: JobsetOptions) -> str:
    """Returns the manifest of the JobSet, for kubectl.

    Raises:
      UserError: The image is missing, or Kubernetes refuses the name, the root, the
        volume or a label.
    """
    image, volume = options.image, options.volume
    name = job.name.replace("_", "-").lower()
    if not CLOUD_NAME.fullmatch(name):
        raise UserError(
            f"the sweep's name {job.name} is not valid in Kubernetes; name its file by "
            "up to 40 letters, digits and '_', a letter first"
        )
    claim, _, mount = volume.partition(":")
    if not claim or not mount.startswith("/"):
        raise UserError(
            f"--volume={volume} is not CLAIM:/PATH; give a persistent volume claim "
            "that all pods can write, and its mount path, e.g. --volume=shared:/nfs"
        )
    if not pathlib.PurePath(job.root).is_relative_to(mount):
        raise UserError(
            f"--root={job.root} is not on the volume {volume}; give a folder such as "
            f"{mount.rstrip('/')}/{name}"
        )
    if not image:
        raise UserError("--image is missing, e.g. --image=REGISTRY/glide_jax")
    again = [code for code in range(256) if lifecycle.is_retryable(code)]
    script = (
        f"runs=({' '.join(job.ids)}); run=${{runs[$JOB_COMPLETION_INDEX]}}; "
        f'eval "$(.venv/bin/glide flags --chip={job.chip})"; '
        f"exec {job.shell_words('.venv/bin/python')}"
    )
    return _rendered(
        "sweep_jobset.yaml",
        {
            "NAME": name,
            "RUNS": str(len(job.ids)),
            "PARALLEL": str(min(job.parallel, len(job.ids))),
            "RESTARTS": str(job.restarts),
            "RETRYABLE": ",".join(map(str, again)),
            "IMAGE": image,
            # Kubernetes would read $( as a variable, but not $$( .
            "SCRIPT": json.dumps(script.replace("$(", "$$(")),
            "CLAIM": claim,
            "MOUNT": mount,
            "LIMITS": _mapping("limits", options.limits, 14, "resources", "limits"),
            "SELECTORS": _mapping(
                "node_selector", options.node_selector, 12, "nodeSelector"
            ),
        },
    )


def hand_over(command: Sequence[str], text: str, remedy: str) -> None:
    """Passes the text to a program of the cluster, which prints to the user.

    Raises:
      UserError: The program is missing, or fails.
    """
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]} is not on this machine; {remedy}, or add --dry_run to see "
            "its input"
        )
    result = subprocess.run(command, input=text, text=True, stderr=subprocess.PIPE)
    if result.returncode:
        words = " ".join(result.stderr.split()) or f"exit code {result.returncode}"
        raise UserError(f"{command[0]} refused the sweep: {words}")


def _rendered(template: str, values: Mapping[str, str]) -> str:
    """Returns the template with @KEY@ replaced; a line of one empty key is removed."""
    text = (paths.root() / "launch" / "templates" / template).read_text()
    for key, value in values.items():
        if not value:
            text = text.replace(f"\n@{key}@\n", "\n")
        text = text.replace(f"@{key}@", value)
    return text


def _mapping(flag: str, pairs: Sequence[str], indent: int, *parents: str) -> str:
    """Returns KEY=VALUE pairs as YAML below their parents; empty without pairs."""
    for pair in pairs:
        if not LABEL.fullmatch(pair):
            raise UserError(
                f"--{flag}={pair} is not KEY=VALUE; use e.g. --{flag}=nvidia.com/gpu=1"
            )
    if not pairs:
        return ""
    lines = [f"{parent}:" for parent in parents]
    lines = [" " * (indent + 2 * depth) + line for depth, line in enumerate(lines)]
    at = " " * (indent + 2 * len(parents))
    split = [pair.rsplit("=", 1) for pair in pairs]
    return "\n".join([*lines, *(f'{at}{key}: "{value}"' for key, value in split)])
