"""The mesh is no part of the result: every layout trains as one device does."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests import fake_devices, local_processes
from tests.train import mesh_runs

MESHES = [(2, 2, 2), (8, 1, 1), (2, 4, 1), (1, 8, 1)]
SCRIPT = """
    import jax
    from tests.train import mesh_runs

    config = mesh_runs.make_config({kind!r})
    expected = mesh_runs.run(config, mesh_runs.make_mesh(1, 1, 1))
    for sizes in {meshes}:
        mesh = mesh_runs.make_mesh(*sizes)
        found = mesh_runs.run(config, mesh)
        largest = max(jax.tree.leaves(found.state.params), key=lambda x: x.size)
        is_cut = sizes[1] * sizes[2] > 1
        assert largest.sharding.is_fully_replicated != is_cut
        # Sums in another order, five float32 steps.
        mesh_runs.assert_same(found, expected, config, rtol=1e-5)
"""


# The CLIP compiles soonest. Two processes train the other U-Nets, see below.
@pytest.mark.parametrize(
    ("kind", "meshes"),
    [
        pytest.param("clip", MESHES[:1], id="clip"),
        pytest.param("clip", MESHES[1:], id="clip-all", marks=pytest.mark.slow),
        pytest.param("base", MESHES, id="base-all", marks=pytest.mark.slow),
    ],
)
def test_every_mesh_trains_as_one_device(kind, meshes):
    script = SCRIPT.format(kind=kind, meshes=meshes)
    fake_devices.run_with_devices(script, timeout_secs=900)


PROCESS_SCRIPT = """
import jax
import numpy as np
from glide_jax.parallel import distributed
from tests.train import mesh_runs

config = mesh_runs.make_config({kind!r})
with distributed.Together(config):
    assert jax.device_count() == 8 and jax.process_count() == 2
    assert not jax.config.jax_enable_compilation_cache
    for sizes in {meshes}:
        found = mesh_runs.run(config, mesh_runs.make_mesh(*sizes))
        if jax.process_index() == 0:
            name = "x".join(map(str, sizes))
            np.savez("{folder}/" + name, losses=found.losses, **found.params)
"""


def check_two_processes(kind, meshes, folder):
    """Two processes of four devices, each with its rows, against one device here."""
    script = PROCESS_SCRIPT.format(kind=kind, meshes=meshes, folder=folder)
    local_processes.run(folder / "logs", [sys.executable, "-c", script])
    config = mesh_runs.make_config(kind)
    expected = mesh_runs.run(config, mesh_runs.make_mesh(1, 1, 1))
    for sizes in meshes:
        with np.load(folder / ("x".join(map(str, sizes)) + ".npz")) as file:
            params = dict(file)
        found = mesh_runs.Outcome(params.pop("losses").tolist(), params, None, {})
        mesh_runs.assert_same(found, expected, config, rtol=1e-5)


# Each mesh compiles once more in each process. Of (8, 1, 1) both processes hold the
# whole state, of (1, 8, 1) halves.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "meshes"),
    [
        ("base", [(8, 1, 1)]),
        ("clip", [(2, 2, 2), (1, 8, 1)]),
        ("upsampler", [(2, 2, 2)]),
        ("inpainting", [(1, 8, 1)]),
    ],
)
def test_two_processes_train_as_one_device(kind, meshes, tmp_path):
    check_two_processes(kind, meshes, tmp_path)


@pytest.mark.slow
def test_remat_on_a_mesh_trains_equally():
    # tests/models/test_remat.py has the gradient of every policy.
    fake_devices.run_with_devices(
        """
        from tests.train import mesh_runs

        mesh = mesh_runs.make_mesh(2, 2, 2)
        plain = mesh_runs.make_config("base")
        alone = mesh_runs.run(plain, mesh_runs.make_mesh(1, 1, 1))
        for policy in ("blocks", "offload"):
            changes = {"train.remat": (policy,), "train.remat_text": policy}
            config = mesh_runs.make_config("base", changes)
            found = mesh_runs.run(config, mesh)
            # The same sums, that XLA may fuse differently.
            mesh_runs.assert_same(found, alone, plain, rtol=1e-5)
        """,
        timeout_secs=600,
    )


@pytest.mark.slow
def test_data_parallel_is_what_pmap_did():
    # The step as it was written before meshes: one program a device, a copy of the
    # state on each, gradients averaged over the devices by name.
    fake_devices.run_with_devices(
        """
        import jax, jax.numpy as jnp, numpy as np
        from glide_jax.runtime import random_streams
        from glide_jax.train import placement, optimizer
        from tests.train import mesh_runs

        config = mesh_runs.make_config("base")
        expected = mesh_runs.run(config, mesh_runs.make_mesh(8, 1, 1), steps=3)
        mesh = mesh_runs.make_mesh(1, 1, 1)
        objective = placement.make_objective(config, mesh, 0)
        optim = optimizer.make_optimizer(config.optim)
        described = placement.abstract_state(config, objective)
        params = mesh_runs.make_params(described.params)

        def step(params, opt_state, batch, k):
            def keys_of(stream):
                return random_streams.example_keys(
                    0, stream, k, batch["example_index"]
                )

            loss = lambda params: objective.loss(params, batch, keys_of, {})[0]
            value, grads = jax.value_and_grad(loss)(params)
            value, grads = jax.lax.pmean((value, grads), axis_name="devices")
            directions, opt_state = optim.update(grads, opt_state, params)
            params = jax.tree.map(lambda p, d: p - 1e-3 * d, params, directions)
            return params, opt_state, value

        pmapped = jax.pmap(step, axis_name="devices", in_axes=(0, 0, 0, None))
        copy = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * 8), tree)
        state = copy(params), copy(optim.init(params))
        losses = []
        for k in range(3):
            batch = mesh_runs.make_batch(config, k)
            slices = {n: x.reshape(8, 2, *x.shape[1:]) for n, x in batch.items()}
            *state, value = pmapped(*state, slices, k)
            losses.append(float(value[0]))
        params = mesh_runs.flat(jax.tree.map(lambda x: x[0], state[0]))
        found = mesh_runs.Outcome(losses, params, None, {})
        mesh_runs.assert_same(found, expected, config, rtol=1e-5)
        """,
        timeout_secs=300,
    )


@pytest.mark.slow
def test_moments_and_averages_in_host_memory_change_nothing():
    fake_devices.run_with_devices(
        """
        import jax, numpy as np
        from tests.train import mesh_runs

        mesh = mesh_runs.make_mesh(2, 4, 1)
        plain = mesh_runs.run(mesh_runs.make_config("base"), mesh, steps=3)
        changes = {"optim.moments_on_host": True, "ema.on_host": True}
        config = mesh_runs.make_config("base", changes)
        found = mesh_runs.run(config, mesh, steps=3)
        assert found.losses == plain.losses
        jax.tree.map(np.testing.assert_array_equal, found.state, plain.state)
        for tree in (found.state.opt_state, found.state.ema_params):
            kinds = {x.sharding.memory_kind for x in jax.tree.leaves(tree) if x.shape}
            assert kinds == {"pinned_host"}, kinds
        """,
        timeout_secs=300,
    )
