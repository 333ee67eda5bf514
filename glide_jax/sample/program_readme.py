"""The files beside a serialized sampler: manifest, runner and example.

The manifest lists every argument of the program with its shape, dtype and position, and
the rule by which captions become token ids.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
from typing import Any

import jax
import numpy as np
from jax import export

import glide_jax
from glide_jax.checkpoint import bundle
from glide_jax.sample import options, program_runner, restore
from glide_jax.text import tokenizers

FORMAT = 1
# The oldest jax that an exported program was run with: it draws the same bytes as the
# jax that exported it. With 0.7.2 and 0.6.2 a program does not start.
OLDEST_JAX = "0.8.3"
PROGRAM, MANIFEST, RUNNER = "sampler.stablehlo", "manifest.json", "run.py"
EXAMPLE, CLIP_PARAMS = "example.npz", "clip_params.safetensors"

MEANINGS = {
    "seed": "with index, all of a picture's randomness",
    "index": "index of the picture; see seed",
    "tokens": "the caption's ids",
    "text_mask": "True where tokens holds a real id, False on padding",
    "uncond_tokens": "the empty caption, or one to steer away from",
    "uncond_mask": "the mask of uncond_tokens: all False for the empty caption",
    "clip_tokens": "the same caption in the noised CLIP's ids",
    "clip_mask": "the mask of clip_tokens",
    "noise_temperature": "factor on the starting noise",
    "low_res": "the small RGB picture to enlarge, 0 to 255",
    "inpaint_image": "RGB picture of which a part is known, 0 to 255",
    "inpaint_mask": "1 where inpaint_image is known, 0 where it is to be drawn",
}
TOKEN_RULES = {
    "gpt2": "text in lower case, GPT-2's byte-pair encoding, no special ids",
    "clip": "text repaired by ftfy, spaces collapsed, in lower case, CLIP's byte-pair "
    "encoding between its start and end ids",
    "sentencepiece": "text in lower case, SentencePiece's pieces, then its eos id; the "
    "empty text has no ids",
}

# Settings of the bundle that are fixed in the program; the others are inputs.
_STATIC = [options.about(name) for name in options.names()]
FIXED = tuple(dict.fromkeys(a.setting for a in _STATIC if a.is_static and a.setting))

# params, clip_params, inputs: shapes and types by name
Arguments = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


def make_files(
    exported: export.Exported,
    arguments: Arguments,
    model: restore.SampleModel,
    clip: restore.SampleModel | None,
    guidance_mode: str,
    prompt: str,
) -> dict[str, bytes]:
    """Returns manifest.json, run.py and example.npz.

    Args:
      exported: the program.
      arguments: shapes and dtypes of params, clip_params and inputs, by name.
      model: the program's model; its config has the sampling settings.
      clip: the noised CLIP that guides it, or None.
      guidance_mode: the program's.
      prompt: caption of the example.
    """
    text = {"tokens": _token_rule(model)}
    if clip is not None:
        text["clip_tokens"] = _token_rule(clip)
    manifest = {
        "format": FORMAT,
        "program": PROGRAM,
        "call": "jax.export.deserialize(program).call(params, clip_params, inputs)",
        **_versions(exported),
        "params": {"file": f"../{bundle.PARAMS}"},
        "clip_params": None if clip is None else {"file": CLIP_PARAMS},
        "inputs": {
            name: {
                **_describe(leaf),
                "meaning": MEANINGS.get(name) or options.about(name).help,
            }
            for name, leaf in arguments[2].items()
        },
        "output": {**_describe(exported.out_avals[0]), "meaning": "RGB pictures"},
        "token_ids": text,
        "fixed": {
            "guidance_mode": guidance_mode,
            **{name: getattr(model.config.sample, name) for name in FIXED},
        },
        "example": {"file": EXAMPLE, "prompt": prompt},
        "order": _order(arguments),
    }
    example: dict[str, Any] = _example(model, clip, prompt, arguments[2])
    npz = io.BytesIO()
    np.savez_compressed(npz, **example)
    return {
        MANIFEST: (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode(),
        RUNNER: pathlib.Path(program_runner.__file__).read_bytes(),
        EXAMPLE: npz.getvalue(),
    }


def _versions(exported: export.Exported) -> dict[str, Any]:
    return {
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
        "jax_version": jax.__version__,
        "oldest_jax_version": OLDEST_JAX,
        "made_by": f"glide_jax {glide_jax.__version__}",
    }


def _order(arguments: Arguments) -> list[dict[str, Any]]:
    """Returns the arrays in the order of the program's flat arguments."""
    names = ("params", "clip_params", "inputs")
    return [
        {"argument": argument, "name": name, **_describe(leaf)}
        for argument, leaves in zip(names, arguments, strict=True)
        for name, leaf in sorted(leaves.items())
    ]


def _describe(leaf: Any) -> dict[str, Any]:
    """Returns shape, with a symbolic side as its letter, and dtype."""
    sides = [side if isinstance(side, int) else str(side) for side in leaf.shape]
    return {"shape": sides, "dtype": np.dtype(leaf.dtype).name}


def _token_rule(model: restore.SampleModel) -> dict[str, Any]:
    tokenizer = model.tokenizer
    return {
        "tokenizer": tokenizer.kind,
        "files": sorted(tokenizer.files()),
        "of_model": model.config.name,
        "rule": TOKEN_RULES[tokenizer.kind],
        "length": model.config.model.text_context,
        "pad_id": tokenizer.pad_id,
    }


def _example(
    model: restore.SampleModel,
    clip: restore.SampleModel | None,
    prompt: str,
    described: dict[str, Any],
) -> dict[str, np.ndarray]:
    """Returns inputs for one picture: the prompt, seed 0, grey or black pictures."""
    sample, context = model.config.sample, model.config.model.text_context
    tokens, text_mask = model.tokenizer.encode_batch([prompt], context)
    uncond_tokens, uncond_mask = tokenizers.empty_batch(model.tokenizer, 1, context)
    values: dict[str, Any] = {
        **dataclasses.asdict(sample),
        "tokens": tokens,
        "text_mask": text_mask,
        "uncond_tokens": uncond_tokens,
        "uncond_mask": uncond_mask,
        "low_res": 128,
    }
    if clip is not None:
        values["clip_tokens"], values["clip_mask"] = clip.tokenizer.encode_batch(
            [prompt], clip.config.model.text_context
        )
    return {
        name: np.array(np.broadcast_to(values.get(name, 0), _one(leaf)), leaf.dtype)
        for name, leaf in described.items()
    }


def _one(leaf: Any) -> tuple[int, ...]:
    """Returns the shape for one picture."""
    return tuple(side if isinstance(side, int) else 1 for side in leaf.shape)
