"""Sharding by size, and equal results on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np

from glide_jax.config import defaults
from glide_jax.parallel import device_mesh, sharding
from tests import fake_devices


def test_on_one_device_nothing_is_sharded():
    made = device_mesh.make_mesh(defaults.MeshConfig())
    tree = {"kernel": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
    lies = sharding.shard_tree(tree, made, min_shard_mb=0)
    assert lies["kernel"].is_fully_replicated
    x = jnp.ones((3, 2))
    assert sharding.make_constrain(made)(x) is x


def test_a_batch_becomes_global_arrays_with_its_values():
    made = device_mesh.make_mesh(defaults.MeshConfig())
    batch = {"x": np.arange(6.0).reshape(2, 3)}
    result = sharding.to_global(batch, made)
    assert isinstance(result["x"], jax.Array)
    np.testing.assert_array_equal(result["x"], batch["x"])


def test_fsdp_shards_the_largest_dimension_that_divides():
    fake_devices.run_with_devices("""
        import logging, sys
        logging.basicConfig(stream=sys.stdout, level=logging.INFO)
        import jax, jax.numpy as jnp
        from jax.sharding import PartitionSpec as P
        from glide_jax.config import defaults
        from glide_jax.parallel import device_mesh, sharding

        made = device_mesh.make_mesh(defaults.MeshConfig(data=2, fsdp=4))
        struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
        tree = {
            "kernel": struct(3, 3, 256, 512), "tie": struct(512, 512),
            "odd": struct(50257, 7, 3), "table": struct(50257, 512),
            "bias": struct(512), "count": struct(),
        }
        lies = sharding.shard_tree(tree, made, min_shard_mb=1)
        specs = {name: value.spec for name, value in lies.items()}
        assert specs["kernel"] == P(None, None, None, "fsdp"), specs
        assert specs["tie"] == P(None, "fsdp"), specs
        assert specs["table"] == P(None, "fsdp"), specs
        for name in ("odd", "bias", "count"):
            assert specs[name] == P(), (name, specs)
        # The optimizer's moments of a tensor lie as the tensor does.
        nested = sharding.shard_tree({"mu": tree}, made, min_shard_mb=1)
        assert nested["mu"] == lies
    """)


def test_large_unsharded_tensors_are_logged():
    script = """
        import logging, sys
        logging.basicConfig(stream=sys.stdout, level=logging.INFO)
        import jax, jax.numpy as jnp
        from glide_jax.config import defaults
        from glide_jax.parallel import device_mesh, sharding
        made = device_mesh.make_mesh(defaults.MeshConfig(fsdp=2))
        tree = {"a": {"odd": jax.ShapeDtypeStruct((50257, 7), jnp.float32)}}
        sharding.shard_tree(tree, made, min_shard_mb=1)
    """
    logged = fake_devices.run_with_devices(script, devices=2)
    assert "a/odd (50257, 7) 1.3 MiB" in logged
    assert "mesh.fsdp=2" in logged


def test_training_steps_are_the_same_on_every_mesh():
    # Float32 sums in another order: 2e-6 of losses around 1 after four steps.
    out = fake_devices.run_with_devices("""
        import jax, jax.numpy as jnp, numpy as np, optax
        from glide_jax.config import defaults
        from glide_jax.parallel import device_mesh, sharding

        rng = np.random.RandomState(0)
        batch = {
            "x": rng.randn(16, 8, 8, 3).astype("float32"),
            "y": rng.randn(16, 8, 8, 3).astype("float32"),
        }
        optimizer = optax.adamw(1e-2)

        def init():
            wave = jnp.sin(7.0 * jnp.arange(864)) / 5  # compiles faster than random
            params = {"a": wave.reshape(3, 3, 3, 32), "b": wave.reshape(3, 3, 32, 3)}
            return {"params": params, "opt": optimizer.init(params)}

        def losses(**sizes):
            made = device_mesh.make_mesh(defaults.MeshConfig(**sizes))
            constrain = sharding.make_constrain(made)
            lies = sharding.shard_tree(jax.eval_shape(init), made, min_shard_mb=0)
            state = jax.jit(init, out_shardings=lies)()
            if sizes.get("fsdp", 1) > 1:
                assert not state["params"]["a"].sharding.is_fully_replicated

            def conv(x, w):
                return jax.lax.conv_general_dilated(
                    x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

            def loss_fn(params, batch):
                h = constrain(jax.nn.silu(conv(batch["x"], params["a"])))
                return jnp.mean((conv(h, params["b"]) - batch["y"]) ** 2)

            def step(state, batch):
                loss, grads = jax.value_and_grad(loss_fn)(state["params"], batch)
                updates, opt = optimizer.update(grads, state["opt"], state["params"])
                params = optax.apply_updates(state["params"], updates)
                return {"params": params, "opt": opt}, loss

            whole = sharding.replicated(made)
            jitted = jax.jit(
                step,
                in_shardings=(lies, sharding.batch_sharding(made)),
                out_shardings=(lies, whole),
                donate_argnums=0,
            )
            result = []
            for _ in range(4):
                state, loss = jitted(state, sharding.to_global(batch, made))
                result.append(float(loss))  # blocks
            return result

        wide = losses(data=8)
        cut = losses(data=2, fsdp=2, tensor=2)
        np.testing.assert_allclose(cut, wide, rtol=0, atol=2e-6)
        every = device_mesh.make_mesh(defaults.MeshConfig())
        constrain = sharding.make_constrain(every)
        one = jnp.ones((1, 4))
        assert constrain(one) is one  # one image on eight devices
        print(wide[0] > wide[-1])
    """)
    assert out.split() == ["True"]
