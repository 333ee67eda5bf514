"""The compiler's word: read when it refuses, and matched by the formula."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from glide_jax import presets
from glide_jax.plan import compiled, topology
from tests import fake_devices
from tests.plan import plans

GIB = 2**30


@pytest.mark.parametrize(
    ("message", "needed", "available"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, "
            "the total memory required for HLO temporaries (181.16G) exceeds available "
            "HBM (15.75G). HLO module: jit_step.",
            181.16,
            15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of "
            "15.75G hbm. Exceeded hbm capacity by 4.75G.",
            20.5,
            15.75,
        ),
    ],
)
def test_an_out_of_memory_message_gives_its_two_sizes(message, needed, available):
    found = compiled.read_out_of_memory(message)
    assert found == (int(needed * GIB), int(available * GIB))


def test_any_other_failure_of_the_compiler_is_raised():
    with pytest.raises(RuntimeError, match="no such operation"):
        compiled.read_out_of_memory("INTERNAL: no such operation")


def test_gpus_have_no_compiler_here():
    reasons = topology.missing_for_compiling(topology.parse(None, "h100:8", None))
    assert len(reasons) == 1
    assert "h100" in reasons[0]


needs_libtpu = pytest.mark.skipif(
    bool(topology.missing_for_compiling(topology.parse("v5e:2x2", None, None))),
    reason="libtpu is not installed",
)
