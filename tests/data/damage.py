"""Damages the bytes of a file at random, for tests of readers."""

from __future__ import annotations

import random


def mutate(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """One to three kinds of damage, one after the other."""
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(_DAMAGES)(rng, bytearray(content), others)
    return content


def _span(rng: random.Random, content: bytes) -> slice:
    start = rng.randrange(len(content) + 1)
    return slice(start, start + int(2 ** rng.uniform(0, 12)))


def _flip(rng, content, others):
    for _ in range(rng.randint(1, 20) if content else 0):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _truncate(rng, content, others):
    return bytes(content[: rng.randrange(len(content) + 1)])


def _noise(rng, content, others):
    content[_span(rng, content)] = rng.randbytes(int(2 ** rng.uniform(0, 12)))
    return bytes(content)


def _splice(rng, content, others):
    other = rng.choice(others)
    content[_span(rng, content)] = other[_span(rng, other)]
    return bytes(content)


def _repeat(rng, content, others):
    where = _span(rng, content)
    content[where] = content[where] * rng.randint(0, 8)
    return bytes(content)


def _giant(rng, content, others):
    start = rng.randrange(len(content) + 1)
    width = rng.choice([1, 2, 4, 8])
    value = rng.choice([b"\xff", b"\x7f", b"\0", b"\x80", b"9", b"7"]) * width
    content[start : start + width] = value
    return bytes(content)


_DAMAGES = (_flip, _truncate, _noise, _splice, _repeat, _giant)
