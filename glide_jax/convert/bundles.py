"""A released file as a bundle that `glide sample` reads, and a bundle as such a file.

The noised CLIP is one bundle but two files. The first of them to be converted waits in
the folder as KIND.safetensors, under its released names; the second completes it.
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
from glide_jax.config.defaults import Config, NoisedClipConfig
from glide_jax.convert import names, released, tensor_files, torch_glide
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.text import tokenizers

# Of the released CLIP; its files do not hold it (published in its config.yaml).
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
    """Writes the bundle of a released file; False if its other half is still to come.

    Args:
      kind: one of names.KINDS.
      config: settings of the model, for a release those of `released.make_config`.
      tokenizer: as `tokenizers.make_tokenizer` takes it; "": config.data.tokenizer.
      source: .safetensors or .pt; its types are kept.
      folder: new, empty, or with the noised CLIP's other half in it.

    Raises:
      UserError: a folder that is taken, a source that cannot be read, or tensors that
        are not exactly the model's. Nothing is written then.
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
    """What `to_openai` wrote.

    Attributes:
      kind: one of names.KINDS.
      options: the file of options, of a U-Net.
      left_out: a line for each property that neither file can carry.
    """

    kind: str
    options: pathlib.Path | None
    left_out: list[str]


def to_openai(folder: pathlib.Path, output: pathlib.Path, kind: str = "") -> Written:
    """Writes a bundle's tensors under their released names.

    Beside the tensors of a U-Net it writes NAME.options.json, the keyword arguments
    that `create_model_and_diffusion` of the released code needs for this model.

    Args:
      folder: a bundle, of any size.
      output: a new .safetensors or .pt file; the bundle's types are kept.
      kind: "" for a U-Net's own; a noised CLIP needs one of its two.

    Raises:
      UserError: no bundle, an output that exists or cannot be written, a kind that is
        not the model's, tensors that are not those of its config.json, or a model that
        the released code would compute wrongly.
    """
    tensor_files.check_format(output)
    options = output.with_suffix(".options.json")
    for path in (output, options):
        if path.exists():
            raise UserError(f"{path} exists; name a new file, or remove it")
    found = bundle.read_bundle(folder)
    config = resolve.from_json(found.config_json)
    model = config.model
    released.check(model, str(folder))
    kind = kind or _own_kind(model, folder)
    names.check_kind(kind, model)
    left_out = released.left_out(config, tokenizers.load(folder).kind)
    params, is_clip = found.params, kind in _OTHER_HALF
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
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); name another --output"
        ) from error


def read_settings(place: pathlib.Path) -> tuple[Config, str]:
    """Settings and tokenizer of a bundle, for a file of weights of the same sizes.

    Args:
      place: a bundle's folder, or the config.json in it.

    Returns:
      Settings, and a tokenizer as `tokenizers.make_tokenizer` takes it.

    Raises:
      UserError: it is neither.
    """
    folder = place.parent if place.name == "config.json" else place
    if not bundle.is_bundle(folder):
        raise UserError(
            f"--config={place} is not a bundle or its config.json; name the bundle "
            "that has the sizes and the tokenizer of the file"
        )
    found = bundle.read_bundle(folder)
    return resolve.from_json(found.config_json), str(folder)


def _waiting_half(kind: str, folder: pathlib.Path) -> pathlib.Path | None:
    """The other half in the folder; UserError if anything else lies there."""
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
            f"{folder} waits for the other half of its noised CLIP; give "
            f"--kind={_OTHER_HALF[kind]}, or a new folder"
        )
    what = "holds a bundle" if bundle.is_bundle(folder) else "is not empty"
    raise UserError(f"{folder} {what}; give a new folder, or remove it")


def _tower(kind: str) -> str:
    return kind.removeprefix("clip-")


def _own_kind(model, folder: pathlib.Path) -> str:
    if isinstance(model, NoisedClipConfig):
        raise UserError(
            f"{folder} is a noised CLIP, which is two files; give --kind=clip-image, "
            "then --kind=clip-text with another output"
        )
    own = "upsample" if model.low_res_px else "base"
    return f"{own}-inpaint" if model.inpaint else own


def _log_logit_scale(params: array_types.Params) -> None:
    scale = math.exp(float(params.get("logit_scale", 0.0)))
    # In bfloat16 the released scale itself is 1.2% off.
    if not math.isclose(scale, RELEASED_LOGIT_SCALE, rel_tol=2e-2):
        _log.warning(
            "this CLIP's logit scale, %.4g, is left out: the released files have none, "
            "and their readers take %g",
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
    """What was converted, and how to draw with it."""
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
        f"For `glide sample` and `glide inpaint`, as {role}. config.json holds every "
        "setting of the model; those of its training are not known. The weights' "
        "licence is their publisher's.\n"
    )
