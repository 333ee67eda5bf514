"""Work and bounds of real programs, compiled for this CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from glide_jax.plan import hlo, machines, roofline, work
from tests import fake_devices

H100 = machines.MACHINES["h100"]


def compiled(function, *shapes):
    """The text of a function compiled for arrays of float32."""
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().as_text()


def flops(text):
    return sum(one.flops for one in work.measure(hlo.parse(text)))


def convolve(x, kernel, *, stride=1, dilation=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def test_a_loop_counts_each_of_its_turns():
    def turns(count):
        return compiled(
            lambda x, w: jax.lax.fori_loop(0, count, lambda _, y: jnp.tanh(y @ w), x),
            *((8, 16), (16, 16)),
        )

    assert flops(turns(5)) == pytest.approx(5 * 2 * 8 * 16 * 16)
    assert flops(turns(50)) == pytest.approx(50 * 2 * 8 * 16 * 16)
    assert not hlo.parse(turns(5)).unknown_loops()


def test_a_loop_counts_the_turns_that_its_caller_knows():
    shapes = (8, 16), (16, 16)
    product = 2 * 8 * 16 * 16

    def walk(x, w, stop):
        x = jnp.sin(x) @ w
        return jax.lax.fori_loop(0, stop, lambda _, y: jnp.tanh(y @ w), x)

    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    stop = jax.ShapeDtypeStruct((), jnp.int32)
    program = hlo.parse(jax.jit(walk).lower(*arguments, stop).compile().as_text())

    def found(*counts):
        part = roofline.Part(program, *counts)
        return roofline.analyse_parts([part], H100, lambda groups: False)

    assert found().flops == 2 * product
    assert len(found().unknown_loops) == 1
    # Three calls, with 25 turns of the loop in all.
    assert found(3, 25).flops == (3 + 25) * product
    assert found(3, 25).unknown_loops == []
    several = [roofline.Part(program, 3, 25), roofline.Part(program)]
    both = roofline.analyse_parts(several, H100, lambda groups: False)
    assert both.flops == (3 + 25 + 2) * product
    assert len(both.unknown_loops) == 1


def test_a_loop_of_unknown_length_is_named():
    text = compiled(
        lambda x, w: jax.lax.while_loop(
            lambda y: jnp.sum(y) < 10, lambda y: jnp.tanh(y @ w), x
        ),
        *((8, 16), (16, 16)),
    )
    assert len(hlo.parse(text).unknown_loops()) == 1
    assert flops(text) == pytest.approx(2 * 8 * 16 * 16)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("direction", ["forward", "inputs", "kernel"])
def test_a_convolution_counts_the_same_in_all_directions(direction, stride):
    """A product with padding is not counted, whatever form the compiler chooses."""
    x, kernel = (2, 6, 6, 3), (3, 3, 3, 5)

    def loss(x, kernel):
        return jnp.sum(jnp.sin(convolve(x, kernel, stride=stride)))

    # Pairs of an output and a kernel row that meet an input: the first and last rows
    # of a stride of 1 lack one, and of a stride of 2 the last does.
    rows = {1: 6 * 3 - 2, 2: 3 * 3 - 1}[stride]
    expected = 2 * 2 * rows**2 * 3 * 5
    forward = flops(compiled(lambda x, k: convolve(x, k, stride=stride), x, kernel))
    assert forward == expected
    if direction == "forward":
        return
    argument = {"inputs": 0, "kernel": 1}[direction]
    both = flops(compiled(jax.grad(loss, argnums=argument), x, kernel))
    assert both - forward == expected


def test_a_matrix_product_counts_its_contracted_dimensions():
    text = compiled(lambda a, b: jnp.einsum("bnd,bmd->bnm", a, b), (2, 3, 7), (2, 5, 7))
    assert flops(text) == 2 * 2 * 3 * 5 * 7


def test_an_update_in_place_writes_the_update_alone():
    def store(stack, rows):
        def put(i, stack):
            return jax.lax.dynamic_update_index_in_dim(stack, jnp.sin(rows[i]), i, 0)

        return jax.lax.fori_loop(0, 64, put, stack)

    text = jax.jit(store, donate_argnums=0).lower(
        *(jax.ShapeDtypeStruct((64, 256), jnp.float32) for _ in range(2))
    )
    found = work.measure(hlo.parse(text.compile().as_text()))
    # 64 rows of 256 numbers of 4 bytes; the whole stack each time would be 64 times it.
    assert sum(one.bytes_written for one in found) < 3 * 64 * 256 * 4
    assert sum(one.bytes_read for one in found) < 3 * 64 * 256 * 4


def test_the_bound_is_the_longer_of_work_and_memory():
    square = compiled(lambda a, b: a @ b, (256, 256), (256, 256))
    found = roofline.analyse(square, H100, lambda groups: False)
    assert found.flops == 2 * 256**3
    assert found.seconds >= max(found.matrix_seconds, found.memory_seconds)
    mfu = found.mfu(found.flops, H100.peak_flops)
    assert mfu["bound"] == pytest.approx(found.flops / H100.peak_flops / found.seconds)
    assert mfu["by_cycles"] is None


def test_the_line_of_this_package_that_made_an_instruction_is_named():
    from glide_jax.models import layers

    module = layers.Linear(8)
    params = module.init(jax.random.key(0), jnp.ones((4, 16)))
    text = jax.jit(module.apply).lower(params, jnp.ones((4, 16))).compile().as_text()
    sources = {one.source for one in work.measure(hlo.parse(text)) if one.flops}
    assert len(sources) == 1
    assert sources.pop().startswith("models/layers.py:")


TPU = """
import jax, jax.numpy as jnp
from glide_jax.plan import abstract_devices, device_topology, roofline

where = device_topology.parse("v5e:2x2", None, None)
abstract_devices.prepare_environment(where)
one = jax.sharding.SingleDeviceSharding(abstract_devices.make_devices(where)[0])
shape = jax.ShapeDtypeStruct((512, 512), jnp.bfloat16, sharding=one)
text = jax.jit(lambda a, b: jnp.tanh(a @ b)).lower(shape, shape).compile().as_text()
found = roofline.analyse(text, where.machine, lambda groups: False)
print(found.flops, found.cycles, found.cycles_seconds, found.matrix_seconds)
print(sum(row.cycles or 0 for row in found.kinds), found.costliest[0].cycles)

def walk(a, b):
    return jax.lax.fori_loop(3, 10, lambda i, x: jnp.tanh(x @ b) * i, a)

text = jax.jit(walk).lower(shape, shape).compile().as_text()
found = roofline.analyse(text, where.machine, lambda groups: False)
print(found.flops, len(found.unknown_loops))
"""


def test_cycles_of_the_tpu_compiler_are_added_up():
    pytest.importorskip("libtpu")
    printed = fake_devices.run_with_devices(TPU, devices=1)
    product, rows, loop = (map(float, line.split()) for line in printed.splitlines())
    flops, cycles, seconds, matrix = product
    total, product_alone = rows
    assert total == pytest.approx(cycles)
    assert 0 < product_alone <= total
    assert flops == 2 * 512**3
    # Its compiler writes no number of turns.
    assert tuple(loop) == (7 * flops, 0)
    assert seconds == pytest.approx(cycles / 1.5e9)
    # An estimate of a real program: not below the peak, and not far above it.
    assert matrix < seconds < 20 * matrix


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, x", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[4], x", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, x", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, x", ((0, 2), (1, 3))),
        ("source_target_pairs={{0,1},{1,0}}, x", ((0, 1), (1, 0))),
    ],
)
def test_groups_of_a_collective_are_read_in_each_form(text, groups):
    assert work._groups(text) == groups


def test_sizes_of_shapes_are_those_of_their_types():
    one, other = hlo.shapes("(bf16[2,3]{1,0:T(8,128)S(1)}, s4[8]{0})")
    assert (one.bytes, one.space) == (12, 1)
    assert (other.bytes, other.space) == (4, 0)
