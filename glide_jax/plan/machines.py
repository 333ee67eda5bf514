"""Networks, hosts and slice shapes of machines; peaks and memory: parallel/chips.py.

Sources for TPUs: the system architecture pages of the Cloud TPU documentation, one per
generation (cloud.google.com/tpu/docs/v5p and so on). Sources for GPUs: NVIDIA's data
sheets of the parts and of DGX machines of eight. A comment marks each figure that is
not published and says what is used instead.
"""

from __future__ import annotations

import dataclasses

from glide_jax.parallel import chips

# XLA_PYTHON_CLIENT_MEM_FRACTION's default: JAX's share of a GPU's memory (its
# documentation, "GPU memory allocation"). TPUs: chips.py has the usable memory.
JAX_GPU_MEMORY_SHARE = 0.75

_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_SMALL_SQUARES = ("2x2", "4x4", "8x8", "8x16", "16x16")
_LARGE_SQUARES = ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32")
_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")


@dataclasses.dataclass(frozen=True)
class Machine:
    """Machines of one kind of accelerator; rates are per chip and second.

    Attributes:
      name: key of parallel/chips.py, value of the flags, and for a TPU libtpu's name.
      fast_bytes: one way over one dimension of the torus (ICI, two links), or for a
        GPU over `gpu_link`.
      slow_bytes: one way over the data-centre network (DCN).
      host_memory_bytes: memory of a host.
      chips_per_host: in a training slice of several hosts.
      shapes: existing slice shapes; empty for GPUs, for which any number exists. Three
        dimensional slices also exist in larger shapes of whole 4x4x4 cubes.
      max_chips: of one slice.
      count_in_name: units per chip in the product name ("v5p-256" is 128 chips);
        0: the product name has no such number.
      gpu_link: network between the GPUs of a machine.
      joins_slices: whether several slices can train together (Multislice).
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
        """Peak and memory of the chip."""
        return chips.CHIPS[self.name]

    @property
    def peak_flops(self) -> float:
        """Dense bfloat16 operations per second; a multiply-accumulate counts as two."""
        return self.chip.bf16_tflops * 1e12

    @property
    def memory_bytes(self) -> float:
        """Memory of one JAX device that programs can use."""
        share = 1 if self.is_tpu else JAX_GPU_MEMORY_SHARE
        return share * self.chip.memory_bytes / self.chip.devices

    @property
    def memory_note(self) -> str:
        """Explanation of `memory_bytes`; "" if it is the whole memory."""
        if self.is_tpu:
            return ""
        return (
            f"usable: {JAX_GPU_MEMORY_SHARE:.0%} of {self.chip.memory_bytes / 1e9:.0f} "
            "GB, which JAX reserves (XLA_PYTHON_CLIENT_MEM_FRACTION raises it)"
        )

    @property
    def is_tpu(self) -> bool:
        """Whether libtpu can compile for it."""
        return bool(self.shapes)

    @property
    def fast_network(self) -> str:
        """Name of the network within a slice or a GPU machine."""
        return "ICI" if self.is_tpu else self.gpu_link


def _torus(bidirectional: float, dimensions: int) -> float:
    """Returns the rate one way over one dimension from that of all links, both ways."""
    return bidirectional / 2 / dimensions


def _early_tpu(name: str, link: float, shapes: tuple[str, ...], chips: int) -> Machine:
    """Returns v2 or v3; `link` is bytes one way.

    Their pages publish no link rate. 496 and 656 Gbit/s are commonly quoted and have
    not been checked against a source. v3's page gives a bisection of 6.4 TB/s for 32x32
    chips, which is 100 GB/s over each of 64 links; the lower rate is used. The host's
    memory, that of a v3 machine, is not checked either. Only v4 and later connect
    slices, so the DCN figure, v4's, is not used.
    """
    return Machine(
        name, 2 * link, 50e9 / 8, 340e9, 4, shapes, chips, 2, joins_slices=False
    )


_ALL = (
    _early_tpu("v2", 496e9 / 8, _SMALL_SQUARES, 256),
    _early_tpu("v3", 656e9 / 8, _LARGE_SQUARES, 1024),
    # v4's page gives no bandwidth of a chip: 2,400 Gbit/s one way is the paper's (arXiv
    # 2304.01433, table 4: six links of 50 GB/s); nor of its host: v5p's is used.
    Machine("v4", _torus(600e9, 3), 50e9 / 8, 407e9, 4, _CUBES, 4096, 2),
    Machine("v5e", _torus(400e9, 2), 6.4e12 / 8 / 256, 192e9, 4, _SQUARES, 256, 1),
    Machine("v5p", _torus(1200e9, 3), 50e9 / 8, 448e9, 4, _CUBES, 6144, 2),
    Machine("v6e", _torus(800e9, 2), 100e9 / 8, 720e9, 4, _SQUARES, 256, 1),
    Machine("tpu7x", _torus(1200e9, 3), 100e9 / 8, 960e9, 4, _CUBES, 9216),
    Machine("a100-40gb", 300e9, 25e9, 1e12, 8),
    Machine("a100-80gb", 300e9, 25e9, 2e12, 8),
    Machine("h100", 450e9, 50e9, 2e12, 8),
    # PCIe 5.0 x16: an NVLink bridge connects two GPUs only. NVIDIA sells no such
    # machine; network and memory are those of the DGX A100 of 40 GB GPUs.
    Machine("h100-pcie", 64e9, 25e9, 1e12, 8, gpu_link="PCIe"),
    Machine("h200", 450e9, 50e9, 2e12, 8),
    Machine("b200", 900e9, 50e9, 2e12, 8),
    # PCIe 4.0 x16. NVIDIA sells no such machine; this is Google Cloud's
    # g2-standard-96 with 100 Gbit/s for eight GPUs.
    Machine("l4", 32e9, 100e9 / 8 / 8, 384e9, 8, gpu_link="PCIe"),
)
MACHINES = {machine.name: machine for machine in _ALL}
TPUS = tuple(machine.name for machine in _ALL if machine.is_tpu)
GPUS = tuple(machine.name for machine in _ALL if not machine.is_tpu)
