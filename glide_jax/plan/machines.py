"""What a plan knows of machines beyond parallel/chips.py: networks, hosts, shapes.

Peaks and memory are that table's; here is what joins and carries the chips, as data.
TPUs: the system architecture pages of the Cloud TPU documentation, one for each
generation (cloud.google.com/tpu/docs/v5p and so on), with their machines' memory.
GPUs: NVIDIA's data sheets of the parts and of DGX machines of eight. A figure that
nobody publishes has a comment that says what is taken instead.
"""

from __future__ import annotations

import dataclasses

from glide_jax.parallel import chips

# XLA_PYTHON_CLIENT_MEM_FRACTION's default: what JAX takes of a GPU at its start (its
# documentation, "GPU memory allocation"). TPUs' memory is already what programs get.
JAX_GPU_MEMORY_SHARE = 0.75

_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_SMALL_SQUARES = ("2x2", "4x4", "8x8", "8x16", "16x16")
_LARGE_SQUARES = ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32")
_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")


@dataclasses.dataclass(frozen=True)
class Machine:
    """Machines of one kind of accelerator; every rate is of one chip, a second.

    Attributes:
      name: in parallel/chips.py, as the flags take it, and for a TPU as libtpu does.
      fast_bytes: sent one way over one dimension of the torus (ICI, two links), or of
        a GPU over `gpu_link`.
      slow_bytes: sent one way over the data-centre network (DCN).
      host_memory_bytes: of the machine that the chips stand in.
      chips_per_host: in a training slice of several hosts.
      shapes: of slices that exist; empty for GPUs, which come in any number. Where a
        slice has three dimensions, larger ones of whole 4x4x4 cubes exist too.
      max_chips: of one slice.
      count_in_name: what the product name counts for each chip ("v5p-256" is 128
        chips); 0: the product is not named so.
      gpu_link: what joins the GPUs of a machine.
      joins_slices: whether several slices train together (Multislice).
    """

    name: str
    fast_bytes: float
    slow_bytes: float
    host_memory_bytes: float
    chips_per_host: int
    shapes: tuple[str, ...] = ()
    max_chips: int = 0
    count_in_name: int = 0
    gpu_link: str = "NVLink"
    joins_slices: bool = True

    @property
    def chip(self) -> chips.Chip:
        """Its peak and memory."""
        return chips.CHIPS[self.name]

    @property
    def peak_flops(self) -> float:
        """Dense bfloat16 operations; a multiply-accumulate counts as two."""
        return self.chip.bf16_tflops * 1e12

    @property
    def memory_bytes(self) -> float:
        """Of one JAX device, usable by a program."""
        share = 1 if self.is_tpu else JAX_GPU_MEMORY_SHARE
        return share * self.chip.memory_bytes / self.chip.devices

    @property
    def memory_note(self) -> str:
        """What part of the memory `memory_bytes` is; "" where it is all of it."""
        if self.is_tpu:
            return ""
        return (
            f"usable: {JAX_GPU_MEMORY_SHARE:.0%} of {self.chip.memory_bytes / 1e9:.0f} "
            "GB, what JAX reserves of a GPU (XLA_PYTHON_CLIENT_MEM_FRACTION raises it)"
        )

    @property
    def is_tpu(self) -> bool:
        """Whether libtpu can compile for it."""
        return bool(self.shapes)

    @property
    def fast_network(self) -> str:
        """What joins the chips of a slice, or of a GPU machine."""
        return "ICI" if self.is_tpu else self.gpu_link


def _torus(bidirectional: float, dimensions: int) -> float:
    """One way over one dimension, from the page's figure for all links, both ways."""
    return bidirectional / 2 / dimensions


def _early_tpu(name: str, link: float, shapes: tuple[str, ...], chips: int) -> Machine:
    """v2 or v3; `link` is bytes one way.

    Their pages publish no rate of a link. 496 and 656 Gbit/s are commonly quoted and
    have not been checked against a source. v3's page gives a bisection of 6.4 TB/s for
    32x32 chips, which is 100 GB/s over each of 64 links; the lower rate is taken. The
    host's memory, of a v3 machine and taken for v2 too, is not checked either. Slices
    are joined from v4 on, so the DCN figure, v4's, is not used.
    """
    return Machine(
        name, 2 * link, 50e9 / 8, 340e9, 4, shapes, chips, 2, joins_slices=False
    )


_ALL = (
    _early_tpu("v2", 496e9 / 8, _SMALL_SQUARES, 256),
    _early_tpu("v3", 656e9 / 8, _LARGE_SQUARES, 1024),
    # v4's page gives no bandwidth of a chip: 2,400 Gbit/s one way is the paper's (arXiv
    # 2304.01433, table 4: six links of 50 GB/s); nor of its host, taken as v5p's.
    Machine("v4", _torus(600e9, 3), 50e9 / 8, 407e9, 4, _CUBES, 4096, 2),
    Machine("v5e", _torus(400e9, 2), 6.4e12 / 8 / 256, 192e9, 4, _SQUARES, 256, 1),
    Machine("v5p", _torus(1200e9, 3), 50e9 / 8, 448e9, 4, _CUBES, 6144, 2),
    Machine("v6e", _torus(800e9, 2), 100e9 / 8, 720e9, 4, _SQUARES, 256, 1),
    Machine("tpu7x", _torus(1200e9, 3), 100e9 / 8, 960e9, 4, _CUBES, 9216),
    Machine("a100-40gb", 300e9, 25e9, 1e12, 8),
    Machine("a100-80gb", 300e9, 25e9, 2e12, 8),
    Machine("h100", 450e9, 50e9, 2e12, 8),
    # PCIe 5.0 x16: the NVLink bridge joins two of them only. NVIDIA sells no machine of
    # them; network and memory are taken from the DGX A100 of 40 GB GPUs.
    Machine("h100-pcie", 64e9, 25e9, 1e12, 8, gpu_link="PCIe"),
    Machine("h200", 450e9, 50e9, 2e12, 8),
    Machine("b200", 900e9, 50e9, 2e12, 8),
    # PCIe 4.0 x16. NVIDIA sells no machine of them; this is Google Cloud's
    # g2-standard-96 with 100 Gbit/s for its eight.
    Machine("l4", 32e9, 100e9 / 8 / 8, 384e9, 8, gpu_link="PCIe"),
)
MACHINES = {machine.name: machine for machine in _ALL}
TPUS = tuple(machine.name for machine in _ALL if machine.is_tpu)
GPUS = tuple(machine.name for machine in _ALL if not machine.is_tpu)
