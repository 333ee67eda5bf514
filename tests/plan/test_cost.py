"""Operations, time and price by formula."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from glide_jax import presets
from glide_jax.config import defaults
from glide_jax.models import inception
from glide_jax.plan import cost, device_topology

WHERE = device_topology.parse("v5p:4x4x8", None, None)


def paper() -> defaults.Config:
    train = defaults.TrainConfig(num_steps=2_500_000, global_batch_size=2048)
    return defaults.Config(model=presets.base("paper"), train=train)


def test_the_cost_of_the_base_phase_follows_the_formula():
    found = cost.estimate(paper(), WHERE, network_seconds={}, mfu=0.5, price=2.0)
    per_step = 3 * 2048 * 1858.2e9
    seconds = per_step / (128 * 459e12 * 0.5)
    # The forward pass is known to a tenth of a GFLOP of 1858.
    assert found.flops_per_step == pytest.approx(per_step, rel=1e-3)
    assert found.seconds_per_step == pytest.approx(seconds, rel=1e-3)
    assert found.days == pytest.approx(2.5e6 * seconds / 86400, rel=1e-3)
    assert found.chip_hours == pytest.approx(24 * 128 * found.days)
    assert found.price == pytest.approx(2 * found.chip_hours)
    assert found.limited_by == "compute"


def test_a_network_counts_only_where_it_takes_longer():
    quick = cost.estimate(paper(), WHERE, network_seconds={"ICI": 1e-3})
    slow = cost.estimate(paper(), WHERE, network_seconds={"ICI": 1e-3, "DCN": 9.0})
    assert quick.limited_by == "compute"
    assert (slow.limited_by, slow.seconds_per_step) == ("DCN", 9.0)


def test_twice_the_chips_take_half_the_time_and_as_many_chip_hours():
    double = dataclasses.replace(WHERE, num_slices=2)
    one, two = (
        cost.estimate(paper(), where, network_seconds={}) for where in (WHERE, double)
    )
    assert two.days == pytest.approx(one.days / 2)
    assert two.chip_hours == pytest.approx(one.chip_hours)
    assert one.price is None


@pytest.mark.parametrize(
    ("model", "section", "drop", "tflop"),
    [
        # 2 x 250 passes of 1509.8 GFLOP, and the caption of 312.5 and 36.0 once.
        (presets.base("paper"), {"respacing": "250"}, 0.2, 755.2),
        (presets.base("paper"), {"respacing": "250"}, 0.0, 377.8),
        # 27 of 5032.8, and 63.5.
        (presets.upsampler("paper"), {"respacing": "fast27"}, 0.0, 135.9),
    ],
)
def test_sampling_encodes_captions_once_and_runs_the_unet_each_step(
    model, section, drop, tflop
):
    config = defaults.Config(
        model=model,
        train=defaults.TrainConfig(caption_drop_prob=drop),
        sample=defaults.SampleConfig(**section),
    )
    found = cost.estimate_drawing(config, WHERE, 30_000, mfu=0.5, price=2.0)
    # The parts are given to a tenth of a TFLOP.
    assert found.flops_per_picture / 1e12 == pytest.approx(tflop, abs=0.1)
    seconds = 30_000 * found.flops_per_picture / (128 * 459e12 * 0.5)
    assert found.hours == pytest.approx(seconds / 3600)
    assert found.chip_hours == pytest.approx(128 * found.hours)
    assert found.price == pytest.approx(2 * found.chip_hours)
    assert (found.hosts, found.pictures_per_host) == (32, 938)
    # 30,000 passes on the chips, and 14 x 30,000^2 x 2,048 operations on one host.
    judged = 30_000 * 11e9 / (128 * 459e12 * 0.5) + 25.8e12 / 1e11
    assert found.judging.hours == pytest.approx(judged / 3600, rel=1e-3)
    assert found.judging.price == pytest.approx(2 * 128 * found.judging.hours)


def test_the_judges_operations_are_those_of_its_program():
    images = jax.ShapeDtypeStruct((1, inception.PX, inception.PX, 3), "float32")
    program = jax.jit(inception.apply).lower(inception.abstract_params(), images)
    counted = program.cost_analysis()["flops"]
    assert counted == pytest.approx(cost.JUDGE_FLOPS, rel=0.01)


def test_sampling_with_a_clip_has_no_cost():
    config = defaults.Config(model=defaults.NoisedClipConfig())
    assert cost.estimate_drawing(config, WHERE, 8) is None
