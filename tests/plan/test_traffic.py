"""Collectives of a step compared with hand calculations."""

from __future__ import annotations

import math

import jax
import pytest

from glide_jax import presets
from glide_jax.plan import device_topology, traffic
from tests.plan import plans


def by_name(given) -> dict:
    rows = traffic.collectives(given.config, given.state.params, given.spans)
    return {(row.what, row.operation): row for row in rows}


def counts(given) -> tuple[int, int]:
    """Numbers in the parameters that fsdp cuts, and in the others."""
    cut = whole = 0
    for leaf in jax.tree.leaves(given.state.params):
        if "fsdp" in leaf.sharding.spec:
            cut += math.prod(leaf.shape)
        else:
            whole += math.prod(leaf.shape)
    return cut, whole


def test_one_device_has_no_collectives():
    given = plans.small("v5e:1x1", mesh={"fsdp": 1})
    assert by_name(given) == {}


def test_parameters_are_gathered_twice_and_gradients_scattered_and_summed():
    given = plans.small()  # data 2, fsdp 4
    cut, whole = counts(given)
    assert cut > whole > 0
    rows = by_name(given)
    # The tiny model computes in float32: 4 bytes each way.
    gathered = 4 * cut * 3 / 4
    assert rows["parameters, forward", "all-gather"].fast_bytes == gathered
    assert rows["parameters, backward", "all-gather"].fast_bytes == gathered
    assert rows["gradients", "reduce-scatter"].fast_bytes == gathered
    assert rows["gradients", "all-reduce"].fast_bytes == 2 * 4 * cut / 4 / 2
    uncut = rows["gradients of unsharded tensors", "all-reduce"]
    assert uncut.fast_bytes == 2 * 4 * whole * 7 / 8
    assert all(row.slow_bytes == 0 for row in rows.values())


@pytest.mark.parametrize(
    ("steps", "loss", "passes"),
    # Two networks are gathered, and a teacher of the size of one.
    [(0, "halve", 1), (4, "halve", 2), (4, "match_moments", 1 / 2)],
)
def test_a_students_step_gathers_its_teacher_in_every_pass(steps, loss, passes):
    given = plans.small(
        model={"guidance_range": (1.0, 5.0)},
        diffusion={"prediction": "x_and_eps"},
        train={
            "teacher": "runs/t",
            "student_steps": steps,
            "student_loss": loss,
            "loss_type": "truncated_snr",
        },
        sample={
            "sampler": "ddim",
            "respacing": f"grid{steps}" if steps else "50",
            "eta": float(loss == "match_moments"),
        },
    )
    rows = by_name(given)
    once = rows["parameters, forward", "all-gather"].fast_bytes
    found = rows["teacher's parameters", "all-gather"].fast_bytes
    assert found == passes * once > 0


def test_over_slices_only_sums_of_gradients_cross_the_slow_network():
    given = plans.small("v5p:2x2x2", 2)  # data 2 in each of 2 slices, fsdp 4
    cut, _ = counts(given)
    rows = by_name(given)
    crossing = {what for what, row in rows.items() if row.slow_bytes}
    assert crossing == {
        ("gradients", "all-reduce"),
        ("gradients of unsharded tensors", "all-reduce"),
    }
    # A device's shard is halved by the fast part before the slow part sums it.
    shard = 4 * cut / 4
    assert rows["gradients", "all-reduce"].slow_bytes == 2 * shard / 2 / 2


def test_each_microbatch_repeats_the_collectives():
    once, fourfold = (by_name(plans.small(train={"microbatches": n})) for n in (1, 4))
    assert once.keys() == fourfold.keys()
    for what, row in once.items():
        assert fourfold[what].fast_bytes == 4 * row.fast_bytes


def test_tensor_parallelism_sums_activations_and_cuts_parameters():
    # Its attentions have 2, 4 and, in the text, 4 heads.
    model = {"channel_mult": (1, 2, 4)}
    given = plans.small(model=model, mesh={"fsdp": 2, "tensor": 2})
    rows = by_name(given)
    summed = rows["activations", "all-reduce"]
    # Two for the one text layer and one for each of 7 attentions, and all of it back.
    attentions = 7
    assert summed.tensors == 2 * (2 + attentions)
    assert summed.fast_bytes > 0


def test_a_clip_gathers_the_features_of_the_whole_batch():
    given = plans.released(
        presets.noised_clip("tiny"), "v5p:2x2x2", global_batch_size=64
    )
    (row,) = (r for w, r in by_name(given).items() if w[1] == "all-gather")
    assert row.fast_bytes == 2 * 64 * 32 * 4 * 7 / 8


def test_seconds_are_bytes_by_the_published_bandwidth():
    row = traffic.Collective("x", "all-gather", "fsdp", 1, 200e9, 6.25e9)
    where = device_topology.parse("v5p:4x4x8", None, None)
    # v5p: 1,200 GB/s both ways over three dimensions; 50 Gbit/s.
    assert traffic.seconds([row], where) == pytest.approx({"ICI": 1.0, "DCN": 1.0})
