"""The sampler of every stage compiles for chips that are not here.

Small models. Nothing runs: the compilers of GPUs and TPUs read the programs that
`glide sample` and `glide export` make.
"""

from __future__ import annotations

import json

import pytest

from glide_jax.plan import abstract_devices, device_topology
from tests import fake_devices

STEPS = 10
# The kind of model, guidance, whether the noised CLIP guides.
STAGES = (
    ("base", "cfg", False),
    ("upsampler", "none", False),
    ("inpainting", "cfg", False),
    ("base", "clip", True),
)
CHIPS = {"h100:1": (None, "h100:1"), "v5e:1x1": ("v5e:1x1", None)}
NARROW = {"model.compute_dtype": "bfloat16", "sample.respacing": str(STEPS)}

SCRIPT = """
import json
from glide_jax.plan import abstract_devices, device_topology

where = device_topology.parse({topology!r}, {gpus!r}, None)
abstract_devices.prepare_environment(where)
from glide_jax.plan import sampling
from tests.train import mesh_runs

clip = mesh_runs.make_config("clip", {{"model.compute_dtype": "bfloat16"}})
found = []
for kind, mode, has_clip in {stages!r}:
    said = sampling.compile_sampler(
        mesh_runs.make_config(kind, {changes!r}),
        where,
        sampling.Sampling(3, mode, clip=clip if has_clip else None),
    )
    found.append(said.to_json())
print(json.dumps(found))
"""


def skip_without_compiler(chips: str) -> None:
    reasons = abstract_devices.missing(device_topology.parse(*CHIPS[chips], None))
    if reasons:
        pytest.skip(reasons[0])


def compile_stages(chips: str, stages: tuple, timeout_secs: float) -> list[dict]:
    topology, gpus = CHIPS[chips]
    script = SCRIPT.format(topology=topology, gpus=gpus, stages=stages, changes=NARROW)
    printed = fake_devices.run_with_devices(
        script, devices=1, timeout_secs=timeout_secs
    )
    return json.loads(printed.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("chips", CHIPS)
def test_every_stage_compiles_and_its_steps_are_counted(chips):
    skip_without_compiler(chips)
    found = compile_stages(chips, STAGES, 600)
    assert len(found) == len(STAGES)
    for (kind, mode, _), said in zip(STAGES, found, strict=True):
        settings, bound = said["settings"], said["roofline"]
        assert (said["batch_size"], said["num_steps"]) == (4, STEPS)
        assert settings["guidance_mode"] == mode
        pinned = "pinned" if kind == "inpainting" else None
        assert settings["inpaint_mode"] == pinned
        assert said["fits"]
        assert said["total_bytes"] == said["argument_bytes"] + said["temporary_bytes"]
        assert bound["unknown_loops"] == []
        # cuDNN has attention for heads of 8 channels in bfloat16; splash attention
        # needs multiples of 128 pixels. Four blocks have attention, and both layers of
        # the text transformer, which encodes the caption and, for cfg, the empty one.
        encoded = 2 if mode == "cfg" else 1
        fused = 4 * STEPS + 2 * encoded if chips == "h100:1" else 0
        assert bound["attention"] == fused, (kind, mode)
        assert bound["kernels"] > 100 * STEPS
        assert said["seconds_per_batch"] == bound["seconds"] > 0
        assert said["seconds_per_picture"] == bound["seconds"] / 4
        # More than the model's operations are done, in more than the time at the peak.
        assert 0 < said["mfu"]["bound"] < 1
        assert (bound["cycles"] is None) == (chips == "h100:1")
    cfg, upsampler, _, clip = found
    # Two rows a picture instead of one, of nearly the same model.
    ratio = cfg["roofline"]["flops"] / upsampler["roofline"]["flops"]
    assert 1.5 < ratio < 2
    assert clip["argument_bytes"] > cfg["argument_bytes"]


EXPORTED = """
import json, pathlib
from glide_jax.plan import abstract_devices, device_topology

where = device_topology.parse({topology!r}, {gpus!r}, None)
abstract_devices.prepare_environment(where)
import jax
from jax import export

from glide_jax.config import defaults
from glide_jax.parallel import device_mesh, sharding
from glide_jax.plan import hlo, roofline
from glide_jax.sample import program, program_readme
from glide_jax.text import sentencepiece_tokenizer
from tests.sample import conftest
from tests.train import mesh_runs

proto = sentencepiece_tokenizer.train_sentencepiece(conftest.CAPTIONS, 300)
files = program.make_files(
    mesh_runs.make_config("base", {changes!r}),
    sentencepiece_tokenizer.SentencePieceTokenizer(proto),
    pathlib.Path("base"),
)
written = files[f"{{program.FOLDER}}/{{program_readme.PROGRAM}}"]
exported = export.deserialize(bytearray(written))
mesh = device_mesh.make_mesh(
    defaults.MeshConfig(), abstract_devices.make_devices(where)
)
leaves = [
    jax.ShapeDtypeStruct(
        tuple(side if isinstance(side, int) else 3 for side in aval.shape),
        aval.dtype,
        sharding=sharding.replicated(mesh),
    )
    for aval in exported.in_avals
]
arguments, _ = jax.tree.unflatten(exported.in_tree, leaves)
compiled = jax.jit(exported.call).lower(*arguments).compile()
bound = roofline.analyse(compiled.as_text(), where.machine, lambda groups: False)
print(json.dumps({{
    "platforms": exported.platforms,
    "pictures": [list(leaf.shape) for leaf in jax.tree.leaves(compiled.out_info)],
    "unknown_loops": bound.unknown_loops,
    "kernels": bound.kernels,
    "seconds": bound.seconds,
}}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("chips", CHIPS)
def test_an_exported_program_compiles_after_it_was_read_back(chips):
    skip_without_compiler(chips)
    topology, gpus = CHIPS[chips]
    script = EXPORTED.format(topology=topology, gpus=gpus, changes=NARROW)
    printed = fake_devices.run_with_devices(script, devices=1, timeout_secs=600)
    found = json.loads(printed.splitlines()[-1])
    assert "cuda" in found["platforms"]
    assert found["pictures"] == [[3, 8, 8, 3]]
    # It runs in one piece, so the compiler knows the number of its steps.
    assert found["unknown_loops"] == []
    assert found["kernels"] > 100 * STEPS
    assert found["seconds"] > 0
