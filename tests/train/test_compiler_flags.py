"""A run with a chip's compiler flags makes the losses of one without them.

On a machine without the chip only the CPU's set can be held to this.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from glide_jax.config import defaults
from glide_jax.parallel import compiler
from tests import fake_devices
from tests.train import small_runs

# Collectives may add in another order; three updates in float32 stay this close.
REORDERED = 1e-5


@pytest.fixture
def losses(make_config, tmp_path):
    """losses(PLATFORM, VARIABLES, model=MODEL): of three updates, over all devices."""
    changes = {
        "train.num_steps": 3,
        "train.global_batch_size": 8,
        "mesh.data": 1,
        "mesh.fsdp": -1,
        "mesh.min_shard_mb": 0,
    }

    def train(
        platform: str,
        variables: dict[str, str],
        model: defaults.ModelConfig = small_runs.TEXT2IM,
    ) -> np.ndarray:
        config = make_config(model, changes)
        experiment = small_runs.write_experiment(tmp_path / "small.py", config)
        workdir = pathlib.Path(tmp_path, "with" if variables else "without")
        flags = os.environ.get("XLA_FLAGS", "")
        command = [sys.executable, "-m", "glide_jax.cli.main", "train"]
        result = subprocess.run(
            [*command, f"--config={experiment}", f"--workdir={workdir}"],
            cwd=fake_devices.ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": platform,
                # Two devices on a CPU; see tests/fake_devices.py.
                "JAX_NUM_CPU_DEVICES": "2",
                "NPROC": "8",
                **variables,
                # Beside those that tests/conftest.py sets.
                "XLA_FLAGS": f"{flags} {variables.get('XLA_FLAGS', '')}",
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-2000:]
        rows = (workdir / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(row)["loss"] for row in rows if '"loss"' in row]
        assert len(set(found)) == 3, "every update changes the loss"
        return np.array(found)

    return train


@pytest.mark.slow  # two runs in processes of their own
def test_the_flags_of_the_cpu_do_not_change_the_losses(losses):
    """The same program, so the same bits. The CLIP compiles soonest."""
    with_flags = losses("cpu", compiler.flags_for("cpu"), model=small_runs.CLIP)
    np.testing.assert_array_equal(with_flags, losses("cpu", {}, model=small_runs.CLIP))


@pytest.mark.gpu
def test_the_flags_of_a_gpu_do_not_change_the_losses(losses):
    with_flags = losses("cuda", compiler.flags_for("h100"))
    np.testing.assert_allclose(with_flags, losses("cuda", {}), rtol=REORDERED)


@pytest.mark.tpu
@pytest.mark.parametrize("chip", compiler.TPUS)
def test_the_flags_of_a_tpu_do_not_change_the_losses(losses, chip):
    """Of one slice; those for several need several."""
    kind = os.environ.get("TPU_ACCELERATOR_TYPE", "").replace("v5litepod", "v5e")
    if not kind.startswith(f"{chip}-"):
        pytest.skip(f"TPU_ACCELERATOR_TYPE={kind!r} is no {chip}")
    with_flags = losses("tpu", compiler.flags_for(chip))
    # A TPU multiplies float32 in passes of bfloat16, which fusions may order anew.
    np.testing.assert_allclose(with_flags, losses("tpu", {}), rtol=1e-3)
