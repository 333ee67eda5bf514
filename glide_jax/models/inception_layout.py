"""Which convolutions is FID's Inception made of, and in which order?

The network is built from this one table, and its weights are converted by the names and
shapes that follow. Names are those of the published PyTorch file.
"""

from __future__ import annotations

from typing import NamedTuple


class Conv(NamedTuple):
    """A convolution with its folded batch norm, then ReLU.

    Attributes:
      name: as in the published file, within its block.
      channels: of its output.
      kernel: height and width.
      stride: 1, or 2 to halve the side.
      padded: whether zeros around the picture keep its side.
    """

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


class Pool(NamedTuple):
    """The mean or the maximum of 3x3 pixels; stride 2 takes whole windows only."""

    kind: str
    stride: int = 1


class Fork(NamedTuple):
    """Convolutions that read the same picture, their channels side by side."""

    convs: tuple[Conv, ...]


Step = Conv | Pool | Fork
Branches = tuple[tuple[Step, ...], ...]  # side by side, each from left to right

_MEAN, _MAX, _HALVE = Pool("mean"), Pool("max"), Pool("max", stride=2)
_ROW, _COLUMN = (1, 7), (7, 1)


def _reduction(name: str, channels: int) -> Conv:
    return Conv(name, channels, (3, 3), stride=2, padded=False)


def _block_a(pooled: int) -> Branches:
    """35 x 35."""
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
        (_MEAN, Conv("branch_pool", pooled)),
    )


def _block_c(narrow: int) -> Branches:
    """17 x 17, its 7x7 convolutions taken apart into rows and columns."""
    return (
        (Conv("branch1x1", 192),),
        (
            Conv("branch7x7_1", narrow),
            Conv("branch7x7_2", narrow, _ROW),
            Conv("branch7x7_3", 192, _COLUMN),
        ),
        (
            Conv("branch7x7dbl_1", narrow),
            Conv("branch7x7dbl_2", narrow, _COLUMN),
            Conv("branch7x7dbl_3", narrow, _ROW),
            Conv("branch7x7dbl_4", narrow, _COLUMN),
            Conv("branch7x7dbl_5", 192, _ROW),
        ),
        (_MEAN, Conv("branch_pool", 192)),
    )


def _block_e(pool: Pool) -> Branches:
    """8 x 8."""

    def fork(left: str, right: str) -> Fork:
        return Fork((Conv(left, 384, (1, 3)), Conv(right, 384, (3, 1))))

    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), fork("branch3x3_2a", "branch3x3_2b")),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            fork("branch3x3dbl_3a", "branch3x3dbl_3b"),
        ),
        (pool, Conv("branch_pool", 192)),
    )


STEM: tuple[Step, ...] = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), stride=2, padded=False),
    Conv("Conv2d_2a_3x3", 32, (3, 3), padded=False),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    _HALVE,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), padded=False),
    _HALVE,
)
BLOCKS: dict[str, Branches] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": (
        (_reduction("branch3x3", 384),),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            _reduction("branch3x3dbl_3", 96),
        ),
        (_HALVE,),
    ),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": (
        (Conv("branch3x3_1", 192), _reduction("branch3x3_2", 320)),
        (
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, _ROW),
            Conv("branch7x7x3_3", 192, _COLUMN),
            _reduction("branch7x7x3_4", 192),
        ),
        (_HALVE,),
    ),
    "Mixed_7b": _block_e(_MEAN),
    "Mixed_7c": _block_e(_MAX),
}
