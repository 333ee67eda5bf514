"""Reads from the environment which processes train together.

The first row that is set applies; without any, a process trains alone.

| set by | variables | coordinator (process 0) |
|---|---|---|
| the user, launch/local.sh | GLIDE_JAX_NUM_PROCESSES, GLIDE_JAX_PROCESS_ID | GLIDE_JAX_COORDINATOR=host:port |
| the user on a TPU VM | GLIDE_JAX_COORDINATOR=auto | JAX detects all values from the cloud |
| srun | SLURM_STEP_NUM_TASKS above 1, SLURM_PROCID | GLIDE_JAX_COORDINATOR, else the first of SLURM_STEP_NODELIST |
| Cloud TPU on GKE | several TPU_WORKER_HOSTNAMES, or MEGASCALE_NUM_SLICES above 1; TPU_WORKER_ID, MEGASCALE_SLICE_ID | the first worker, or MEGASCALE_COORDINATOR_ADDRESS |
| JobSet, as xpk writes it for GPUs | NNODES above 1, NODE_RANK | JAX_COORDINATOR_ADDRESS and JAX_COORDINATOR_PORT |

GLIDE_JAX_HOSTS=a,b,... may name the hosts in the order of their processes if nothing
else does, so that errors can name a missing host.
GLIDE_JAX_START_TIMEOUT_SECS is how long a start waits for all processes (300).

A process uses all accelerators of its host. Only if srun starts several on a host does
each use its own: the one numbered SLURM_LOCALID, unless srun hides the others.
"""  # noqa: E501 (a table)

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from glide_jax.errors import UserError

DEFAULT_TIMEOUT_SECS = 300  # as long as JAX itself waits
DEFAULT_JOBSET_PORT = "6002"  # xpk's
TPU_PORT = 8476  # JAX's coordinator port on TPUs
_DYNAMIC_PORTS = range(61440, 65536)


class Cluster(NamedTuple):
    """The processes of a run, and the index of this one.

    Attributes:
      coordinator: host:port of process 0; None: JAX detects all of the following.
      num_processes: number of processes; 0 if JAX detects it.
      process_id: index of this process, from 0.
      hosts: names in the order of processes, as far as known.
      local_devices: the accelerators of this process; None: all of the host.
      timeout_secs: how long to wait for all processes at the start.
    """

    coordinator: str | None
    num_processes: int = 0
    process_id: int = 0
    hosts: tuple[str, ...] = ()
    local_devices: tuple[int, ...] | None = None
    timeout_secs: int = DEFAULT_TIMEOUT_SECS

    def name(self, process_id: int) -> str:
        """Returns "process 3" or, where hosts are known, "process 3 (node4)"."""
        if process_id < len(self.hosts):
            return f"process {process_id} ({self.hosts[process_id]})"
        return f"process {process_id}"


def find(environment: Mapping[str, str]) -> Cluster | None:
    """Returns the cluster given by the environment; None for a single process.

    Raises:
      UserError: a variable that another one requires is missing, or is not a number.
    """
    cluster = None
    for detect in (_ours, _slurm, _tpu, _jobset):
        cluster = detect(environment)
        if cluster is not None:
            break
    if cluster is None:
        return None
    hosts = _names(environment.get("GLIDE_JAX_HOSTS", "")) or cluster.hosts
    timeout = _number(environment, "GLIDE_JAX_START_TIMEOUT_SECS", DEFAULT_TIMEOUT_SECS)
    return cluster._replace(hosts=hosts, timeout_secs=max(timeout, 1))


def _ours(environment: Mapping[str, str]) -> Cluster | None:
    coordinator = environment.get("GLIDE_JAX_COORDINATOR", "")
    if coordinator == "auto":
        return Cluster(None)
    num_processes = _number(environment, "GLIDE_JAX_NUM_PROCESSES", 1)
    if num_processes == 1:
        return None
    return _make_cluster(
        _address(coordinator),
        num_processes,
        _number(environment, "GLIDE_JAX_PROCESS_ID"),
        "GLIDE_JAX_NUM_PROCESSES",
    )


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    # Variables of the step, since the batch script around it has SLURM_NTASKS as well.
    num_processes = _number(environment, "SLURM_STEP_NUM_TASKS", 1)
    if num_processes == 1:
        return None
    nodes = expand_nodes(environment.get("SLURM_STEP_NODELIST", ""))
    per_node = -(-num_processes // max(len(nodes), 1))
    coordinator = environment.get("GLIDE_JAX_COORDINATOR", "")
    if not coordinator and nodes:
        # All processes must derive the same port, and other jobs of the node another.
        job = _number(environment, "SLURM_JOB_ID", 0)
        port = _DYNAMIC_PORTS[job % len(_DYNAMIC_PORTS)]
        coordinator = f"{nodes[0]}:{port}"
    cluster = _make_cluster(
        _address(coordinator),
        num_processes,
        _number(environment, "SLURM_PROCID"),
        "SLURM_STEP_NUM_TASKS",
    )
    local_devices = None
    visible = _names(environment.get("CUDA_VISIBLE_DEVICES", ""))
    if per_node > 1 and len(visible) != 1:
        local_devices = (_number(environment, "SLURM_LOCALID"),)
    # By default srun fills a node before the next one.
    hosts = tuple(node for node in nodes for _ in range(per_node))
    return cluster._replace(hosts=hosts[:num_processes], local_devices=local_devices)


def _tpu(environment: Mapping[str, str]) -> Cluster | None:
    workers = _names(environment.get("TPU_WORKER_HOSTNAMES", ""))
    slices = _number(environment, "MEGASCALE_NUM_SLICES", 1)
    if not workers or (len(workers) < 2 and slices < 2):
        return None
    first = environment.get("MEGASCALE_COORDINATOR_ADDRESS") or next(iter(workers))
    before = _number(environment, "MEGASCALE_SLICE_ID", 0) * len(workers)
    cluster = _make_cluster(
        f"{first.partition(':')[0]}:{TPU_PORT}",
        slices * len(workers),
        before + _number(environment, "TPU_WORKER_ID"),
        "TPU_WORKER_HOSTNAMES",
    )
    # Of several slices, each names its own workers only.
    return cluster._replace(hosts=workers if slices < 2 else ())


def _jobset(environment: Mapping[str, str]) -> Cluster | None:
    num_processes = _number(environment, "NNODES", 1)
    host = environment.get("JAX_COORDINATOR_ADDRESS", "")
    if num_processes == 1 or not host:
        return None
    port = environment.get("JAX_COORDINATOR_PORT", DEFAULT_JOBSET_PORT)
    return _make_cluster(
        host if ":" in host else f"{host}:{port}",
        num_processes,
        _number(environment, "NODE_RANK"),
        "NNODES",
    )


def _make_cluster(
    coordinator: str, num_processes: int, process_id: int, name: str
) -> Cluster:
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"process {process_id} is not below {name}={num_processes}; number the "
            "processes from 0"
        )
    return Cluster(coordinator, num_processes, process_id)


def _address(coordinator: str) -> str:
    if not re.fullmatch(r".+:[0-9]+", coordinator):
        raise UserError(
            f"GLIDE_JAX_COORDINATOR={coordinator!r} is not the host:port at which "
            "process 0 can be reached; e.g. GLIDE_JAX_COORDINATOR=10.0.0.1:12355"
        )
    return coordinator


def _number(
    environment: Mapping[str, str], name: str, default: int | None = None
) -> int:
    text = environment.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdecimal():
        raise UserError(f"{name}={text!r} is not a whole number; e.g. {name}=1")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def expand_nodes(node_list: str) -> tuple[str, ...]:
    """Expands Slurm's node list to names, in its order.

    Names are separated by commas. Each part in brackets stands for several numbers, and
    a name with several brackets for every combination: "gpu[08-10,12],rack[0-1]n[0-1]".
    Numbers are zero-padded like the start of their range. Results equal those of
    `scontrol show hostnames`, which refuses letters after the last bracket.

    Raises:
      UserError: brackets that do not match, or content that is not a range of numbers.
    """
    names = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", node_list)
    if ",".join(names) != re.sub(r",+", ",", node_list).strip(","):
        raise _unreadable(node_list)
    return tuple(
        node for name in names for node in _combinations(name.strip(), node_list)
    )


def _combinations(name: str, node_list: str) -> Iterator[str]:
    # Literal parts at even indices, bracket contents at odd ones.
    parts = re.split(r"\[([^\]]*)\]", name)
    choices = [
        _numbers_in(part, node_list) if place % 2 else [part]
        for place, part in enumerate(parts)
    ]
    # Slurm's order: the last bracket runs fastest, then the first, the second, ...
    last = max(len(parts) - 2, 0)
    for begin in itertools.product(*reversed(choices[:last])):
        for end in itertools.product(*choices[last:]):
            yield "".join((*reversed(begin), *end))


def _numbers_in(ranges: str, node_list: str) -> list[str]:
    """Expands "08-10,12" to zero-padded numbers."""
    numbers = []
    for part in ranges.split(","):
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise _unreadable(node_list)
        first, last = match[1], match[2] or match[1]
        numbers += [
            f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)
        ]
    return numbers


def _unreadable(node_list: str) -> UserError:
    return UserError(
        f"{node_list!r} is not a list of nodes as Slurm writes it, e.g. gpu[01-03,07]; "
        "name the processes by GLIDE_JAX_COORDINATOR=host:port, "
        "GLIDE_JAX_NUM_PROCESSES and GLIDE_JAX_PROCESS_ID instead"
    )
