"""The compiler's word: read when it refuses, and matched by the formula."""

from __future__ import annotations

import json

import pytest

from glide_jax.plan import compiled, topology
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


# Of the widths and sides that the published models have, but of few blocks, as each
# takes the compiler a quarter of a minute.
COMPILE = """
import dataclasses, json
from glide_jax.config import defaults
from glide_jax.plan import plan, topology

where = topology.parse("{where}", None, None)
topology.prepare_environment()
model = defaults.Text2ImConfig(
    num_channels=256, channel_mult=(1, 2), num_res_blocks=1, attention_px=(32,),
    text_width=512, text_layers=4, text_heads=8,
)
train = defaults.TrainConfig(
    global_batch_size={batch}, remat=("{remat}",), remat_text="{remat}"
)
mesh = defaults.MeshConfig(fsdp=4)
config = defaults.Config(name="probe", model=model, train=train, mesh=mesh)
print(json.dumps(plan.make_plan(config, where, compiles=True)))
"""
needs_libtpu = pytest.mark.skipif(
    bool(topology.missing_for_compiling(topology.parse("v5e:2x2", None, None))),
    reason="libtpu is not installed: pip install 'glide_jax[tpu]'",
)


def compile_probe(where: str, batch: int, remat: str) -> dict:
    script = COMPILE.format(where=where, batch=batch, remat=remat)
    printed = fake_devices.run_with_devices(script, devices=1, timeout_secs=1800)
    return json.loads(printed.splitlines()[-1])


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "blocks"])
def test_the_formulas_bytes_are_near_the_compilers(remat):
    report = compile_probe("v5p:2x2x1", 64, remat)
    assert report["compiler"]["fits"]
    formula = report["bytes_per_device"]["total"]
    # 15% is what `glide plan` promises; the search leaves a tenth of the memory free.
    assert formula == pytest.approx(report["compiler"]["total_bytes"], rel=0.15)


@needs_libtpu
@pytest.mark.slow
def test_what_the_compiler_cannot_place_becomes_advice():
    report = compile_probe("v5e:2x2", 512, "none")
    said = report["compiler"]
    assert not said["fits"]
    assert said["total_bytes"] > said["available_bytes"] > 15 * GIB
    assert "--config.train.remat" in report["advice"]
