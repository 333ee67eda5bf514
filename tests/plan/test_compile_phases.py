"""The train step of every phase compiles for chips that are not here.

Small models, with every tensor sharded that is sharded at full size. Nothing runs: the
compilers of GPUs and TPUs refuse what they cannot partition.
"""

from __future__ import annotations

import json

import pytest

from glide_jax.plan import abstract_devices, device_topology
from tests import fake_devices

pytestmark = pytest.mark.slow

CHIPS = {"h100:8": (None, "h100:8"), "v5e:2x4": ("v5e:2x4", None)}
MESHES = {
    "data": {"mesh.data": 8},
    "fsdp": {"mesh.data": 1, "mesh.fsdp": 8},
    "data and fsdp": {"mesh.data": 2, "mesh.fsdp": 4},
    "tensor": {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2},
}
# Every phase, mesh and type; all combinations would take an hour. The phases of the
# U-Net differ in the inputs of the first convolution.
CASES = (
    ("base", "data", "float32"),
    ("base", "fsdp", "bfloat16"),
    ("upsampler", "data and fsdp", "bfloat16"),
    ("inpainting", "tensor", "bfloat16"),
    ("clip", "fsdp", "float32"),
    ("clip", "tensor", "bfloat16"),
)

SCRIPT = """
import json
from glide_jax.plan import abstract_devices, compiled, device_topology

where = device_topology.parse({topology!r}, {gpus!r}, None)
abstract_devices.prepare_environment(where)
from tests.train import mesh_runs

found = []
for phase, mesh, dtype in {cases!r}:
    changes = {meshes!r}[mesh] | {{"model.compute_dtype": dtype}}
    said = compiled.compile_step(mesh_runs.make_config(phase, changes), where)
    bound = said.roofline
    found.append((bound.attention, bound.network_bytes["fast"], bound.cycles))
print(json.dumps(found))
"""


@pytest.mark.parametrize("chips", CHIPS)
def test_every_phase_compiles_on_every_mesh(chips):
    topology, gpus = CHIPS[chips]
    reasons = abstract_devices.missing(device_topology.parse(topology, gpus, None))
    if reasons:
        pytest.skip(reasons[0])
    script = SCRIPT.format(topology=topology, gpus=gpus, cases=CASES, meshes=MESHES)
    printed = fake_devices.run_with_devices(script, devices=1, timeout_secs=1500)
    found = json.loads(printed.splitlines()[-1])
    assert len(found) == len(CASES)
    for (phase, mesh, dtype), row in zip(CASES, found, strict=True):
        attention, received, cycles = row
        # cuDNN has no attention in float32, and splash attention needs multiples of
        # 128 pixels.
        is_fused = gpus and phase != "clip" and dtype == "bfloat16"
        assert bool(attention) == bool(is_fused), (phase, mesh, dtype)
        assert received > 0, (phase, mesh, dtype)
        assert (cycles is not None) == (chips == "v5e:2x4"), "TPUs alone estimate them"
