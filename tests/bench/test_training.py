"""The row of the training benchmark."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from glide_jax import errors
from glide_jax.bench import instructions, machine, training
from glide_jax.config import defaults, resolve
from glide_jax.models import build
from glide_jax.parallel import chips, device_mesh
from glide_jax.train import placement
from tests.train import small_runs

CONFIG = resolve.override(
    defaults.Config(name="small", model=small_runs.TEXT2IM),
    {"train.global_batch_size": 4},
)


@pytest.fixture(scope="module", autouse=True)
def small_peak():
    """The machine's peak by a small product: its height plays no part here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "_MATMUL_SIDES", {"default": (64,)})
        yield


@pytest.fixture(scope="module")
def row():
    return training.benchmark(CONFIG)


def test_a_row_is_json_and_names_machine_and_settings(row):
    assert json.loads(json.dumps(row)) == row
    assert row["machine"]["platform"] == "cpu"
    assert (row["config"], row["batch"], row["repeats"]) == ("small", 4, 10)
    assert row["mesh"] == {"data": 1, "fsdp": 1, "tensor": 1}
    assert row["compute_dtype"] == "float32"


def test_every_timed_step_makes_its_update(row):
    # A step whose gradient is no number leaves out half of the work.
    assert row["skipped_updates"] == 0
    seconds = row["step_seconds"]
    assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
    assert row["compile_seconds"] > 0


def test_utilisation_is_formula_over_time_over_peak(row):
    work = 3 * sum(build.forward_flops(CONFIG.model).values()) * 4
    # Each figure is rounded to four digits.
    rate = work / row["step_seconds"]["median"] / 1e12
    assert row["model_tflops_per_second_per_chip"] == pytest.approx(rate, rel=2e-3)
    assert row["mfu_of_measured_peak"] == pytest.approx(
        rate / row["matmul_peak_tflops"], rel=2e-3
    )
    assert row["images_per_second_per_chip"] == pytest.approx(
        4 / row["step_seconds"]["median"], rel=2e-3
    )
    assert "mfu_of_published_peak" not in row, "a CPU has none"


def test_a_chip_with_a_published_peak_has_its_share(row, monkeypatch):
    chip = chips.Chip((jax.devices()[0].device_kind,), 2.0, 10**9, 1e12, devices=2)
    monkeypatch.setitem(chips.CHIPS, "this", chip)
    found = training.utilisation(CONFIG, step_seconds=0.5)
    per_chip = found["model_tflops_per_second_per_chip"]
    assert found["mfu_of_published_peak"] == pytest.approx(per_chip / 2.0, rel=2e-3)
    # The measured peak is that of one of the chip's two devices.
    assert found["mfu_of_measured_peak"] == pytest.approx(
        per_chip / 2 / found["matmul_peak_tflops"], rel=2e-3
    )


def test_bytes_are_at_least_those_of_the_state(row):
    parts = placement.abstract_step(CONFIG, device_mesh.make_mesh(CONFIG.mesh))
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(parts.state))
    assert row["bytes"]["arguments"] >= held
    assert row["bytes"]["temporaries"] > 0
    assert row["bytes"]["device_peak"] is None, "a CPU does not tell"
    assert row["bytes"]["host_peak"] > row["bytes"]["arguments"]


INPAINT = dataclasses.replace(small_runs.TEXT2IM, low_res_px=4, inpaint=True)


@pytest.mark.parametrize("model", [INPAINT, small_runs.CLIP], ids=["inpaint", "clip"])
def test_the_batch_is_what_the_step_takes(model):
    config = dataclasses.replace(CONFIG, model=model)
    parts = placement.abstract_step(config, device_mesh.make_mesh(config.mesh))
    batch = training.make_batch(config, parts.batch)
    assert {name: (rows.shape, rows.dtype) for name, rows in batch.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in parts.batch.items()
    }
    assert np.abs(batch["image"]).max() <= 1
    assert batch["tokens"].max() < model.vocab_size
    state = training.make_state(config, parts.state)
    assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, parts.state)


def test_a_batch_or_mesh_that_does_not_fit_is_an_error():
    for changes, named in (({"mesh.fsdp": 3}, "mesh.fsdp=3"), ({"mesh.data": 2}, "2")):
        with pytest.raises(errors.UserError, match=named):
            training.check(resolve.override(CONFIG, changes))


@pytest.mark.parametrize("failure", [RuntimeError("no CUPTI"), None])
def test_a_trace_without_instructions_is_said_and_loses_no_row(
    failure, monkeypatch, caplog
):
    def measure(run, text):
        if failure:
            raise failure
        return []

    monkeypatch.setattr(instructions, "measure", measure)
    row = training.benchmark(CONFIG, by_instruction=True)
    assert row["step_seconds"]["median"] > 0
    assert row["instructions"] == []
    assert "no time by instruction" in caplog.text
    assert ("no CUPTI" in caplog.text) == bool(failure)
