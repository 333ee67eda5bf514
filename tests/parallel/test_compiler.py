"""The compiler's flags: which chip gets which, and that the compilers know them.

That a run computes with them what it computes without: train/test_compiler_flags.py.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from glide_jax.errors import UserError
from glide_jax.parallel import compiler
from tests import fake_devices

TPU_TOPOLOGIES = {
    "v4": "v4:2x2x1",
    "v5e": "v5e:2x2",
    "v5p": "v5p:2x2x1",
    "v6e": "v6e:2x2",
    "tpu7x": "tpu7x:2x2x1",
}
# A machine that has no TPU: libtpu must neither look for one nor lock it.
NO_TPU = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    # The compiler does all of its work, unlike in most tests (tests/conftest.py).
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
}


def run_python(script: str, *arguments: str, **environment: str):
    """A script in a process of its own: flags are read once."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=fake_devices.ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(fake_devices.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_chip_has_its_sets_and_every_set_a_chip():
    for flag_set in compiler.FLAG_SETS:
        assert set(flag_set.chips) <= set(compiler.CHIPS)
        for flag in flag_set.flags:
            assert flag.why, flag.name
            assert flag.source, flag.name
    assert set(TPU_TOPOLOGIES) == set(compiler.TPUS)


@pytest.mark.parametrize("chip", compiler.CHIPS)
@pytest.mark.parametrize("slices", [1, 2])
def test_each_flag_occurs_once(chip, slices):
    for variable, flags in compiler.flags_for(chip, slices).items():
        names = [flag.split("=")[0] for flag in flags.split()]
        assert len(names) == len(set(names))
        assert (variable == compiler.TPU) == (chip in compiler.TPUS)


def test_several_slices_add_the_flags_of_the_network_between_them():
    one = compiler.flags_for("v5p", 1)[compiler.TPU].split()
    two = compiler.flags_for("v5p", 2)[compiler.TPU].split()
    assert set(two) - set(one) == set(map(str, compiler.GRADIENTS_BETWEEN_SLICES.flags))
    assert set(one) < set(two)
    assert compiler.flags_for("tpu7x", 1) == {}


def test_unknown_chips_and_no_slices_are_errors():
    with pytest.raises(UserError, match="--chip=v9 is not known; use one of cpu"):
        compiler.flags_for("v9")
    with pytest.raises(UserError, match="--slices=0"):
        compiler.flags_for("v5p", 0)


COMPILE_HERE = "import jax; jax.jit(lambda x: x + 1)(1.0)"


def test_xla_knows_the_flags_that_it_is_given():
    """jaxlib parses the flags of all platforms, whichever it computes on."""
    flags = " ".join(compiler.flags_for(chip)[compiler.XLA] for chip in ("cpu", "h100"))
    result = run_python(COMPILE_HERE, JAX_PLATFORMS="cpu", XLA_FLAGS=flags)
    assert result.returncode == 0, result.stderr[-2000:]


def test_xla_rejects_an_unknown_flag():
    result = run_python(COMPILE_HERE, JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_gpu_x=true")
    assert result.returncode != 0
    assert "xla_gpu_x" in result.stderr


# A product whose operands lie apart: there is something to gather and to reduce.
COMPILE_FOR_TPU = """
import sys
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np
slices = int(sys.argv[2])
options = {"num_slices": slices} if slices > 1 else {}
topology = topologies.get_topology_desc(
    platform="tpu", topology_name=sys.argv[1], **options
)
devices = np.array(topology.devices).reshape(slices, -1)
mesh = Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
def aval(spec):
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct((512, 512), jnp.bfloat16, sharding=sharding)
def loss(w, x):
    return jnp.sum(jnp.tanh(x @ w).astype(jnp.float32) ** 2)
step = jax.jit(jax.grad(loss))
step.lower(aval(("fsdp",)), aval((("data", "fsdp"),))).compile()
"""


def compile_for_tpu(chip: str, slices: int, flags: str):
    return run_python(
        COMPILE_FOR_TPU,
        TPU_TOPOLOGIES[chip],
        str(slices),
        **NO_TPU,
        LIBTPU_INIT_ARGS=flags,
    )


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed (pip install -e '.[tpu]')",
)


@needs_libtpu
@pytest.mark.parametrize("chip", compiler.TPUS)
@pytest.mark.parametrize("slices", [1, 2])
def test_a_tpu_compiler_takes_the_flags_of_its_chip(chip, slices):
    flags = compiler.flags_for(chip, slices).get(compiler.TPU, "")
    result = compile_for_tpu(chip, slices, flags)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "nknown" not in result.stderr


@needs_libtpu
def test_a_tpu_compiler_rejects_an_unknown_flag():
    result = compile_for_tpu("v5p", 1, "--xla_tpu_no_such_flag=true")
    assert result.returncode != 0 or "nknown" in result.stderr
