"""The mesh is no part of the result: every layout trains as one device does."""

from __future__ import annotations

import pytest

from tests import fake_devices

SCRIPT = """
    import jax
    import numpy as np
    jax.config.update("jax_disable_most_optimizations", True)
    from glide_jax.config import defaults
    from glide_jax.parallel import mesh as meshes
    from glide_jax.parallel import sharding
    from glide_jax.train import objectives, optimizer, randomness, step
    from glide_jax.train import state as states
    from tests.train.small_runs import CLIP, TEXT2IM, make_batch

    IS_CLIP, SIZES = {is_clip}, {sizes}
    config = defaults.Config(
        model=CLIP if IS_CLIP else TEXT2IM,
        optim=defaults.OptimConfig(learning_rate=1e-3),
        train=defaults.TrainConfig(caption_drop_prob=0.0 if IS_CLIP else 0.2),
    )
    optim = optimizer.make_optimizer(config.optim)

    def losses_on(mesh):
        objective = objectives.make_objective(
            config, 0, constrain=sharding.make_constrain(mesh)
        )

        def fresh(key):
            return states.make_state(config, objective.init(key), optim)

        key = randomness.stream_key(0, "init")
        where = sharding.shard_tree(
            jax.eval_shape(fresh, key), mesh, min_shard_mb=0
        )
        state = jax.jit(fresh, out_shardings=where)(key)
        if mesh.shape["fsdp"] > 1:
            large = max(jax.tree.leaves(state.params), key=lambda leaf: leaf.size)
            assert not large.sharding.is_fully_replicated
        train_step = step.jit_train_step(
            step.make_train_step(config, objective), mesh, where
        )
        losses = []
        for k in range(3):
            batch = sharding.to_global(make_batch(8, seed=k), mesh)
            state, metrics = train_step(state, batch)
            jax.block_until_ready(state)
            losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
        assert int(state.updates) == 3
        return losses

    one = meshes.make_mesh(defaults.MeshConfig(), jax.devices()[:1])
    expected = losses_on(one)
    assert expected[0] != expected[2], "nothing was learnt"
    for data, fsdp in SIZES:
        mesh = meshes.make_mesh(defaults.MeshConfig(data=data, fsdp=fsdp))
        # Sums in another order, three float32 steps.
        np.testing.assert_allclose(losses_on(mesh), expected, rtol=1e-5)
"""


@pytest.mark.parametrize("is_clip", [False, True], ids=["text2im", "noised_clip"])
@pytest.mark.parametrize(
    "sizes",
    [[(2, 4)], pytest.param([(8, 1), (1, 8)], marks=pytest.mark.slow)],
    ids=["data2_fsdp4", "data8_and_fsdp8"],
)
def test_eight_devices_lose_what_one_device_loses(is_clip, sizes):
    script = SCRIPT.format(is_clip=is_clip, sizes=sizes)
    fake_devices.run_with_devices(script, timeout_secs=300)
