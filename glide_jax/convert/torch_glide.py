"""What are the released PyTorch tensors called here, and how are their axes ordered?

A pure map, both ways. Six released files, one kind each; nothing here reads PyTorch:
tensors come and go as a dict from PyTorch name to numpy array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from glide_jax import shapes
from glide_jax.config.defaults import ModelConfig, NoisedClipConfig, Text2ImConfig
from glide_jax.errors import UserError
from glide_jax.models import build, layout

KINDS = (
    "base",
    "base-inpaint",
    "upsample",
    "upsample-inpaint",
    "clip-image",
    "clip-text",
)
_LISTED = 5  # names an error shows before it counts the rest


class _Axes(NamedTuple):
    """A tensor's axes there and here."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


class _Entry(NamedTuple):
    """One PyTorch tensor: its name, where it lies in our tree, its axes.

    layer: row of the leading layer axis, None where the tensor is not stacked.
    """

    name: str
    path: tuple[str, ...]
    axes: _Axes
    layer: int | None = None


_SAME = _Axes(lambda a: a, lambda a: a)
_LINEAR = _Axes(lambda a: a.T, lambda a: a.T)
_CONV = _Axes(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
# A 1x1 convolution, over positions or over pixels, is a linear map here.
_POINTWISE_1D = _Axes(lambda a: a[:, :, 0].T, lambda a: a.T[:, :, None])
_POINTWISE_2D = _Axes(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])


def _patch_axes(patch_px: int) -> _Axes:
    """A convolution of stride equal to its size, a linear map of flat patches here."""

    def to_ours(a):
        return a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0])

    def to_torch(a):
        unflat = a.reshape(patch_px, patch_px, -1, a.shape[-1])
        return unflat.transpose(3, 2, 0, 1)

    return _Axes(to_ours, to_torch)


def from_torch(
    kind: str, config: ModelConfig, tensors: Mapping[str, np.ndarray]
) -> shapes.Params:
    """Our float32 parameter tree, as numpy arrays, of a released state dict.

    Args:
      kind: one of KINDS.
      config: sizes of the model the tensors belong to; for the CLIP kinds the tree is
        one tower's, params["image"] or params["text"].
      tensors: every tensor of the file by its PyTorch name.

    Raises:
      UserError: for missing, surplus or misshapen tensors, with their names.
    """
    _check(kind, torch_shapes(kind, config), tensors)
    stacks: dict[tuple[str, ...], list[np.ndarray]] = {}
    params: dict[str, Any] = {}
    for entry in _entries(kind, config):
        ours = entry.axes.to_ours(np.asarray(tensors[entry.name], np.float32))
        if entry.layer is None:
            _put(params, entry.path, np.ascontiguousarray(ours))
        else:
            stacks.setdefault(entry.path, []).append(ours)
    for path, rows in stacks.items():
        _put(params, path, np.stack(rows))
    return params


def to_torch(
    kind: str, config: ModelConfig, params: shapes.Params
) -> dict[str, np.ndarray]:
    """The released state dict of our parameter tree; inverse of `from_torch`."""
    tensors = {}
    for entry in _entries(kind, config):
        leaf = np.asarray(_get(params, entry.path))
        leaf = leaf if entry.layer is None else leaf[entry.layer]
        tensors[entry.name] = np.ascontiguousarray(entry.axes.to_torch(leaf))
    return tensors


def torch_shapes(kind: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """PyTorch name -> shape of every tensor of a release of these sizes."""
    _check_kind(kind, config)
    params = build.abstract_params(config)
    if kind.startswith("clip-"):
        params = params[kind.removeprefix("clip-")]
    expected = {}
    for entry in _entries(kind, config):
        shape = _get(params, entry.path).shape
        shape = shape if entry.layer is None else shape[1:]
        # A broadcast zero takes the map's shape changes without taking memory.
        expected[entry.name] = entry.axes.to_torch(np.broadcast_to(0.0, shape)).shape
    return expected


def _entries(kind: str, config: ModelConfig) -> Iterator[_Entry]:
    _check_kind(kind, config)
    if kind == "clip-image":
        return _clip_image(config)
    if kind == "clip-text":
        return _clip_text(config)
    return _text2im(config)


def _check_kind(kind, config):
    if kind not in KINDS:
        raise UserError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    if kind.startswith("clip-"):
        fits = isinstance(config, NoisedClipConfig)
    else:
        fits = (
            isinstance(config, Text2ImConfig)
            and bool(config.low_res_px) == kind.startswith("upsample")
            and config.inpaint == kind.endswith("-inpaint")
        )
    if not fits:
        raise UserError(
            f"kind {kind!r} does not fit the model configuration; "
            "check its family, low_res_px and inpaint"
        )


def _check(kind, expected, tensors):
    problems = []
    missing = [name for name in expected if name not in tensors]
    surplus = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    for what, names in (
        ("missing", missing),
        ("surplus", surplus),
        ("misshapen", misshapen),
    ):
        if names:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            problems.append(f"{what}: {', '.join(names[:_LISTED])}{more}")
    if problems:
        raise UserError(
            f"the tensors are not those of kind {kind!r} at this configuration; "
            f"{'; '.join(problems)}; check the kind and the model sizes"
        )


def _get(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def _put(tree, path, leaf):
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf


def _affine(name, path, axes=_LINEAR, layer=None):
    yield _Entry(f"{name}.weight", (*path, "kernel"), axes, layer)
    yield _Entry(f"{name}.bias", (*path, "bias"), _SAME, layer)


def _norm(name, path, layer=None):
    yield _Entry(f"{name}.weight", (*path, "scale"), _SAME, layer)
    yield _Entry(f"{name}.bias", (*path, "bias"), _SAME, layer)


def _text2im(config):
    yield from _text(config)
    root = ("unet",)
    yield from _affine("time_embed.0", (*root, "time_in"))
    yield from _affine("time_embed.2", (*root, "time_out"))
    yield from _affine("input_blocks.0.0", (*root, "stem"), _CONV)
    plan = layout.make_layout(config)
    for index, spec in enumerate(plan.inputs):
        # There the stem is input block 0.
        yield from _block(f"input_blocks.{index + 1}", (*root, f"inputs_{index}"), spec)
    yield from _block("middle_block", (*root, "middle"), plan.middle)
    for index, spec in enumerate(plan.outputs):
        yield from _block(f"output_blocks.{index}", (*root, f"outputs_{index}"), spec)
    yield from _norm("out.0", (*root, "norm_out"))
    yield from _affine("out.2", (*root, "conv_out"), _CONV)


def _block(name, path, spec):
    """A block's parts are numbered there in order of use."""
    yield from _res_block(
        f"{name}.0", (*path, "res"), spec.in_channels != spec.channels
    )
    if spec.attention:
        yield from _attention(f"{name}.1", (*path, "attention"))
    if spec.last:
        position = 1 + spec.attention
        yield from _res_block(f"{name}.{position}", (*path, "last"), False)


def _res_block(name, path, has_skip):
    yield from _norm(f"{name}.in_layers.0", (*path, "norm_in"))
    yield from _affine(f"{name}.in_layers.2", (*path, "conv_in"), _CONV)
    yield from _affine(f"{name}.emb_layers.1", (*path, "embedding"))
    yield from _norm(f"{name}.out_layers.0", (*path, "norm_out"))
    yield from _affine(f"{name}.out_layers.3", (*path, "conv_out"), _CONV)
    if has_skip:
        yield from _affine(f"{name}.skip_connection", (*path, "skip"), _POINTWISE_2D)


def _attention(name, path):
    yield from _norm(f"{name}.norm", (*path, "norm"))
    for part in ("qkv", "encoder_kv", "proj_out"):
        yield from _affine(f"{name}.{part}", (*path, part), _POINTWISE_1D)


_TEXT_BLOCK = {
    "attn.c_qkv": "attn_qkv",
    "attn.c_proj": "attn_proj",
    "mlp.c_fc": "mlp_in",
    "mlp.c_proj": "mlp_out",
}


def _text(config):
    root = ("text",)
    yield _Entry("token_embedding.weight", (*root, "token_embedding"), _SAME)
    for name in ("positional_embedding", "padding_embedding"):
        yield _Entry(name, (*root, name), _SAME)
    for layer in range(config.text_layers):
        name, path = f"transformer.resblocks.{layer}", (*root, "layers")
        for theirs, ours in _TEXT_BLOCK.items():
            yield from _affine(f"{name}.{theirs}", (*path, ours), layer=layer)
        for norm in ("ln_1", "ln_2"):
            yield from _norm(f"{name}.{norm}", (*path, norm), layer)
    yield from _norm("final_ln", (*root, "final_ln"))
    yield from _affine("transformer_proj", (*root, "pooled"))


def _clip_image(config):
    yield _Entry("blocks.input.w_t", ("timestep_embedding",), _SAME)
    patch_axes = _patch_axes(config.patch_px)
    yield _Entry("blocks.input.patch_proj", ("patch", "kernel"), patch_axes)
    yield _Entry("blocks.input.w_pos", ("positional_embedding",), _SAME)
    yield from _clip_norm("blocks.input.ln", ("ln_in",))
    yield from _clip_blocks(config.image_layers)


def _clip_text(config):
    yield _Entry("blocks.input.w_voc", ("token_embedding",), _SAME)
    yield _Entry("blocks.input.w_pos", ("positional_embedding",), _SAME)
    yield from _clip_blocks(config.text_layers)


_CLIP_LINEARS = {
    "f_attn.f_q": "query",
    "f_attn.f_k": "key",
    "f_attn.f_v": "value",
    "f_attn.f_c": "attn_proj",
    "f_mlp.f_1": "mlp_in",
    "f_mlp.f_2": "mlp_out",
}


def _clip_blocks(num_layers):
    for layer in range(num_layers):
        name = f"blocks.block_{layer}"
        for theirs, ours in (("f_attn.ln", "ln_1"), ("f_mlp.ln", "ln_2")):
            yield from _clip_norm(f"{name}.{theirs}", ("layers", ours), layer)
        for theirs, ours in _CLIP_LINEARS.items():
            path = ("layers", ours)
            yield _Entry(f"{name}.{theirs}.w", (*path, "kernel"), _LINEAR, layer)
            if ours != "key":
                yield _Entry(f"{name}.{theirs}.b", (*path, "bias"), _SAME, layer)
    yield from _clip_norm("blocks.output.ln", ("ln_out",))
    yield _Entry("blocks.output.f.w", ("output", "kernel"), _LINEAR)


def _clip_norm(name, path, layer=None):
    yield _Entry(f"{name}.g", (*path, "scale"), _SAME, layer)
    yield _Entry(f"{name}.b", (*path, "bias"), _SAME, layer)
