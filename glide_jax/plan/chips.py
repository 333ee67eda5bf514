"""What is known of each accelerator, as data with its source.

TPUs: the system architecture pages of the Cloud TPU documentation, one for each
generation (cloud.google.com/tpu/docs/v5p and so on), with their machines' memory.
GPUs: NVIDIA's datasheets of the SXM parts and of DGX machines of eight.

Two figures are not on those pages. Usable memory of a TPU is what libtpu's compiler
grants a program, read from its out-of-memory messages. Of a GPU it is the share that
JAX takes at its start (XLA_PYTHON_CLIENT_MEM_FRACTION, by default three quarters).
"""

from __future__ import annotations

import dataclasses

GIB = 2**30
JAX_GPU_MEMORY_SHARE = 0.75  # JAX's documentation, "GPU memory allocation"

_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of accelerator; every rate is of one chip, in units a second.

    Attributes:
      name: as the flags take it, and for a TPU as libtpu does.
      peak_flops: dense bfloat16 operations; a multiply-accumulate counts as two.
      memory_bytes: of one JAX device, usable by a program.
      fast_bytes: sent one way over one dimension of the torus (ICI, two links), or of
        a GPU over NVLink.
      slow_bytes: sent one way over the data-centre network (DCN).
      host_memory_bytes: of the machine that the chips stand in.
      chips_per_host: in a training slice of several hosts.
      devices_per_chip: JAX devices.
      shapes: of slices that exist; empty for GPUs, which come in any number. Where a
        slice has three dimensions, larger ones of whole 4x4x4 cubes exist too.
      max_chips: of one slice.
      count_in_name: what the product name counts for each chip ("v5p-256" is 128
        chips); 0: the product is not named so.
    """

    name: str
    peak_flops: float
    memory_bytes: float
    fast_bytes: float
    slow_bytes: float
    host_memory_bytes: float
    chips_per_host: int
    devices_per_chip: int = 1
    shapes: tuple[str, ...] = ()
    max_chips: int = 0
    count_in_name: int = 0

    @property
    def is_tpu(self) -> bool:
        """Whether libtpu can compile for it."""
        return bool(self.shapes)

    @property
    def fast_network(self) -> str:
        """What joins the chips of a slice, or of a GPU machine."""
        return "ICI" if self.is_tpu else "NVLink"


def _torus(bidirectional: float, dimensions: int) -> float:
    """One way over one dimension, from the page's figure for all links, both ways."""
    return bidirectional / 2 / dimensions


_ALL = (
    Chip(
        "v4",
        275e12,
        30.75 * GIB,
        # The page gives no figure for it; 2,400 Gbit/s one way is from the paper
        # (arXiv 2304.01433, table 4: six links of 50 GB/s).
        _torus(600e9, 3),
        # As v5p; no page names it.
        6.25e9,
        407e9,
        4,
        shapes=_CUBES,
        max_chips=4096,
        count_in_name=2,
    ),
    Chip(
        "v5e",
        197e12,
        15.75 * GIB,
        _torus(400e9, 2),
        6.4e12 / 8 / 256,
        192e9,
        4,
        shapes=_SQUARES,
        max_chips=256,
        count_in_name=1,
    ),
    Chip(
        "v5p",
        459e12,
        95.73 * GIB,
        _torus(1200e9, 3),
        50e9 / 8,
        448e9,
        4,
        shapes=_CUBES,
        max_chips=6144,
        count_in_name=2,
    ),
    Chip(
        "v6e",
        918e12,
        31.24 * GIB,
        _torus(800e9, 2),
        100e9 / 8,
        720e9,
        4,
        shapes=_SQUARES,
        max_chips=256,
        count_in_name=1,
    ),
    Chip(
        "tpu7x",
        2307e12,
        94.74 * GIB,
        _torus(1200e9, 3),
        100e9 / 8,
        960e9,
        4,
        devices_per_chip=2,
        shapes=_CUBES,
        max_chips=9216,
    ),
    Chip("a100", 312e12, JAX_GPU_MEMORY_SHARE * 80e9, 300e9, 25e9, 2e12, 8),
    Chip("h100", 989e12, JAX_GPU_MEMORY_SHARE * 80e9, 450e9, 50e9, 2e12, 8),
    Chip("h200", 989e12, JAX_GPU_MEMORY_SHARE * 141e9, 450e9, 50e9, 2e12, 8),
)
CHIPS = {chip.name: chip for chip in _ALL}
TPUS = tuple(chip.name for chip in _ALL if chip.is_tpu)
GPUS = tuple(chip.name for chip in _ALL if not chip.is_tpu)
