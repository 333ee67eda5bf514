"""Recommended compiler flags of a run, by chip and number of slices.

XLA reads its flags once, before the first device is initialized, so they must be set
before the process starts: `glide flags --chip=v5p --slices=2` prints them for a shell.
They must not change results. Flags that do, such as TPU's unsafe partitioned random
numbers, are excluded: noise would depend on the mesh.

Sources:
  [XLA] https://github.com/openxla/xla/blob/main/docs/flags_guidance.md
  [MaxText] https://github.com/AI-Hypercomputer/maxtext, benchmarks/xla_flags_library.py
    and the scripts in configs/tpu by chip, measured there on language models
  [JAX] https://docs.jax.dev/en/latest/gpu_performance_tips.html
  [NVIDIA] https://docs.nvidia.com/jax-toolbox/performance-profiling/gpu-performance
They were not measured on this model.
"""

from __future__ import annotations

import dataclasses

from glide_jax.errors import UserError
from glide_jax.parallel import chips

TPU = "LIBTPU_INIT_ARGS"  # read by libtpu only; XLA_FLAGS rejects its flag names
XLA = "XLA_FLAGS"


@dataclasses.dataclass(frozen=True)
class Flag:
    """One setting, as `--name=value`."""

    name: str
    value: str
    why: str
    source: str

    def __str__(self) -> str:
        return f"--{self.name}={self.value}"


@dataclasses.dataclass(frozen=True)
class FlagSet:
    """Flags that belong together, and where they apply."""

    chips: tuple[str, ...]
    variable: str  # of the environment
    flags: tuple[Flag, ...]
    min_slices: int = 1


TPUS = ("v4", "v5e", "v5p", "v6e", "tpu7x")
GPUS = tuple(
    name
    for name, chip in chips.CHIPS.items()
    if chip.device_kinds[0].startswith("NVIDIA")
)
# The oldest TPUs need no flags.
CHIPS = ("cpu", *chips.CHIPS)

# FSDP gathers every parameter before its layer; overlapped with the previous layer,
# that costs little. Ironwood (tpu7x) gathers on its SparseCores by default.
GATHER_EARLY = FlagSet(
    ("v4", "v5e", "v5p", "v6e"),
    TPU,
    (
        Flag(
            "xla_enable_async_all_gather",
            "true",
            "gathers start before they are needed",
            "[MaxText] configs/tpu/v4, CF_FOR_ALL_GATHER; [XLA] v5e/Async",
        ),
    ),
)
# MaxText has these for v5p and v6e as well, but there libtpu 0.0.51 refuses to compile
# a fused gather, because it may give wrong results.
GATHER_BEHIND_COMPUTE = FlagSet(
    ("v5e",),
    TPU,
    (
        Flag(
            "xla_tpu_enable_async_collective_fusion",
            "true",
            "computation is fused into the time of a collective",
            "[MaxText] CF_FOR_ALL_GATHER; [XLA] v5e/Async",
        ),
        Flag(
            "xla_tpu_enable_async_collective_fusion_fuse_all_gather",
            "true",
            "for gathers too",
            "[MaxText] CF_FOR_ALL_GATHER; [XLA] v5e/Async",
        ),
        Flag(
            "xla_tpu_enable_async_collective_fusion_multiple_steps",
            "true",
            "one collective may be spread over several computations",
            "[MaxText] CF_FOR_ALL_GATHER",
        ),
        Flag(
            "xla_tpu_overlap_compute_collective_tc",
            "true",
            "the TensorCore computes while the interconnect is busy",
            "[MaxText] CF_FOR_ALL_GATHER",
        ),
    ),
)
LARGE_SCRATCH = FlagSet(
    ("v6e",),
    TPU,
    (
        Flag(
            "xla_tpu_scoped_vmem_limit_kib",
            "98304",
            "an operation may use 96 MiB of the 128 of on-chip memory, so that large "
            "products and convolutions take fewer passes",
            "[MaxText] DENSE_VMEM_LIMIT; [XLA] Compute centric",
        ),
    ),
)
# Slices share gradients over the data centre's network, far slower than their own.
GRADIENTS_BETWEEN_SLICES = FlagSet(
    TPUS,
    TPU,
    (
        Flag(
            "xla_tpu_enable_data_parallel_all_reduce_opt",
            "true",
            "gradients cross the network while the step continues",
            "[MaxText] DATA_PARALLEL_OVERLAP",
        ),
        Flag(
            "xla_tpu_data_parallel_opt_different_sized_ops",
            "true",
            "also where they differ in size, as a U-Net's do",
            "[MaxText] DATA_PARALLEL_OVERLAP",
        ),
    ),
    min_slices=2,
)
GPU_OVERLAP = FlagSet(
    GPUS,
    XLA,
    (
        Flag(
            "xla_gpu_enable_latency_hiding_scheduler",
            "true",
            "collectives start as early and end as late as their data allow",
            "[JAX], and set in NVIDIA's images",
        ),
        Flag(
            "xla_gpu_enable_pipelined_all_gather",
            "true",
            "in a loop, the next layer's gather runs during this layer",
            "[NVIDIA] slow collectives",
        ),
        Flag(
            "xla_gpu_enable_pipelined_reduce_scatter",
            "true",
            "in a loop, the last layer's gradients are reduced during this layer",
            "[NVIDIA] slow collectives",
        ),
    ),
)
# CPU devices are for tests and for experiments with a mesh. If they outnumber the
# cores, one may wait for another longer than XLA's timeout of 40 s, which ends the
# process.
CPU_TIMEOUT = FlagSet(
    ("cpu",),
    XLA,
    (
        Flag(
            "xla_cpu_collective_call_terminate_timeout_seconds",
            "600",
            "a slow device is not treated as lost",
            "XLA's message at the timeout",
        ),
    ),
)

FLAG_SETS = (
    GATHER_EARLY,
    GATHER_BEHIND_COMPUTE,
    LARGE_SCRATCH,
    GRADIENTS_BETWEEN_SLICES,
    GPU_OVERLAP,
    CPU_TIMEOUT,
)


def flags_for(chip: str, slices: int = 1) -> dict[str, str]:
    """Returns the environment variables to set, flags separated by spaces.

    Raises:
      UserError: the chip is unknown, or `slices` is less than 1.
    """
    if chip not in CHIPS:
        raise UserError(f"--chip={chip} is not known; use one of {', '.join(CHIPS)}")
    if slices < 1:
        raise UserError(f"--slices={slices} is less than 1; use 1 or more")
    variables: dict[str, list[str]] = {}
    for flag_set in FLAG_SETS:
        if chip in flag_set.chips and slices >= flag_set.min_slices:
            variables.setdefault(flag_set.variable, []).extend(map(str, flag_set.flags))
    return {name: " ".join(flags) for name, flags in variables.items()}
