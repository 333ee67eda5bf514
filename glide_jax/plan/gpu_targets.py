"""Descriptions of GPUs, for which XLA's CUDA compiler compiles without a card.

XLA chooses programs by these properties: the number of cores, the sizes of memories and
registers, and the versions that a machine with the card would report. Source: the
device descriptions of openxla/xla, xla/backends/gpu/target_config/specs, which were
read from real cards. Rates of matrix units are left out: they feed a cost model that
decides on nothing here, and compilers of this range of versions refuse some of them.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class GpuTarget:
    """One kind of GPU as the compiler sees it.

    Attributes:
      description: the name that the card reports.
      compute_capability: major and minor number of the instruction set.
      cores: streaming multiprocessors.
      lanes_per_core: float32 units of a multiprocessor.
      clock_ghz: highest clock.
      memory_bytes: of the card, as CUDA reports it.
      l2_bytes: second-level cache.
      shared_bytes_per_core: shared memory of a multiprocessor.
      shared_bytes_per_block: of which one block can use so much, when it asks for it.
    """

    description: str
    compute_capability: tuple[int, int]
    cores: int
    lanes_per_core: int
    clock_ghz: float
    memory_bytes: int
    l2_bytes: int
    shared_bytes_per_core: int
    shared_bytes_per_block: int

    def to_text(self, memory_bandwidth: float) -> str:
        """Returns XLA's GpuTargetConfigProto in text form."""
        major, minor = self.compute_capability
        features = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024
              threads_per_warp: 32
              threads_per_core_limit: 2048
              registers_per_core_limit: 65536
              registers_per_block_limit: 65536
              block_dim_limit_x: 2147483647
              block_dim_limit_y: 65535
              block_dim_limit_z: 65535
              shared_memory_per_block: 49152
              shared_memory_per_block_optin: {self.shared_bytes_per_block}
              shared_memory_per_core: {self.shared_bytes_per_core}
              core_count: {self.cores}
              fpus_per_core: {self.lanes_per_core}
              clock_rate_ghz: {self.clock_ghz}
              memory_bandwidth: {memory_bandwidth:.0f}
              device_memory_size: {self.memory_bytes}
              l2_cache_size: {self.l2_bytes}
              cuda_compute_capability {{ major: {major} minor: {minor} {features} }}
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: 9 minor: 10 }}
            device_description_str: "{self.description}"
        """


def _ampere(name: str, memory_bytes: int) -> GpuTarget:
    return GpuTarget(
        description=name,
        compute_capability=(8, 0),
        cores=108,
        lanes_per_core=64,
        clock_ghz=1.41,
        memory_bytes=memory_bytes,
        l2_bytes=41943040,
        shared_bytes_per_core=167936,
        shared_bytes_per_block=166912,
    )


def _hopper(
    name: str,
    memory_bytes: int,
    *,
    cores: int = 132,
    clock_ghz: float = 1.98,
) -> GpuTarget:
    return GpuTarget(
        description=name,
        compute_capability=(9, 0),
        cores=cores,
        lanes_per_core=128,
        clock_ghz=clock_ghz,
        memory_bytes=memory_bytes,
        l2_bytes=52428800,
        shared_bytes_per_core=233472,
        shared_bytes_per_block=232448,
    )


# By the names of parallel/chips.py.
TARGETS = {
    "a100-40gb": _ampere("NVIDIA A100-SXM4-40GB", 42331013120),
    "a100-80gb": _ampere("NVIDIA A100-SXM4-80GB", 85100068864),
    "h100": _hopper("NVIDIA H100 80GB HBM3", 84942979072),
    "h100-pcie": _hopper("NVIDIA H100 PCIe", 84942979072, cores=114, clock_ghz=1.755),
    "h200": _hopper("NVIDIA H200", 151397597184),
    "b200": GpuTarget(
        description="NVIDIA B200",
        compute_capability=(10, 0),
        cores=148,
        lanes_per_core=128,
        clock_ghz=1.965,
        memory_bytes=191514411008,
        l2_bytes=132644864,
        shared_bytes_per_core=233472,
        shared_bytes_per_block=232448,
    ),
}
