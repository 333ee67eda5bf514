"""Rates follow from the formula, and nothing is invented where a figure is missing."""

from __future__ import annotations

import ast
import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import jax
import pytest

from glide_jax.config import defaults, resolve
from glide_jax.models import build
from glide_jax.parallel import chips
from glide_jax.train import run_log
from tests import fake_devices
from tests.train.small_runs import CLIP, TEXT2IM

CONFIG = defaults.Config(model=TEXT2IM, train=defaults.TrainConfig(global_batch_size=6))
LAP = dict.fromkeys(run_log.PARTS, 0.0) | {
    "input_wait": 1.0,
    "dispatch": 2.0,
    "device": 8.0,
    "checkpoint": 3.0,
    "evaluation": 5.0,
    "compile": 40.0,
    "other": 1.0,
}


@pytest.fixture
def known_chip(monkeypatch):
    """This machine's device as a chip of 2 TFLOP/s, in as many devices as asked for."""

    def know(devices: int = 1) -> None:
        kind = jax.devices()[0].device_kind
        chip = chips.Chip((kind,), 2.0, 10**9, 1e12, devices=devices)
        monkeypatch.setitem(chips.CHIPS, "this", chip)

    return know


def test_a_step_is_the_sum_of_its_parts_and_compilation_is_apart():
    row = run_log.Throughput(CONFIG).row(10, LAP, steps=4, elapsed=60.0)
    assert row["speed/step_seconds"] == 20 / 4
    assert row["speed/input_wait_seconds"] == 1 / 4
    assert row["speed/evaluation_seconds"] == 5 / 4
    assert row["speed/compile_seconds"] == 40
    without = run_log.Throughput(CONFIG).row(10, {**LAP, "compile": 0.0}, 4, 60.0)
    assert "speed/compile_seconds" not in without


def test_rates_are_of_training_without_its_pauses():
    row = run_log.Throughput(CONFIG).row(10, LAP, steps=4, elapsed=60.0)
    # 12 of the 20 seconds, 3 a step of 6 pictures.
    assert row["speed/images_per_second"] == pytest.approx(2)
    assert row["speed/images_per_second_per_chip"] == pytest.approx(2)


@pytest.mark.parametrize("model", [TEXT2IM, CLIP], ids=["text2im", "clip"])
def test_utilisation_is_three_forward_passes_over_the_time_and_the_peak(
    model, known_chip
):
    known_chip()
    seconds, images = 0.25, 8
    rates = run_log.rates(defaults.Config(model=model), images / seconds, num_chips=1.0)
    work = 3 * sum(build.forward_flops(model).values()) * images
    assert rates["mfu"] == pytest.approx(work / (seconds * 2e12))
    assert rates["tflops_per_second_per_chip"] == pytest.approx(work / seconds / 1e12)


def test_a_chip_of_two_devices_is_one_chip(known_chip):
    known_chip(devices=2)
    assert run_log.count_chips() == jax.device_count() / 2


def test_a_device_of_unknown_peak_has_a_rate_but_no_utilisation():
    rates = run_log.rates(defaults.Config(model=TEXT2IM), 10.0, num_chips=1.0)
    assert rates["tflops_per_second_per_chip"] > 0
    assert "mfu" not in rates


def test_hours_and_examples_are_those_of_all_starts():
    row = run_log.Throughput(CONFIG, device_hours=2.0).row(
        10, LAP, steps=4, elapsed=1800.0
    )
    assert row["speed/device_hours"] == pytest.approx(2.5)
    assert row["speed/examples_seen"] == 60


def test_a_line_has_the_utilisation_where_it_is_known():
    row = {
        "speed/training_seconds": 0.51234,
        "speed/images_per_second_per_chip": 31.234,
        "speed/tflops_per_second_per_chip": 12.345,
        "loss": 0.042111,
    }
    rates = "step 100: 0.512 s, 31.2 images/s/chip, 12.3 TFLOP/s/chip"
    assert run_log.line(100, row) == f"{rates}, loss 0.04211"
    row["speed/mfu"] = 0.4123
    assert run_log.line(100, row) == f"{rates}, MFU 41.2%, loss 0.04211"


def test_a_run_bound_by_its_input_is_warned_of():
    fast = {"speed/input_wait_seconds": 0.1, "speed/training_seconds": 0.5}
    assert run_log.input_warning(CONFIG, fast) == ""
    slow = fast | {"speed/input_wait_seconds": 0.4}
    warning = run_log.input_warning(CONFIG, slow)
    assert "data.num_threads" in warning
    assert "--config.data.cache_dir=FOLDER" in warning
    cached = resolve.override(CONFIG, {"data.cache_dir": "cache"})
    assert "cache_dir" not in run_log.input_warning(cached, slow)
    assert run_log.input_warning(CONFIG, slow | {"speed/compile_seconds": 9.0}) == ""


def test_seconds_and_images_of_a_line_are_of_one_clock():
    row = run_log.Throughput(CONFIG).row(10, LAP, steps=4, elapsed=1800.0)
    images = CONFIG.train.global_batch_size / row["speed/training_seconds"]
    assert images == pytest.approx(row["speed/images_per_second"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_high_water_mark_is_not_below_what_is_held():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    held = pages * os.sysconf("SC_PAGE_SIZE")
    # The kernel counts pages in batches per thread: 1% is far more than these differ.
    assert run_log.memory()["memory/host_peak_bytes"] > 0.99 * held


def test_one_host_has_no_skew():
    assert run_log.host_skew(LAP) == {}


def test_of_two_hosts_the_one_that_waits_for_its_data_is_named():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    script = textwrap.dedent("""
        import sys
        import jax
        process = int(sys.argv[2])
        jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=process)
        from glide_jax.train import run_log
        # In time for the device both have the same sum.
        parts = {"input_wait": 1.0 + process, "device": 2.0 - process, "other": 0.5}
        print(run_log.host_skew({**parts, "checkpoint": 9.0, "evaluation": 0.0}))
    """)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "NPROC": "8"}
    environment["PYTHONPATH"] = str(fake_devices.ROOT)
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", script, address, str(process)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    for host in hosts:
        told = host.communicate(timeout=120)[0].splitlines()[-1]
        assert host.returncode == 0
        assert ast.literal_eval(told) == {
            "slowest_host_seconds": 2.5,
            "fastest_host_seconds": 1.5,
            "slowest_host": 1,
        }
