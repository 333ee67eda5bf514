"""Chips are found by their device kind."""

from __future__ import annotations

import itertools

import jax
import pytest

from glide_jax.parallel import chips


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
    ],
)
def test_find_returns_the_chip_of_a_device_kind(device_kind, name):
    assert chips.find(device_kind) is chips.CHIPS[name]


def test_device_kinds_are_unique():
    kinds = list(
        itertools.chain.from_iterable(c.device_kinds for c in chips.CHIPS.values())
    )
    assert len(set(kinds)) == len(kinds)


def test_a_cpu_has_no_published_peak():
    assert chips.find(jax.devices("cpu")[0].device_kind) is None
