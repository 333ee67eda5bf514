"""Compilation for TPUs: error messages, and agreement with the formula."""

from __future__ import annotations

import json

import pytest

from glide_jax.plan import (
    abstract_devices,
    compiled,
    device_topology,
    gpu_targets,
)
from tests import fake_devices

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


# Of the widths and the side that the published models have, but of few blocks; three
# or four minutes of two cores, most of them in the compiler.
COMPILE = """
import os
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"  # set by tests/conftest.py
import json
from glide_jax.config import defaults
from glide_jax.plan import abstract_devices, device_topology, report

where = device_topology.parse("v5p:2x2x1", None, None)
abstract_devices.prepare_environment(where)
model = defaults.Text2ImConfig(
    num_channels=256, channel_mult=(1, 2), num_res_blocks=1, attention_px=(32,),
    text_width=512, text_layers=4, text_heads=8,
)
train = defaults.TrainConfig(global_batch_size=64)
config = defaults.Config(name="probe", model=model, train=train)
print(json.dumps(report.make_plan(config, where, compiles=True)))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    bool(abstract_devices.missing(device_topology.parse("v5p:2x2x1", None, None))),
    reason="libtpu is not installed: pip install -e .[tpu]",
)
def test_the_formula_is_within_15_percent_of_the_compiler():
    printed = fake_devices.run_with_devices(COMPILE, devices=1, timeout_secs=1800)
    report = json.loads(printed.splitlines()[-1])
    assert report["compiler"]["fits"]
    formula = report["bytes_per_device"]["total"]
    # 15% is what the formula is held to; libtpu 0.0.51 says 3.65 GiB, the formula 3.83.
    assert formula == pytest.approx(report["compiler"]["total_bytes"], rel=0.15)
