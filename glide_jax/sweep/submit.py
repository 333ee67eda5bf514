"""What is a cluster told? One array job of Slurm, or one indexed JobSet.

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

import glide_jax
from glide_jax.errors import UserError
from glide_jax.runtime import lifecycle, paths

# RFC 1123; pods append up to 23 characters of 63.
CLOUD_NAME = re.compile("[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
MEMORY = re.compile("0|[1-9][0-9]{0,8}[KMGT]")
LABEL = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_./]*=[-A-Za-z0-9_.]+")


@dataclasses.dataclass(frozen=True)
class Job:
    """What a runner of a cluster is given.

    Attributes:
      name: of the sweep.
      ids: of the runs that are left.
      words: what follows `glide` to run one, but for its --only.
      root: the sweep's folder, on a disk that all nodes share.
      parallel: tasks at a time.
      restarts: of a task.
      chip: whose compiler flags are set.
    """

    name: str
    ids: Sequence[str]
    words: Sequence[str]
    root: str
    parallel: int
    restarts: int
    chip: str = "cpu"

    def shell_words(self, python: str) -> str:
        """The command of one run, where $run is its id."""
        verb, *flags = self.words
        quoted = shlex.join([verb, *flags]).removeprefix(verb)
        return f'{python} -m glide_jax.cli.main {verb} "--only=$run"{quoted}'


def slurm_script(
    job: Job,
    *,
    gpus: int | None,
    cpus: int | None,
    mem: str | None,
    partition: str,
    account: str,
    time: str,
) -> str:
    """The array job, for sbatch.

    Raises:
      UserError: `mem` is not an amount of memory with a unit.
    """
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


def jobset_manifest(
    job: Job,
    *,
    image: str,
    volume: str,
    limits: Sequence[str],
    selectors: Sequence[str],
) -> str:
    """The JobSet, for kubectl.

    Raises:
      UserError: a name, a root or a label that Kubernetes does not take.
    """
    name = job.name.replace("_", "-").lower()
    if not CLOUD_NAME.fullmatch(name):
        raise UserError(
            f"{job.name} is no name for Kubernetes; call the sweep file by up to 40 "
            "letters, digits and '_', a letter first"
        )
    claim, _, mount = volume.partition(":")
    if not claim or not mount.startswith("/"):
        raise UserError(
            f"--volume={volume} is no CLAIM:/PATH; name a persistent volume claim that "
            "all pods may write, and where they see it, e.g. --volume=shared:/nfs"
        )
    if not pathlib.PurePath(job.root).is_relative_to(mount):
        raise UserError(
            f"--root={job.root} is not on the volume that all pods share; name a "
            f"folder such as {mount.rstrip('/')}/{name}"
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
            "LIMITS": _mapping("limits", limits, 14, "resources", "limits"),
            "SELECTORS": _mapping("node_selector", selectors, 12, "nodeSelector"),
        },
    )


def hand_over(command: Sequence[str], text: str, remedy: str) -> None:
    """Gives the text to a program of the cluster, whose words are shown.

    Raises:
      UserError: the program is not here, or refuses.
    """
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]} is not on this machine; {remedy}, or add --dry_run to see "
            "what it would be given"
        )
    result = subprocess.run(command, input=text, text=True, stderr=subprocess.PIPE)
    if result.returncode:
        words = " ".join(result.stderr.split()) or f"exit code {result.returncode}"
        raise UserError(f"{command[0]} refused the sweep: {words}")


def _rendered(template: str, values: Mapping[str, str]) -> str:
    """The template with @KEY@ replaced; a line that is one alone and empty goes."""
    text = (paths.root() / "launch" / "templates" / template).read_text()
    for key, value in values.items():
        if not value:
            text = text.replace(f"\n@{key}@\n", "\n")
        text = text.replace(f"@{key}@", value)
    return text


def _mapping(flag: str, pairs: Sequence[str], indent: int, *parents: str) -> str:
    """KEY=VALUE pairs as YAML below its parents; empty without any."""
    for pair in pairs:
        if not LABEL.fullmatch(pair):
            raise UserError(
                f"--{flag}={pair} is no KEY=VALUE; use e.g. --{flag}=nvidia.com/gpu=1"
            )
    if not pairs:
        return ""
    lines = [f"{parent}:" for parent in parents]
    lines = [" " * (indent + 2 * depth) + line for depth, line in enumerate(lines)]
    at = " " * (indent + 2 * len(parents))
    split = [pair.rsplit("=", 1) for pair in pairs]
    return "\n".join([*lines, *(f'{at}{key}: "{value}"' for key, value in split)])
