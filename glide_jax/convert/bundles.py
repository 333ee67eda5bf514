"""Converts released files to bundles, and bundles to released files.

The noised CLIP is one bundle but two files. The first one converted is stored in the
folder as KIND.safetensors, under its released names; the second completes the bundle.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np

import glide_jax
from glide_jax import array_types
from glide_jax.checkpoint import bundle
from glide_jax.config import resolve
from glide_jax.config.defaults import Config, ModelConfig
from glide_jax.convert import names, released, tensor_files, torch_glide
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.runtime import files
from glide_jax.text import tokenizers

# Published in the released CLIP's config.yaml; its weight files do not have it.
RELEASED_LOGIT_SCALE = 100.0
_OTHER_HALF = {"clip-image": "clip-text", "clip-text": "clip-image"}

_log = logging.getLogger(__name__)


def from_openai(
    kind: str,
    config: Config,
    source: pathlib.Path,
    folder: pathlib.Path,
    *,
    tokenizer: str = "",
) -> bool:
    """Writes the bundle of a released file.

    Args:
      kind: one of names.KINDS.
      config: settings of the model, for a release those of `released.make_config`.
      source: .safetensors or .pt; dtypes are preserved.
      folder: new, empty, or with the other half of the noised CLIP.
      tokenizer: argument of `tokenizers.make_tokenizer`; "": config.data.tokenizer.

    Returns:
      False if the other half of a noised CLIP is missing, else True.

    Raises:
      UserError: the folder is not empty, the source cannot be read, or its tensors are
        not exactly the model's. Nothing is written then.
    """
    names.check_kind(kind, config.model)
    half = _waiting_half(kind, folder)
    tensors = tensor_files.read(source)
    params = torch_glide.from_torch(kind, config.model, tensors)
    if kind in _OTHER_HALF:
        if half is None:
            tensor_files.write(folder / f"{kind}.safetensors", tensors)
            return False
        other = _OTHER_HALF[kind]
        params = {
            _tower(kind): params,
            _tower(other): torch_glide.from_torch(
                other, config.model, tensor_files.read(half)
            ),
            "logit_scale": np.float32(math.log(RELEASED_LOGIT_SCALE)),
        }
    bundle.write_bundle(
        folder,
        params,
        resolve.to_json(config),
        _tokenizer_files(tokenizer or config.data.tokenizer),
        _card(config, kind, source, params),
        replaces=[] if half is None else [half.name],
    )
    return True


class Written(NamedTuple):
    """The result of `to_openai`.

    Attributes:
      kind: one of names.KINDS.
      options: the file of options of a U-Net; None for a CLIP.
      left_out: one line for each property that the files do not store.
    """

    kind: str
    options: pathlib.Path | None
    left_out: list[str]


def to_openai(folder: pathlib.Path, output: pathlib.Path, kind: str = "") -> Written:
    """Writes a bundle's tensors under their released names.

    Beside the tensors of a U-Net it writes NAME.options.json, the keyword arguments
    that `create_model_and_diffusion` of the released code needs for this model.

    Args:
      folder: a bundle of any size.
      output: a new .safetensors or .pt file; dtypes are preserved.
      kind: one of names.KINDS; "": derived from the model, for a U-Net.

    Raises:
      UserError: the folder has no bundle, the output exists or cannot be written, the
        kind is not the model's, the tensors do not match config.json, or the released
        code would compute other results for this model.
    """
    tensor_files.check_format(output)
    options = output.with_suffix(".options.json")
    for path in (output, options):
        if path.exists():
            raise UserError(f"{path} exists; name a new file, or remove it")
    content = bundle.read_bundle(folder)
    config = resolve.from_json(content.config_json)
    if config.diffusion.prediction != "eps":
        raise UserError(
            f"{folder} predicts {config.diffusion.prediction}, and the released code "
            "reads eps; convert a model with diffusion.prediction=eps"
        )
    model = config.model
    released.check(model, str(folder))
    kind = kind or _own_kind(model, folder)
    names.check_kind(kind, model)
    left_out = released.left_out(config, tokenizers.load(folder).kind)
    params, is_clip = content.params, kind in _OTHER_HALF
    if is_clip:
        _log_logit_scale(params)
        params = params.get(_tower(kind), {})
    tensor_files.write(output, torch_glide.to_torch(kind, model, params))
    if is_clip:
        return Written(kind, None, left_out)
    _write_options(options, config)
    return Written(kind, options, left_out)


def _write_options(path: pathlib.Path, config: Config) -> None:
    text = json.dumps(released.options(config), indent=2)
    try:
        files.write_text(path, f"{text}\n")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); name another --output"
        ) from error


def read_settings(place: pathlib.Path) -> tuple[Config, str]:
    """Reads settings and tokenizer of a bundle, for a released file of equal sizes.

    Args:
      place: a bundle's folder, or the config.json in it.

    Returns:
      Settings, and the argument of `tokenizers.make_tokenizer`.

    Raises:
      UserError: `place` is neither.
    """
    folder = place.parent if place.name == "config.json" else place
    if not bundle.is_bundle(folder):
        raise UserError(
            f"--config={place} is not a bundle or its config.json; name the bundle "
            "that has the sizes and the tokenizer of the file"
        )
    content = bundle.read_bundle(folder)
    return resolve.from_json(content.config_json), str(folder)


def _waiting_half(kind: str, folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the other half in the folder, None if the folder is empty or new.

    Raises:
      UserError: the folder has anything else.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f"{folder} is a file and cannot be written to; name a folder")
    inside = {path.name for path in folder.iterdir()}
    if not inside:
        return None
    if inside == {f"{_OTHER_HALF.get(kind)}.safetensors"}:
        return folder / inside.pop()
    if inside == {f"{kind}.safetensors"}:
        raise UserError(
            f"{folder} already has the {kind} half of its noised CLIP; give "
            f"--kind={_OTHER_HALF[kind]}, or a new folder"
        )
    what = "holds a bundle" if bundle.is_bundle(folder) else "is not empty"
    raise UserError(f"{folder} {what}; give a new folder, or remove it")


def _tower(kind: str) -> str:
    return kind.removeprefix("clip-")


def _own_kind(model: ModelConfig, folder: pathlib.Path) -> str:
    wanted = names.kind_of(model)
    kinds = [kind for kind, value in names.KINDS.items() if value == wanted]
    if len(kinds) > 1:
        raise UserError(
            f"{folder} is a noised CLIP, which is released as two files; give "
            "--kind=clip-image, then --kind=clip-text with another output"
        )
    return kinds[0]


def _log_logit_scale(params: array_types.Params) -> None:
    scale = math.exp(float(params.get("logit_scale", 0.0)))
    # The released scale itself has an error of 1.2% in bfloat16.
    if not math.isclose(scale, RELEASED_LOGIT_SCALE, rel_tol=2e-2):
        _log.warning(
            "the logit scale of this CLIP, %.4g, is not written: the released files "
            "have none, and their readers use %g",
            scale,
            RELEASED_LOGIT_SCALE,
        )


def _tokenizer_files(spec: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        tokenizers.save(tokenizers.make_tokenizer(spec), folder)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _card(
    config: Config, kind: str, source: pathlib.Path, params: array_types.Params
) -> str:
    """Returns the bundle's model card."""
    model, drawn = config.model, config.sample
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    role = "--base" if kind.startswith("base") else "--upsampler"
    rows = {
        "kind": kind,
        "converted from": f"{source.name}, sha256 {digest}",
        "resolution": f"{model.image_px} px",
        "parameters": f"{build.parameter_count(params):,}",
        "noise": f"{config.diffusion.schedule}, {config.diffusion.num_timesteps} steps",
        "tokenizer": config.data.tokenizer,
    }
    if kind in _OTHER_HALF:
        role, rows["kind"] = "--clip", "clip"
    else:
        rows["drawn by"] = f"{drawn.sampler}, respacing {drawn.respacing}"
    rows["made by"] = f"glide_jax {glide_jax.__version__}"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"# {config.name}\n\n| | |\n|---|---|\n{table}\n\n"
        f"For `glide sample` and `glide inpaint`, as {role}. config.json has every "
        "setting of the model; those of its training are not published. The licence "
        "of the weights is their publisher's.\n"
    )
