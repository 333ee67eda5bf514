"""Extension of models by the inpainting channels."""

import dataclasses

import jax
import numpy as np
import pytest

from glide_jax import presets
from glide_jax.errors import UserError
from glide_jax.models import build, extend
from tests.models import golden_models


def test_an_extended_model_computes_the_same_for_any_image_and_mask():
    kind = "upsample"  # the low-resolution channels come last
    config, wider = (golden_models.CONFIGS[name] for name in (kind, f"{kind}-inpaint"))
    params = golden_models.params(kind)
    grown, paths = extend.extend(params, config, wider)
    assert paths == ["unet/stem/kernel"]
    encode, denoise = golden_models.denoiser(kind)
    text = encode(params, *golden_models.caption())
    x_t = golden_models.inputs(f"x{config.image_px}")
    timesteps = golden_models.inputs("timesteps", np.int32)
    before = denoise(params, x_t, timesteps, text, **golden_models.pictures(kind))
    _, denoise_wider = golden_models.denoiser(f"{kind}-inpaint")
    known = golden_models.pictures(f"{kind}-inpaint")
    after = denoise_wider(grown, x_t, timesteps, text, **known)
    # Zeros add nothing, but the wider convolution may sum in another order.
    assert golden_models.error(after, before) < 1e-5


def test_an_extended_model_of_patches_computes_the_same():
    config = dataclasses.replace(
        golden_models.UPSAMPLE, channel_mult=(1,), attention_px=(), patch_px=2
    )
    wider = dataclasses.replace(config, inpaint=True)
    fns, draws = build.make_denoiser(config), np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.1 * draws.standard_normal(leaf.shape, np.float32),
        build.abstract_params(config),
    )
    text = fns.encode(params, *golden_models.caption())
    x_t = golden_models.inputs(f"x{config.image_px}")
    timesteps = golden_models.inputs("timesteps", np.int32)
    given = golden_models.pictures("upsample")
    before = jax.jit(fns.denoise)(params, x_t, timesteps, text, **given)
    grown, _ = extend.extend(params, config, wider)
    known = golden_models.pictures("upsample-inpaint")
    after = build.make_denoiser(wider).denoise(grown, x_t, timesteps, text, **known)
    assert golden_models.error(after, before) < 1e-5


@pytest.mark.parametrize("make", [presets.base, presets.upsampler])
def test_an_extended_stem_of_released_size_computes_the_same(make):
    config, wider = make("released"), make("released", inpaint=True)
    rng = np.random.default_rng(0)
    # All but the stem is passed on untouched, so it needs no values.
    params = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape),
        build.abstract_params(config),
    )
    kernel = rng.standard_normal(params["unet"]["stem"]["kernel"].shape)
    params["unet"]["stem"]["kernel"] = kernel.astype(np.float32)
    grown, paths = extend.extend(params, config, wider)
    before, after = jax.tree.leaves(params), jax.tree.leaves(grown)
    assert sum(a is not b for a, b in zip(before, after, strict=True)) == len(paths)

    def stem(tree, *pictures):
        x = np.concatenate(pictures, axis=-1)
        kernel = tree["unet"]["stem"]["kernel"]
        axes = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", None, None, axes)

    x_t, image, low_res = rng.standard_normal((3, 1, 32, 32, 3)).astype(np.float32)
    last = [low_res] if config.low_res_px else []
    expected = stem(params, x_t, *last)
    for known in (0.0, 0.5, 1.0):
        mask = (rng.random((1, 32, 32, 1)) < known).astype(np.float32)
        actual = stem(grown, x_t, 100 * image * mask, mask, *last)
        # Zeros add nothing, but the wider convolution may sum in another order.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_extended_params_have_the_shapes_of_the_wider_model():
    config = golden_models.CONFIGS["upsample"]
    wider = golden_models.CONFIGS["upsample-inpaint"]
    grown, _ = extend.extend(golden_models.params("upsample"), config, wider)
    expected = build.abstract_params(wider)
    assert jax.tree.map(np.shape, grown) == jax.tree.map(np.shape, expected)


def test_extending_between_equal_models_changes_nothing():
    params = golden_models.params("base")
    other = dataclasses.replace(golden_models.BASE, dropout_prob=0.1)
    grown, paths = extend.extend(params, golden_models.BASE, other)
    assert grown is params
    assert paths == []


def test_other_differences_are_errors_that_name_the_fields():
    wider = dataclasses.replace(golden_models.BASE, inpaint=True, text_layers=3)
    with pytest.raises(UserError, match="text_layers 2 -> 3"):
        extend.extend(golden_models.params("base"), golden_models.BASE, wider)


def test_removing_inpaint_is_an_error():
    wider = golden_models.CONFIGS["base-inpaint"]
    with pytest.raises(UserError, match="inpaint=True"):
        extend.extend(golden_models.params("base-inpaint"), wider, golden_models.BASE)
