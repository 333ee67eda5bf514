"""The operations of an instruction: convolutions, matrix products and attention.

A multiply-accumulate counts as two, and a product with padding is not counted. Norms,
activations and sums are not counted: they are bound by memory.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from glide_jax.plan import hlo

# Products of two matrices per attention: logits and their application; the gradient
# recomputes the logits. Splash has one kernel for the queries' gradient, and one for
# that of keys and values.
_CUDNN_ATTENTION = {"__cudnn$fmhaSoftmax": 2, "__cudnn$fmhaSoftmaxBackward": 5}
_SPLASH_ATTENTION = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}

Instructions = Mapping[str, hlo.Instruction]


@dataclasses.dataclass(frozen=True)
class Product:
    """Products of matrices in an instruction.

    Attributes:
      kind: "convolution", "matrix product" or "attention".
      flops: operations; a multiply-accumulate counts as two.
      precision: "bf16", "f32" or "f32 highest"; other narrow types count as bf16.
    """

    kind: str
    flops: float
    precision: str


def products(program: hlo.Program, instruction: hlo.Instruction) -> Iterator[Product]:
    """Yields the products in an instruction and in the computations that it calls."""
    for name, one in within(program, instruction):
        scope = program.computations[name]
        if one.opcode == "convolution":
            yield Product("convolution", _convolution_flops(one, scope), "bf16")
        elif one.opcode == "dot":
            yield Product(
                "matrix product", _dot_flops(one, scope), _precision(one, scope)
            )
        elif one.opcode == "custom-call":
            yield from _custom(one, scope)


def within(
    program: hlo.Program, instruction: hlo.Instruction, scope: str = ""
) -> Iterator[tuple[str, hlo.Instruction]]:
    """Yields an instruction and those inside it, each with its computation's name."""
    yield scope or program.scope_of(instruction), instruction
    if instruction.opcode in ("fusion", "async-start"):
        for name in instruction.called:
            for inner in program.computations[name].values():
                yield from within(program, inner, name)


def _operand(
    instruction: hlo.Instruction, number: int, scope: Instructions
) -> hlo.Shape:
    return scope[instruction.operands[number]].shapes[0]


def _precision(instruction: hlo.Instruction, scope: Instructions) -> str:
    if _operand(instruction, 0, scope).dtype != "f32":
        return "bf16"
    config = instruction.backend.get("gemm_backend_config", {})
    operands = config.get("precision_config", {}).get("operand_precision", [])
    is_highest = "HIGHEST" in operands or "highest" in instruction.text
    return "f32 highest" if is_highest else "f32"


def _custom(one: hlo.Instruction, scope: Instructions) -> Iterator[Product]:
    target = one.attribute("custom_call_target")
    if target.startswith("__cudnn$conv"):
        yield Product(
            "convolution", _cudnn_flops(one, target, scope), _precision(one, scope)
        )
    elif target.startswith("__cublas$"):
        config = one.backend.get("gemm_backend_config", {})
        numbers = config.get("dot_dimension_numbers", {})
        contracting = [int(n) for n in numbers.get("lhs_contracting_dimensions", [])]
        flops = _contracted(one, contracting, scope)
        yield Product("matrix product", flops, _precision(one, scope))
    elif products := _CUDNN_ATTENTION.get(target):
        batch, queries, heads, channels = _operand(one, 0, scope).dims
        keys = _operand(one, 1, scope).dims[1]
        flops = 2.0 * products * batch * heads * queries * keys * channels
        yield Product("attention", flops, "bf16")
    elif target == "tpu_custom_call":
        yield from _splash(one, scope)


def _splash(one: hlo.Instruction, scope: Instructions) -> Iterator[Product]:
    named = [n for name, n in _SPLASH_ATTENTION.items() if name in one.attributes]
    ranks = [scope[name].shapes[0].dims for name in one.operands]
    arrays = [dims for dims in ranks if len(dims) >= 3][:2]
    if not named or len(arrays) < 2:
        return
    (*images, queries, channels), keys = arrays[0], arrays[1][-2]
    flops = 2.0 * named[0] * math.prod(images) * queries * keys * channels
    yield Product("attention", flops, "bf16")


def _dot_flops(one: hlo.Instruction, scope: Instructions) -> float:
    contracting = one.attribute("lhs_contracting_dims")
    return _contracted(one, [int(n) for n in contracting.split(",") if n], scope)


def _contracted(
    one: hlo.Instruction, contracting: list[int], scope: Instructions
) -> float:
    left = _operand(one, 0, scope).dims
    return 2.0 * one.shapes[0].elements * math.prod(left[n] for n in contracting)


def _cudnn_flops(one: hlo.Instruction, target: str, scope: Instructions) -> float:
    """Operations of a cuDNN convolution: the same in all three directions.

    The dimension labels are those of the forward convolution.
    """
    _, kernel_labels, output_labels = re.split("_|->", one.attribute("dim_labels"))
    if target == "__cudnn$convBackwardInput":
        kernel, outputs = _operand(one, 1, scope), _operand(one, 0, scope)
    elif target == "__cudnn$convBackwardFilter":
        kernel, outputs = one.shapes[0], _operand(one, 1, scope)
    else:
        kernel, outputs = _operand(one, 1, scope), one.shapes[0]
    features = kernel.dims[kernel_labels.index("o")]
    assert outputs.dims[output_labels.index("f")] == features
    return 2.0 * kernel.elements * outputs.elements / features


def _convolution_flops(one: hlo.Instruction, scope: Instructions) -> float:
    """Operations of XLA's own convolution; products with padding are not counted."""
    left_labels, kernel_labels, output_labels = re.split(
        "_|->", one.attribute("dim_labels")
    )
    left, kernel = _operand(one, 0, scope), _operand(one, 1, scope)
    window = _window(one.attribute("window"))
    flops = 2.0 * kernel.dims[kernel_labels.index("i")]
    for label, size in zip(output_labels, one.shapes[0].dims, strict=True):
        if not label.isdigit():
            flops *= size
            continue
        n = int(label)
        flops *= _positions(
            size,
            left.dims[left_labels.index(label)],
            kernel.dims[kernel_labels.index(label)],
            stride=window["stride"].get(n, (1,))[0],
            low=window["pad"].get(n, (0, 0))[0],
            left_dilation=window["lhs_dilate"].get(n, (1,))[0],
            kernel_dilation=window["rhs_dilate"].get(n, (1,))[0],
        )
    return flops


def _window(text: str) -> dict[str, dict[int, tuple[int, ...]]]:
    """Parses size=3x3 pad=1_1x1_1 into numbers by dimension."""
    found: dict[str, dict[int, tuple[int, ...]]] = {
        name: {} for name in ("stride", "pad", "lhs_dilate", "rhs_dilate")
    }
    for part in text.split():
        name, _, values = part.partition("=")
        found[name] = {
            n: tuple(int(number) for number in value.split("_"))
            for n, value in enumerate(values.split("x"))
        }
    return found


@functools.lru_cache(maxsize=1024)
def _positions(
    outputs: int,
    inputs: int,
    kernel: int,
    *,
    stride: int,
    low: int,
    left_dilation: int,
    kernel_dilation: int,
) -> int:
    """Counts pairs of an output and a kernel position that meet an input."""
    starts = np.arange(outputs)[:, None] * stride - low
    places = starts + np.arange(kernel)[None, :] * kernel_dilation
    inside = (places >= 0) & (places <= (inputs - 1) * left_dilation)
    return int(np.sum(inside & (places % left_dilation == 0)))
