"""Names of the released PyTorch tensors, their paths in the parameter tree, their axes.

There are six kinds of released files. This module has only data and reads no tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from glide_jax.config.defaults import ModelConfig, NoisedClipConfig, Text2ImConfig
from glide_jax.errors import UserError
from glide_jax.models import build, layout


class Kind(NamedTuple):
    """The model in a kind of released file: its role, and whether it inpaints."""

    role: str
    inpaint: bool = False


KINDS = {
    "base": Kind("base"),
    "base-inpaint": Kind("base", inpaint=True),
    "upsample": Kind("upsampler"),
    "upsample-inpaint": Kind("upsampler", inpaint=True),
    "clip-image": Kind("noised_clip"),
    "clip-text": Kind("noised_clip"),
}


class Axes(NamedTuple):
    """Conversions of a tensor's axes from PyTorch to the parameter tree, and back."""

    to_ours: Callable[[Any], Any]
    to_torch: Callable[[Any], Any]


class TensorEntry(NamedTuple):
    """One PyTorch tensor.

    Attributes:
      name: in the file.
      path: in the parameter tree.
      axes: conversions of its axes.
      layer: row of the leading layer axis; None if the tensor is not stacked.
    """

    name: str
    path: tuple[str, ...]
    axes: Axes
    layer: int | None = None


Path = tuple[str, ...]
Entries = Iterator[TensorEntry]

_SAME = Axes(lambda a: a, lambda a: a)
_LINEAR = Axes(lambda a: a.T, lambda a: a.T)
_CONV = Axes(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
# A 1x1 convolution, over positions or over pixels, is a linear map here.
_POINTWISE_1D = Axes(lambda a: a[:, :, 0].T, lambda a: a.T[:, :, None])
_POINTWISE_2D = Axes(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])


def _patch_axes(patch_px: int) -> Axes:
    """Returns the axes of the patch convolution, a linear map of flat patches here."""

    def to_ours(a: Any) -> Any:
        return a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0])

    def to_torch(a: Any) -> Any:
        unflat = a.reshape(patch_px, patch_px, -1, a.shape[-1])
        return unflat.transpose(3, 2, 0, 1)

    return Axes(to_ours, to_torch)


def entries(kind: str, config: ModelConfig) -> Entries:
    """Returns every tensor of a file of this kind.

    Raises:
      UserError: the kind is unknown, or the model is of another kind.
    """
    check_kind(kind, config)
    if isinstance(config, NoisedClipConfig):
        return _clip_image(config) if kind == "clip-image" else _clip_text(config)
    return _text2im(config)


def kind_of(config: ModelConfig) -> Kind:
    """Returns role and inpainting of a model."""
    return Kind(build.role_of(config), getattr(config, "inpaint", False))


def check_kind(kind: str, config: ModelConfig) -> None:
    """Raises UserError unless files of this kind have models of this configuration."""
    if kind not in KINDS:
        raise UserError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    if KINDS[kind] != kind_of(config):
        raise UserError(
            f"kind {kind!r} does not fit the model configuration; "
            "check its family, low_res_px and inpaint"
        )


def _affine(
    name: str, path: Path, axes: Axes = _LINEAR, layer: int | None = None
) -> Entries:
    yield TensorEntry(f"{name}.weight", (*path, "kernel"), axes, layer)
    yield TensorEntry(f"{name}.bias", (*path, "bias"), _SAME, layer)


def _norm(name: str, path: Path, layer: int | None = None) -> Entries:
    yield TensorEntry(f"{name}.weight", (*path, "scale"), _SAME, layer)
    yield TensorEntry(f"{name}.bias", (*path, "bias"), _SAME, layer)


def _text2im(config: Text2ImConfig) -> Entries:
    yield from _text(config)
    root = ("unet",)
    yield from _affine("time_embed.0", (*root, "time_in"))
    yield from _affine("time_embed.2", (*root, "time_out"))
    yield from _affine("input_blocks.0.0", (*root, "stem"), _CONV)
    plan = layout.make_layout(config)
    for index, spec in enumerate(plan.inputs):
        # Input block 0 of PyTorch's model is the stem.
        yield from _block(f"input_blocks.{index + 1}", (*root, f"inputs_{index}"), spec)
    yield from _block("middle_block", (*root, "middle"), plan.middle)
    for index, spec in enumerate(plan.outputs):
        yield from _block(f"output_blocks.{index}", (*root, f"outputs_{index}"), spec)
    yield from _norm("out.0", (*root, "norm_out"))
    yield from _affine("out.2", (*root, "conv_out"), _CONV)


def _block(name: str, path: Path, spec: layout.BlockSpec) -> Entries:
    """Yields a block's tensors; PyTorch's model numbers its parts in order of use."""
    yield from _res_block(
        f"{name}.0", (*path, "res"), spec.in_channels != spec.channels
    )
    if spec.attention:
        yield from _attention(f"{name}.1", (*path, "attention"))
    if spec.last:
        position = 1 + spec.attention
        yield from _res_block(f"{name}.{position}", (*path, "last"), False)


def _res_block(name: str, path: Path, has_skip: bool) -> Entries:
    yield from _norm(f"{name}.in_layers.0", (*path, "norm_in"))
    yield from _affine(f"{name}.in_layers.2", (*path, "conv_in"), _CONV)
    yield from _affine(f"{name}.emb_layers.1", (*path, "embedding"))
    yield from _norm(f"{name}.out_layers.0", (*path, "norm_out"))
    yield from _affine(f"{name}.out_layers.3", (*path, "conv_out"), _CONV)
    if has_skip:
        yield from _affine(f"{name}.skip_connection", (*path, "skip"), _POINTWISE_2D)


def _attention(name: str, path: Path) -> Entries:
    yield from _norm(f"{name}.norm", (*path, "norm"))
    for part in ("qkv", "encoder_kv", "proj_out"):
        yield from _affine(f"{name}.{part}", (*path, part), _POINTWISE_1D)


_TEXT_BLOCK = {
    "attn.c_qkv": "attn_qkv",
    "attn.c_proj": "attn_proj",
    "mlp.c_fc": "mlp_in",
    "mlp.c_proj": "mlp_out",
}


def _text(config: Text2ImConfig) -> Entries:
    root = ("text",)
    yield TensorEntry("token_embedding.weight", (*root, "token_embedding"), _SAME)
    for name in ("positional_embedding", "padding_embedding"):
        yield TensorEntry(name, (*root, name), _SAME)
    for layer in range(config.text_layers):
        name, path = f"transformer.resblocks.{layer}", (*root, "layers")
        for theirs, ours in _TEXT_BLOCK.items():
            yield from _affine(f"{name}.{theirs}", (*path, ours), layer=layer)
        for norm in ("ln_1", "ln_2"):
            yield from _norm(f"{name}.{norm}", (*path, norm), layer)
    yield from _norm("final_ln", (*root, "final_ln"))
    yield from _affine("transformer_proj", (*root, "pooled"))


def _clip_image(config: NoisedClipConfig) -> Entries:
    yield TensorEntry("blocks.input.w_t", ("timestep_embedding",), _SAME)
    patch_axes = _patch_axes(config.patch_px)
    yield TensorEntry("blocks.input.patch_proj", ("patch", "kernel"), patch_axes)
    yield TensorEntry("blocks.input.w_pos", ("positional_embedding",), _SAME)
    yield from _clip_norm("blocks.input.ln", ("ln_in",))
    yield from _clip_blocks(config.image_layers)


def _clip_text(config: NoisedClipConfig) -> Entries:
    yield TensorEntry("blocks.input.w_voc", ("token_embedding",), _SAME)
    yield TensorEntry("blocks.input.w_pos", ("positional_embedding",), _SAME)
    yield from _clip_blocks(config.text_layers)


_CLIP_LINEARS = {
    "f_attn.f_q": "query",
    "f_attn.f_k": "key",
    "f_attn.f_v": "value",
    "f_attn.f_c": "attn_proj",
    "f_mlp.f_1": "mlp_in",
    "f_mlp.f_2": "mlp_out",
}


def _clip_blocks(num_layers: int) -> Entries:
    for layer in range(num_layers):
        name = f"blocks.block_{layer}"
        for theirs, ours in (("f_attn.ln", "ln_1"), ("f_mlp.ln", "ln_2")):
            yield from _clip_norm(f"{name}.{theirs}", ("layers", ours), layer)
        for theirs, ours in _CLIP_LINEARS.items():
            path = ("layers", ours)
            yield TensorEntry(f"{name}.{theirs}.w", (*path, "kernel"), _LINEAR, layer)
            if ours != "key":
                yield TensorEntry(f"{name}.{theirs}.b", (*path, "bias"), _SAME, layer)
    yield from _clip_norm("blocks.output.ln", ("ln_out",))
    yield TensorEntry("blocks.output.f.w", ("output", "kernel"), _LINEAR)


def _clip_norm(name: str, path: Path, layer: int | None = None) -> Entries:
    yield TensorEntry(f"{name}.g", (*path, "scale"), _SAME, layer)
    yield TensorEntry(f"{name}.b", (*path, "bias"), _SAME, layer)
