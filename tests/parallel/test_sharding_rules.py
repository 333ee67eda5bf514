"""Sharding rules: order of precedence, matching, and errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from glide_jax import presets
from glide_jax.config import choices, defaults
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.parallel import device_mesh, sharding, sharding_rules
from glide_jax.train import optimizer


def mesh(data=1, fsdp=1, tensor=1):
    types = (AxisType.Auto,) * 3
    return AbstractMesh((data, fsdp, tensor), device_mesh.AXES, axis_types=types)


def specs(tree, mesh, given=(), family="text2im", min_shard_mb=0.0, params=None):
    lies = sharding.shard_tree(
        tree,
        mesh,
        rules=make_rules(family, given),
        params=params,
        min_shard_mb=min_shard_mb,
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): place.spec
        for path, place in jax.tree_util.tree_leaves_with_path(lies)
    }


def make_rules(family, given):
    return sharding_rules.make_rules(build.FAMILIES[family].sharding_rules, given)


def struct(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_tensor_axis_shards_heads_and_hidden_units():
    params = build.abstract_params(presets.base("released"))
    found = specs(params, mesh(tensor=2), min_shard_mb=1.0)
    layers = "text/layers"
    assert found[f"{layers}/attn_qkv/kernel"] == P(None, None, "tensor")
    assert found[f"{layers}/attn_qkv/bias"] == P(None, "tensor")
    assert found[f"{layers}/attn_proj/kernel"] == P(None, "tensor")
    assert found[f"{layers}/attn_proj/bias"] == P()  # added once, after the sum
    assert found[f"{layers}/mlp_in/kernel"] == P(None, None, "tensor")
    assert found[f"{layers}/mlp_out/kernel"] == P(None, "tensor")
    middle = "unet/middle/attention"
    assert found[f"{middle}/qkv/kernel"] == P(None, "tensor")
    assert found[f"{middle}/encoder_kv/kernel"] == P(None, "tensor")
    assert found[f"{middle}/proj_out/kernel"] == P("tensor")
    assert found["unet/stem/kernel"] == P()
    clip = build.abstract_params(presets.noised_clip("released"))
    found = specs(clip, mesh(tensor=2), family="noised_clip")
    for tower in ("image", "text"):
        for name in ("query", "key", "value", "mlp_in"):
            assert found[f"{tower}/layers/{name}/kernel"] == P(None, None, "tensor")


def test_fsdp_shards_the_largest_remaining_dimension():
    tree = {"layers": {"mlp_in": {"kernel": struct(24, 2048, 8192)}}}
    found = specs(tree, mesh(fsdp=8, tensor=2))
    assert list(found.values()) == [P(None, "fsdp", "tensor")]


def test_moments_are_sharded_like_their_parameter():
    kernel = struct(24, 2048, 8192)
    tree = {
        "params": {"layers": {"mlp_in": {"kernel": kernel}}},
        "mu": {
            "layers": {"mlp_in": {"kernel": struct(24, 2048, 8192, dtype="bfloat16")}}
        },
        "v_row": {"layers": {"mlp_in": {"kernel": struct(24, 2048)}}},
        "count": struct(),
    }
    found = specs(tree, mesh(fsdp=8, tensor=2), min_shard_mb=0.1)
    same = P(None, "fsdp", "tensor")
    assert found["params/layers/mlp_in/kernel"] == same
    assert found["mu/layers/mlp_in/kernel"] == same
    assert found["v_row/layers/mlp_in/kernel"] == P(None, "fsdp")
    assert found["count"] == P()


@pytest.mark.parametrize("name", choices.OPTIMIZERS)
@pytest.mark.parametrize("preset", [presets.base, presets.upsampler])
def test_the_state_of_every_optimizer_is_sharded(preset, name):
    params = build.abstract_params(preset("released"))
    optim = optimizer.make_optimizer(defaults.OptimConfig(name=name))
    tree = {"params": params, "opt_state": jax.eval_shape(optim.init, params)}
    found = specs(tree, mesh(2, 2, 2), ["stem/bias=whole"], params=params)
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    kernel = "text/layers/mlp_in/kernel"
    assert found[f"params/{kernel}"] == P(None, "fsdp", "tensor")
    moments = 0
    for path, spec in found.items():
        for parameter in [p for p in shapes if p.startswith("params/")]:
            end = parameter.removeprefix("params")
            if path.startswith("opt_state/") and path.endswith(end):
                moments += 1
                if shapes[path] == shapes[parameter]:
                    assert spec == found[parameter], path
                else:  # Adafactor's placeholders and factored moments
                    assert "tensor" not in spec, path
    assert moments >= len(jax.tree.leaves(params))


def test_the_suggested_rule_matches_the_parameter():
    params = {"attention": {"qkv": {"bias": struct(3)}}}
    state = {"params": params, "mu": params}
    with pytest.raises(UserError) as caught:
        specs(state, mesh(tensor=2), params=params)
    rule = str(caught.value).split("'")[1]
    sharding.check_rules(params, make_rules("text2im", [rule])[:1])
    assert specs(state, mesh(tensor=2), [rule], params=params)


def test_rules_of_the_run_take_precedence():
    tree = {"table": struct(64, 512), "other": struct(512, 64), "b": struct(8)}
    given = ["table=fsdp,-", "^other$=whole"]
    found = specs(tree, mesh(fsdp=8), given, min_shard_mb=0.0)
    assert found == {"table": P("fsdp"), "other": P(), "b": P("fsdp")}
    # The first rule that speaks decides.
    found = specs(tree, mesh(fsdp=8), ["table=whole", *given])
    assert found["table"] == P()
    # A rule that names no fsdp leaves it to the automatic rule.
    found = specs(tree, mesh(fsdp=8, tensor=2), ["table=tensor,-"])
    assert found["table"] == P("tensor", "fsdp")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("mlp_in/kernel", "is not REGEX=AXES"),
        ("=fsdp", "is not REGEX=AXES"),
        ("[=fsdp", "invalid regular expression"),
        ("a=model,-", "names the axis 'model'; use data, fsdp, tensor or -"),
        ("a=fsdp,fsdp", "names an axis twice"),
    ],
)
def test_a_rule_that_cannot_be_parsed_is_an_error(rule, message):
    with pytest.raises(UserError) as caught:
        make_rules("text2im", [rule])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_uneven_dimension_is_an_error_that_names_axis_and_remedy():
    tree = {"text": {"token_embedding": struct(50257, 512)}}
    with pytest.raises(UserError) as caught:
        specs(tree, mesh(fsdp=8), ["token_embedding=fsdp,-"])
    message = str(caught.value)
    assert "text/token_embedding (50257, 512)" in message
    assert "mesh.fsdp=8" in message
    assert "'text/token_embedding=whole'" in message


def test_a_rule_that_matches_no_parameter_is_an_error():
    params = {"stem": struct(3, 3, 3, 64)}
    for text in ("steam=-,-,-,fsdp", "stem=-,fsdp"):
        table = make_rules("text2im", [text])
        with pytest.raises(UserError, match=r"mesh\.rules"):
            sharding.check_rules(params, table[:1])


@pytest.mark.parametrize(
    ("model", "tensor", "message"),
    [
        (presets.base("released"), 3, "the 8 heads of model.text_heads"),
        (presets.base("released"), 4, "the 6 heads of the attention at 32 px"),
        (presets.noised_clip("released"), 8, "the 12 heads of model.image_heads"),
    ],
)
def test_tensor_must_divide_the_number_of_heads(model, tensor, message):
    heads = build.family_of(model).attention_heads(model)
    with pytest.raises(UserError) as caught:
        sharding_rules.check_heads(heads, mesh(tensor=tensor))
    assert message in str(caught.value)
    remedy = "a divisor of 4" if "image_heads" in message else "mesh.tensor=1"
    assert str(caught.value).endswith(f"use {remedy}")
    sharding_rules.check_heads(heads, mesh(tensor=1))


def test_a_batch_divides_into_microbatches_that_divide_over_devices():
    device_mesh.check_batch(64, mesh(data=4, fsdp=2), microbatches=8)
    with pytest.raises(UserError) as caught:
        device_mesh.check_batch(96, mesh(data=4, fsdp=2), microbatches=8)
    assert str(caught.value) == (
        "train.global_batch_size=96 is not divisible by 64 (mesh data=4, fsdp=2, in 8 "
        "microbatches); use 64 or 128"
    )


def test_every_family_of_the_configuration_is_listed():
    classes = {name: family.config_class for name, family in build.FAMILIES.items()}
    assert classes == defaults.MODEL_FAMILIES
