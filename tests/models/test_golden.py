"""Forward passes against the released code, at tiny sizes.

1e-4 of the largest value is the golden files' own bound for float32 forward passes on a
CPU; the differences seen are 20 to 300 times smaller.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.diffusion import guidance
from glide_jax.models import build, layers, noised_clip
from tests.models import golden_models

TOLERANCE = 1e-4
UNETS = ("base", "base-inpaint", "upsample", "upsample-inpaint")


@pytest.mark.parametrize("kind", UNETS)
def test_the_unet_equals_the_released_one(kind):
    encode, denoise = golden_models.denoiser(kind)
    params = golden_models.params(kind)
    text = encode(params, *golden_models.caption())
    px = golden_models.CONFIGS[kind].image_px
    out = denoise(
        params,
        golden_models.inputs(f"x{px}"),
        golden_models.inputs("timesteps", np.int32),
        text,
        **golden_models.pictures(kind),
    )
    expected = golden_models.arrays()[f"{kind.replace('-', '_')}/out"]
    assert golden_models.error(out, expected) < TOLERANCE


def test_the_text_transformer_equals_the_released_one():
    fns = build.make_denoiser(golden_models.BASE)
    encode = jax.jit(fns.encode_text)
    features = encode(golden_models.params("base"), *golden_models.caption())
    stored = golden_models.arrays()
    assert golden_models.error(features.pooled, stored["base/xf_proj"]) < TOLERANCE
    assert golden_models.error(features.sequence, stored["base/xf_out"]) < TOLERANCE


def test_timestep_embedding_is_cos_then_sin():
    timesteps = np.array([0, 1, 500, 999], np.int32)
    expected = golden_models.arrays()["base/timestep_embedding"]
    # Angles reach 999, where float32 holds 3e-5.
    embedded = layers.timestep_embedding(timesteps, 32)
    assert golden_models.error(embedded, expected) < TOLERANCE


def test_the_noised_clip_equals_the_released_one():
    fns = build.make_clip(golden_models.CLIP)
    params, stored = golden_models.clip_params(), golden_models.arrays()
    tokens = stored["clip/tokens"].astype(np.int32)
    text_mask = np.arange(12) < stored["clip/lengths"][:, None]
    text = jax.jit(fns.encode_text)(params, tokens, text_mask)
    assert golden_models.error(text, stored["clip/text_features"]) < TOLERANCE
    x_t = golden_models.inputs("x16")
    timesteps = golden_models.inputs("timesteps", np.int32)
    image = jax.jit(fns.encode_image)(params, x_t, timesteps)
    assert golden_models.error(image, stored["clip/image_features"]) < TOLERANCE


def test_the_guidance_gradient_equals_the_released_one():
    fns = build.make_clip(golden_models.CLIP)
    params, stored = golden_models.clip_params(), golden_models.arrays()
    text_features = stored["clip/text_features"]
    timesteps = golden_models.inputs("timesteps", np.int32)

    @jax.jit
    def gradient(x_t):
        def similarity(x_t):
            features = fns.encode_image(params, x_t, timesteps)
            cosine = noised_clip.similarity(features, text_features)
            return fns.logit_scale(params) * cosine

        return guidance.similarity_gradient(similarity, x_t, 3.0)

    expected = stored["clip/cond_fn_grad_scale3"]
    actual = gradient(jnp.asarray(golden_models.inputs("x16")))
    assert golden_models.error(actual, expected) < TOLERANCE
