"""The published peak performance and memory of each kind of chip.

Peaks are dense bfloat16 products with float32 sums, without sparsity. Sources: the
specification tables of the Cloud TPU documentation (v2 to v6e, Ironwood) and NVIDIA's
data sheets (A100, H100, H200, HGX B200, L4), whose sparse figures are halved here.
"""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of accelerator.

    Attributes:
      device_kinds: its values of `jax.Device.device_kind`.
      bf16_tflops: peak TFLOP/s of the whole chip.
      memory_bytes: of the whole chip. TPU: what its compiler lets programs use
        (libtpu 0.0.51); GPU: as published, in powers of ten.
      memory_bandwidth: bytes per second between the chip and its memory.
      devices: number of JAX devices per chip; peak, memory and bandwidth are split
        evenly.
    """

    device_kinds: tuple[str, ...]
    bf16_tflops: float
    memory_bytes: int
    memory_bandwidth: float
    devices: int = 1


CHIPS: dict[str, Chip] = {
    "v2": Chip(("TPU v2",), 45.0, int(2 * 7.48 * GIB), 700e9, devices=2),
    "v3": Chip(("TPU v3",), 123.0, int(2 * 15.48 * GIB), 900e9, devices=2),
    "v4": Chip(("TPU v4",), 275.0, int(30.75 * GIB), 1200e9),
    "v5e": Chip(("TPU v5 lite", "TPU v5e"), 197.0, int(15.75 * GIB), 800e9),
    "v5p": Chip(("TPU v5", "TPU v5p"), 459.0, int(95.73 * GIB), 2765e9),
    "v6e": Chip(("TPU v6 lite", "TPU v6e"), 918.0, int(31.24 * GIB), 1600e9),
    "tpu7x": Chip(("TPU7x",), 2307.0, int(2 * 94.74 * GIB), 7380e9, devices=2),
    "a100-40gb": Chip(
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"), 312.0, 40 * 10**9, 1555e9
    ),
    "a100-80gb": Chip(
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"), 312.0, 80 * 10**9, 2039e9
    ),
    "h100": Chip(("NVIDIA H100 80GB HBM3",), 989.0, 80 * 10**9, 3.35e12),
    "h100-pcie": Chip(("NVIDIA H100 PCIe",), 756.0, 80 * 10**9, 2.0e12),
    "h200": Chip(("NVIDIA H200",), 989.0, 141 * 10**9, 4.8e12),
    "b200": Chip(("NVIDIA B200",), 2250.0, 180 * 10**9, 8.0e12),
    "l4": Chip(("NVIDIA L4",), 121.0, 24 * 10**9, 300e9),
}


def find(device_kind: str) -> Chip | None:
    """Returns the chip of a device kind; None for a CPU or an unknown kind."""
    for chip in CHIPS.values():
        if device_kind in chip.device_kinds:
            return chip
    return None
