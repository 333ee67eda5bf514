"""Bytes of a device: the state exactly, the rest by laws that its formula must keep."""

from __future__ import annotations

import math

import jax
import pytest

from glide_jax import presets
from glide_jax.plan import activations, memory
from tests.plan import plans


def estimate(given) -> memory.DeviceBytes:
    state = memory.measure_state(given.state)
    return memory.estimate(given.config, state, given.batch, given.examples)


def test_the_state_of_a_device_is_its_parts_of_all_tensors():
    given = plans.small()  # fsdp 4, every tensor that divides is cut
    params = sum(
        4 * math.prod(leaf.shape) // (4 if "fsdp" in leaf.sharding.spec else 1)
        for leaf in jax.tree.leaves(given.state.params)
    )
    found = estimate(given)
    assert found.params == found.grads == params
    assert found.ema == params  # one average
    assert found.moments == 2 * params + 4  # and Adam's counter


def test_a_checkpoint_holds_all_of_the_state():
    given = plans.small(ema={"decays": (0.9, 0.99)})
    numbers = sum(given.params_by_part.values())
    state = memory.measure_state(given.state)
    # Parameters, two moments, two averages; three counters and Adam's.
    assert state.total == 4 * (5 * numbers + 4)


def test_what_the_host_holds_leaves_the_device():
    here = plans.small()
    there = plans.small(optim={"moments_on_host": True}, ema={"on_host": True})
    kept, moved = estimate(here), estimate(there)
    assert moved.moments == 4  # the counter stays
    assert moved.ema == 0
    assert moved.params == kept.params
    host = memory.estimate_host(
        there.config, memory.measure_state(there.state), there.batch, there.topology, 1
    )
    per_host = there.topology.devices_per_host
    assert host.state == per_host * (kept.moments - 4 + kept.ema)


def test_bfloat16_moments_take_half_of_the_first_moment():
    full, half = (
        estimate(plans.small(optim={"moments_dtype": dtype})).moments
        for dtype in ("float32", "bfloat16")
    )
    assert half - 4 == (full - 4) * 3 / 4


@pytest.mark.parametrize("model", [presets.base("paper"), presets.upsampler("paper")])
def test_a_stronger_policy_keeps_less(model):
    given = plans.released(model, "v5p:4x4x4", global_batch_size=256)
    kept = [
        activations.estimate(given.with_train(remat=(policy,)).config, 4).kept
        for policy in ("none", "dots", "blocks", "full", "offload")
    ]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == len(kept)


def test_policies_by_level_lie_between_those_of_all_levels():
    given = plans.released(presets.base("paper"), "v5p:4x4x4", global_batch_size=256)

    def kept(*remat):
        return activations.estimate(given.with_train(remat=remat).config, 4).kept

    mixed = kept("blocks", "blocks", "none", "none")
    assert kept("blocks") < mixed < kept("none")
    # The finest levels weigh most.
    assert mixed < kept("none", "none", "blocks", "blocks")


def test_offloaded_inputs_are_the_hosts():
    given = plans.released(presets.base("paper"), "v5p:4x4x4", global_batch_size=256)
    blocks = activations.estimate(given.with_train(remat=("blocks",)).config, 4)
    moved = activations.estimate(given.with_train(remat=("offload",)).config, 4)
    assert blocks.on_host == 0
    assert moved.on_host + moved.kept == pytest.approx(blocks.kept)


def test_activations_grow_with_the_examples_of_a_microbatch():
    config = plans.small_config()
    one, three = (activations.estimate(config, n) for n in (1, 3))
    assert (three.kept, three.work) == (3 * one.kept, 3 * one.work)
    whole, parts = (plans.small(train={"microbatches": n}) for n in (1, 4))
    assert parts.examples == whole.examples / 4
    assert estimate(parts).activations == estimate(whole).activations / 4
