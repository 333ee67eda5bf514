"""Abstract devices of TPUs and GPUs: programs are compiled for them without hardware.

libtpu compiles for a slice of TPUs on any CPU, and the CUDA plugin of JAX for GPUs that
are described in gpu_targets.py. No driver and no card is needed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Iterator, MutableMapping
from typing import Any

from glide_jax.errors import UserError
from glide_jax.plan import device_topology, gpu_targets

WITHOUT = "leave --compile out, then bytes are estimated by formula"
_CUDA_PLUGIN = "jax-cuda13-plugin"
_OF_JAXLIB = (_CUDA_PLUGIN, "jax-cuda13-pjrt")  # their versions equal jaxlib's
# The packages of the extra gpu-compile.
_CUDA_PACKAGES = (
    *_OF_JAXLIB,
    "nvidia-cuda-nvcc",
    "nvidia-cuda-runtime",
    "nvidia-cudnn-cu13",
)
# Without a card nothing can be timed, so no program is chosen by its time; and the cost
# model that places Triton's matrix products without timings fails with an internal
# error on the widths of the published upsampler. cuBLAS is used instead.
_CUDA_FLAGS = ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false")


def missing(topology: device_topology.Topology) -> list[str]:
    """Returns the reasons why nothing can be compiled for these chips here."""
    reason = _missing_tpu() if topology.machine.is_tpu else _missing_gpu(topology)
    return [f"{reason}, or {WITHOUT}"] if reason else []


def _missing_tpu() -> str:
    if importlib.util.find_spec("libtpu") is not None:
        return ""
    return (
        "libtpu, which compiles for TPUs on any CPU, is not installed; "
        'pip install -e ".[tpu]"'
    )


def _missing_gpu(topology: device_topology.Topology) -> str:
    name = topology.machine.name
    if name not in gpu_targets.TARGETS:
        return (
            f"no description of {name} for the compiler is known; use one of "
            f"{', '.join(gpu_targets.TARGETS)}"
        )
    absent = [package for package in _CUDA_PACKAGES if not _version(package)]
    if absent:
        return (
            f"{', '.join(absent)}, with which JAX compiles for GPUs on any CPU, "
            f"{'is' if len(absent) == 1 else 'are'} not installed; "
            'pip install -e ".[gpu-compile]"'
        )
    jaxlib = _version("jaxlib")
    others = [package for package in _OF_JAXLIB if _version(package) != jaxlib]
    if others:
        wanted = " ".join(f"{package}=={jaxlib}" for package in _OF_JAXLIB)
        return (
            f"{others[0]} {_version(others[0])} is for another jaxlib than {jaxlib}; "
            f"pip install {wanted}"
        )
    return ""


def _version(package: str) -> str:
    """Returns the version of an installed package; "" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def prepare_environment(
    topology: device_topology.Topology,
    environment: MutableMapping[str, str] = os.environ,
) -> None:
    """Prepares the compiler for a machine without the chips, before jax is imported.

    By default libtpu queries the cloud's metadata server, writes a log to /tmp, and
    holds a lock that makes a second compilation on the machine fail.
    """
    environment["JAX_PLATFORMS"] = "cpu"
    if not topology.machine.is_tpu:
        given = environment.get("XLA_FLAGS", "")
        # The last of two equal flags holds, so a user's own stand behind ours.
        added = [flag for flag in _CUDA_FLAGS if flag not in given]
        environment["XLA_FLAGS"] = " ".join([*added, *given.split()])
        return
    for name, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_LOG_DIR": "disabled",
    }.items():
        environment.setdefault(name, value)


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Keeps compiled programs out of JAX's cache, which cannot read them back.

    JAX reads a program by the client of its devices, and absent devices have none.
    """
    import jax

    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        yield
    finally:
        jax.config.update(name, before)


def make_devices(topology: device_topology.Topology) -> list[Any]:
    """Returns abstract devices: programs can be compiled for them, not run.

    Raises:
      UserError: the compiler is not installed.
    """
    for reason in missing(topology):
        raise UserError(reason)
    make = _tpu_devices if topology.machine.is_tpu else _gpu_devices
    return make(topology)


def _tpu_devices(topology: device_topology.Topology) -> list[Any]:
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if topology.num_slices > 1:
        options["num_slices"] = topology.num_slices
    if topology.machine.name == "v4":
        # Both cores are one device, as on a real v4.
        options["chip_config_name"] = "megacore"
    if math.prod(topology.shape) < topology.machine.chips_per_host:
        options["chips_per_host_bounds"] = (*topology.shape, *(1,) * 3)[:3]
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=topology.name, **options
    )
    return list(described.devices)


def _gpu_devices(topology: device_topology.Topology) -> list[Any]:
    from jax.experimental import topologies

    name = topology.machine.name
    described = topologies.get_topology_desc(
        platform="cuda",
        topology_name=name,
        target_config=gpu_targets.TARGETS[name].to_text(
            topology.machine.chip.memory_bandwidth
        ),
        # Slices, machines of a slice, GPUs of a machine.
        topology=f"1x{topology.num_hosts}x{topology.devices_per_host}",
    )
    return list(described.devices)


def compiler_name(topology: device_topology.Topology) -> str:
    """Returns the name and version of the compiler."""
    package = "libtpu" if topology.machine.is_tpu else _CUDA_PLUGIN
    return f"{package} {_version(package)}, jax {_version('jax')}"
