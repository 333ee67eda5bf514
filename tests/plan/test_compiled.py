"""Compilation for other chips: error messages."""

from __future__ import annotations

import pytest

from glide_jax.plan import (
    abstract_devices,
    compiled,
    device_topology,
    gpu_targets,
)

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
def test_an_out_of_memory_message_has_two_sizes(message, needed, available):
    found = compiled.read_out_of_memory(message)
    assert found == (int(needed * GIB), int(available * GIB))


def test_any_other_failure_of_the_compiler_is_raised():
    with pytest.raises(RuntimeError, match="no such operation"):
        compiled.read_out_of_memory("INTERNAL: no such operation")


def test_a_gpu_without_a_description_names_those_with_one():
    (reason,) = abstract_devices.missing(device_topology.parse(None, "l4:8", None))
    assert "l4" in reason
    assert all(name in reason for name in gpu_targets.TARGETS)
