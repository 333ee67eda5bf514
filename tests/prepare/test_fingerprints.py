"""Copies have near fingerprints, and banding finds all near pairs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from glide_jax.prepare import fingerprints
from tests.prepare import planted

DISTANCE, DIFFERENCE = 4, 12
COPIES = {
    "JPEG at 60": lambda image: Image.open(io.BytesIO(planted.jpeg(image))),
    "resized to 0.7": planted.resized,
    "cropped by 2%": planted.cropped,
}


def arrays(found: list[fingerprints.Fingerprint]) -> tuple[np.ndarray, np.ndarray]:
    signatures = [np.frombuffer(one.signature, np.uint8) for one in found]
    return np.array([one.hash for one in found], np.uint64), np.array(signatures)


def pairs_of(hashes, signatures, distance=DISTANCE, difference=DIFFERENCE) -> set:
    return {
        pair
        for found in fingerprints.near_pairs(hashes, signatures, distance, difference)
        for pair in zip(*(part.tolist() for part in found), strict=True)
    }


@pytest.mark.parametrize("block", [8, 4096])
@pytest.mark.parametrize("distance", [0, 2, 4])
def test_banding_finds_what_comparing_each_with_each_finds(
    monkeypatch, block, distance
):
    # Blocks of 8 divide groups many times.
    monkeypatch.setattr(fingerprints, "_BLOCK", block)
    rng = np.random.default_rng(distance)
    centres = rng.integers(0, 2**64, 12, np.uint64)
    hashes = np.repeat(centres, 20)
    for _ in range(4):  # up to four bits of each are changed
        flips = np.uint64(1) << rng.integers(0, 64, len(hashes), np.uint64)
        hashes = np.where(rng.random(len(hashes)) < 0.5, hashes ^ flips, hashes)
    signatures = rng.integers(100, 110, (len(hashes), 43), np.uint8)
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    levels = np.abs(signatures[:, None].astype(int) - signatures[None]).max(axis=2)
    near = np.triu((apart <= distance) & (levels <= 7), 1)
    expected = {(i, j, int(apart[i, j])) for i, j in np.argwhere(near).tolist()}
    assert expected
    assert pairs_of(hashes, signatures, distance, 7) == expected
    # Each pair shares a band, so that an engine brings its two rows together.
    for i, j, _ in expected:
        keys = [set(fingerprints.band_keys(int(hashes[k]), distance)) for k in (i, j)]
        assert keys[0] & keys[1]
    index = fingerprints.HashIndex(hashes, signatures, distance, 7)
    for i in range(0, len(hashes), 7):
        found = index.nearest(int(hashes[i]), signatures[i].tobytes())
        assert found is not None
        assert found[1] == 0


@pytest.mark.parametrize("kind", COPIES)
def test_planted_near_duplicates_are_found_and_others_are_not(kind):
    originals = [planted.texture(number) for number in range(80)]
    copies = [COPIES[kind](image).convert("RGB") for image in originals]
    found = [fingerprints.fingerprint(image) for image in [*originals, *copies]]
    pairs = {(i, j) for i, j, _ in pairs_of(*arrays(found))}
    true = {(i, i + len(originals)) for i in range(len(originals))}
    assert len(pairs & true) >= 0.95 * len(true)
    assert pairs <= true


def test_pixels_are_compared_and_not_files():
    image = planted.texture(0)
    again = Image.open(io.BytesIO(planted.png(image, level=0)))
    other = image.copy()
    other.putpixel((0, 0), (0, 0, 0))
    first, second, third = (
        fingerprints.fingerprint(i.convert("RGB")).pixels for i in (image, again, other)
    )
    assert first == second != third
    tall = image.transpose(Image.Transpose.ROTATE_90)
    flat = Image.frombytes("RGB", tall.size, image.tobytes())
    assert fingerprints.fingerprint(flat).pixels != first
