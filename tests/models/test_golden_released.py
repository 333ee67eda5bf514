"""Forward passes of the four released U-Nets and the released CLIP at full size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax import presets
from glide_jax.convert import torch_glide
from glide_jax.diffusion import guidance
from glide_jax.models import build, noised_clip
from tests.models import golden_models

pytestmark = pytest.mark.slow

# The golden files' own bound for float32 forward passes and gradients; and bfloat16's 8
# bits of mantissa (4e-3) through the depth of these networks.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
CLIP = presets.noised_clip("released")
UNETS = {
    "base": presets.base("released"),
    "base-inpaint": presets.base("released", inpaint=True),
    "upsample": presets.upsampler("released"),
    "upsample-inpaint": presets.upsampler("released", inpaint=True),
}


@functools.cache
def _stored():
    with np.load(golden_models.FOLDER / "released_size.npz") as arrays:
        return dict(arrays)


def _params(kind):
    """The rule's weights for every released name and shape."""
    config = UNETS.get(kind, CLIP)
    shapes = torch_glide.torch_shapes(kind, config)
    tensors = {
        name: golden_models.weight(name, shape) for name, shape in shapes.items()
    }
    return torch_glide.from_torch(kind, config, tensors)


# One at a time: a U-Net takes 1.5 GB.
@functools.lru_cache(maxsize=1)
def _unet_params(kind):
    """The weights of a U-Net that does not inpaint."""
    return _params(kind)


def _inpaint_params(kind):
    """The same with the first convolution of an inpainting model.

    A weight is drawn from its name and shape, and this kernel alone has another shape.
    """
    kernel = "input_blocks.0.0.weight"
    shape = torch_glide.torch_shapes(kind, UNETS[kind])[kernel]
    stem = golden_models.weight(kernel, shape).transpose(2, 3, 1, 0)
    params = _unet_params(kind.removesuffix("-inpaint"))
    unet = params["unet"]
    return params | {"unet": unet | {"stem": unet["stem"] | {"kernel": stem}}}


@functools.cache
def _clip_params():
    return {
        "image": _params("clip-image"),
        "text": _params("clip-text"),
        "logit_scale": np.float32(np.log(100)),
    }


def _normal(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def _enlarge(x):
    return x.repeat(4, axis=1).repeat(4, axis=2)


def _pictures(config):
    given = {}
    if config.low_res_px:
        given["low_res"] = np.clip(_normal(4, 1, 64, 64, 3), -1, 1)
    if config.inpaint:
        image = np.clip(_normal(5, 1, 64, 64, 3), -1, 1)
        mask = np.zeros((1, 64, 64, 1), np.float32)
        mask[:, :20] = 1
        given["inpaint_image"], given["inpaint_mask"] = image, mask
        if config.low_res_px:
            given["inpaint_image"], given["inpaint_mask"] = map(_enlarge, (image, mask))
    return given


# The first axis changes slowest, so that each kind's weights are drawn once.
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", UNETS)
def test_a_full_size_unet_equals_the_released_one(kind, dtype):
    config = dataclasses.replace(UNETS[kind], compute_dtype=dtype)
    is_inpaint = kind.endswith("-inpaint")
    params = (_inpaint_params if is_inpaint else _unet_params)(kind)
    stored = _stored()
    fns = build.make_denoiser(config)
    is_upsampler = kind.startswith("upsample")
    x_t = _normal(3, 1, 256, 256, 3) if is_upsampler else _normal(2, 1, 64, 64, 3)
    tokens, timesteps = (
        stored[name].astype(np.int32) for name in ("tokens", "timesteps")
    )
    text = jax.jit(fns.encode)(params, tokens, stored["mask"])
    out = jax.jit(fns.denoise)(params, x_t, timesteps, text, **_pictures(config))
    out = out[:, ::4, ::4] if is_upsampler else out
    expected = stored[f"{kind.replace('-', '_')}/out"]
    assert golden_models.error(out, expected) < TOLERANCE[dtype]


def _relative_error(actual, expected):
    """max |a - b| / max |b|: features of length 1 and gradients lie far below 1."""
    return np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_full_size_clip_equals_the_released_one(dtype):
    config = dataclasses.replace(CLIP, compute_dtype=dtype)
    stored, fns, tolerance = _stored(), build.make_clip(config), TOLERANCE[dtype]
    params = _clip_params()
    # "an oil painting of a corgi" between the two special tokens.
    caption = [49406, 550, 2870, 3086, 539, 320, 31320, 49407]
    tokens = np.zeros((1, 77), np.int32)
    tokens[0, : len(caption)] = caption
    text_mask = np.arange(77)[None] < len(caption)
    text = jax.jit(fns.encode_text)(params, tokens, text_mask)
    text_features = noised_clip.normalise(text)
    assert _relative_error(text_features, stored["clip/text_features"]) < tolerance
    x_t, timesteps = _normal(2, 1, 64, 64, 3), stored["timesteps"].astype(np.int32)

    @jax.jit
    def image_and_gradient(x_t):
        def similarity(x_t):
            cosine = noised_clip.similarity(
                fns.encode_image(params, x_t, timesteps), text
            )
            return fns.logit_scale(params) * cosine

        image = noised_clip.normalise(fns.encode_image(params, x_t, timesteps))
        return image, guidance.similarity_gradient(similarity, x_t, 3.0)

    image, gradient = image_and_gradient(jnp.asarray(x_t))
    assert _relative_error(image, stored["clip/image_features"]) < tolerance
    assert _relative_error(gradient, stored["clip/cond_fn_grad_scale3"]) < tolerance
