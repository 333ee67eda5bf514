"""Fingerprints of pictures: digests of bytes and pixels, and a perceptual hash.

The signature of a picture is its mean luminance on a grid of 5 x 5 cells and its two
mean chromas on 3 x 3 cells (ITU-R BT.601, 8 bits): 43 levels that survive another
format, another size and a small crop. Bit i of the hash says whether one cell is
brighter than its left or upper neighbour, by more than STEP levels, so that flat areas
give the same bits whatever the noise of a codec: 2 * 20 bits of luminance and 2 * 12 of
chroma.

All pairs of hashes within distance d of each other are found by banding: 64 bits in
d + 1 bands; d different bits leave at least one band equal.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8, UInt64
from PIL import Image

LUMA_CELLS, CHROMA_CELLS = 5, 3
SIGNATURE_BYTES = LUMA_CELLS**2 + 2 * CHROMA_CELLS**2
STEP = 4  # levels of 256 (ours: the noise of JPEG at quality 60)
BITS = 64
DIGEST_BYTES = 16
# Members of a group that are compared each with each at once: 4096 x 4096 words.
_BLOCK = 4096

Rows = Int[np.ndarray, "r"]
Hashes = UInt64[np.ndarray, "n"]
Signatures = UInt8[np.ndarray, "n 43"]


class Fingerprint(NamedTuple):
    """What identifies a picture.

    Attributes:
      pixels: digest of the size and the decoded pixels.
      hash: the perceptual hash.
      signature: the levels that it is made of.
    """

    pixels: bytes
    hash: int
    signature: bytes


def digest(*parts: bytes) -> bytes:
    """Returns 16 bytes of BLAKE2b."""
    total = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        total.update(part)
    return total.digest()


def fingerprint(image: Image.Image) -> Fingerprint:
    """Returns the fingerprint of a picture of mode "RGB"."""
    size = b"%d %d " % image.size
    planes = []
    for plane, cells in zip(
        image.convert("YCbCr").split(),
        (LUMA_CELLS, CHROMA_CELLS, CHROMA_CELLS),
        strict=True,
    ):
        small = plane.resize((cells, cells), Image.Resampling.BILINEAR)
        planes.append(np.asarray(small))
    bits = np.concatenate([_steps(plane.astype(np.int16)) for plane in planes])
    word = int(np.packbits(bits).view(">u8")[0])
    signature = np.concatenate([plane.ravel() for plane in planes]).tobytes()
    return Fingerprint(digest(size, image.tobytes()), word, signature)


def _steps(plane: np.ndarray) -> np.ndarray:
    down, right = np.diff(plane, axis=0), np.diff(plane, axis=1)
    return np.concatenate([down.ravel() > STEP, right.ravel() > STEP])


def band_keys(word: int, distance: int) -> list[tuple[int, int]]:
    """Returns (band, bits) of a hash; hashes within `distance` share at least one."""
    keys, end = [], BITS
    for band, width in enumerate(_widths(range(BITS), distance + 1)):
        end -= width
        keys.append((band, word >> end & (1 << width) - 1))
    return keys


def _widths(bits: Sequence[int], count: int) -> list[int]:
    """Splits a number of bits into `count` widths that differ by one at most."""
    return [len(bits) * (i + 1) // count - len(bits) * i // count for i in range(count)]


class Pairs(NamedTuple):
    """Pairs of rows i < j that are near duplicates, and the distances of their hashes.

    A pair may occur several times.
    """

    first: Rows
    second: Rows
    distance: Rows


def near_pairs(
    hashes: Hashes, signatures: Signatures, distance: int, difference: int
) -> Iterator[Pairs]:
    """Yields all pairs within `distance` bits and `difference` levels in each cell.

    Up to _BLOCK rows are compared each with each. More, e.g. drawings on white that
    share a band, are first divided by bands of the bits in which they differ.
    """
    yield from _search(hashes, signatures, np.arange(len(hashes)), distance, difference)


def _search(
    hashes: Hashes,
    signatures: Signatures,
    rows: Rows,
    distance: int,
    difference: int,
) -> Iterator[Pairs]:
    words = hashes[rows]
    varying = int(np.bitwise_or.reduce(words ^ words[:1])) if len(rows) else 0
    places = [bit for bit in range(BITS) if varying >> bit & 1]
    if len(rows) <= _BLOCK or len(places) <= distance:
        yield from _compare(hashes, signatures, rows, distance, difference)
        return
    start = 0
    for width in _widths(places, distance + 1):
        mask = np.uint64(sum(1 << bit for bit in places[start : start + width]))
        start += width
        keys = words & mask
        order = np.argsort(keys, kind="stable")
        ends = np.flatnonzero(np.diff(keys[order])) + 1
        for part in np.split(rows[order], ends):
            if len(part) > 1:
                yield from _search(hashes, signatures, part, distance, difference)


def _compare(
    hashes: Hashes,
    signatures: Signatures,
    rows: Rows,
    distance: int,
    difference: int,
) -> Iterator[Pairs]:
    """Compares rows each with each, in blocks."""
    rows = np.sort(rows)
    for start in range(0, len(rows), _BLOCK):
        left = rows[start : start + _BLOCK]
        for other in range(start, len(rows), _BLOCK):
            right = rows[other : other + _BLOCK]
            apart = np.bitwise_count(hashes[left][:, None] ^ hashes[right][None])
            i, j = np.nonzero(apart <= distance)
            keep = left[i] < right[j]
            i, j = i[keep], j[keep]
            levels = signatures[left[i]].astype(np.int16)
            levels -= signatures[right[j]]
            near = np.abs(levels).max(axis=1, initial=0) <= difference
            i, j = i[near], j[near]
            if len(i):
                yield Pairs(left[i], right[j], apart[i, j].astype(np.int64))


class HashIndex:
    """Finds the nearest of some pictures, e.g. of a validation set, to another one."""

    def __init__(
        self,
        hashes: Hashes,
        signatures: Signatures,
        distance: int,
        difference: int,
    ) -> None:
        self._hashes, self._signatures = hashes, signatures
        self._distance, self._difference = distance, difference
        rows = collections.defaultdict(list)
        for row, word in enumerate(hashes.tolist()):
            for key in band_keys(word, distance):
                rows[key].append(row)
        self._rows = {key: np.array(found) for key, found in rows.items()}

    def nearest(self, word: int, signature: bytes) -> tuple[int, int] | None:
        """Returns (row, distance) of the nearest near duplicate, or None."""
        keys = band_keys(word, self._distance)
        parts = [self._rows[key] for key in keys if key in self._rows]
        if not parts:
            return None
        rows = np.unique(np.concatenate(parts))
        apart = np.bitwise_count(self._hashes[rows] ^ np.uint64(word))
        levels = self._signatures[rows].astype(np.int16)
        levels -= np.frombuffer(signature, np.uint8)
        near = np.abs(levels).max(axis=1, initial=0) <= self._difference
        near &= apart <= self._distance
        if not near.any():
            return None
        rows, apart = rows[near], apart[near]
        best = int(np.argmin(apart))  # the first of equal ones
        return int(rows[best]), int(apart[best])
