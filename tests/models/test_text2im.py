"""Properties of the text-to-image model and its functions."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from glide_jax.errors import UserError
from glide_jax.models import attention, build, layout
from tests.models import golden_models

# Two runs of one network that XLA may fuse differently.
ROUNDING = 1e-5


# One level, every kind of layer: programs compile in a third of the golden ones' time.
SMALL = dataclasses.replace(
    golden_models.BASE,
    image_px=8,
    channel_mult=(1,),
    attention_px=(8,),
    text_layers=1,
)
INPAINT = dataclasses.replace(SMALL, inpaint=True)
KEYS = jax.random.split(jax.random.key(1), 2)


@functools.cache
def _params(config):
    """Golden-like weights: none of the zeros that hide a layer at initialisation."""
    abstract = build.abstract_params(config)
    draws = np.random.RandomState(0)

    def draw(leaf):
        if leaf.ndim < 2:
            return (1 + 0.1 * draws.standard_normal(leaf.shape)).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1])
        return (draws.standard_normal(leaf.shape) / fan_in**0.5).astype(np.float32)

    return jax.tree.map(draw, abstract)


def _inputs():
    x_t = golden_models.inputs("x16")[:, :8, :8]
    return x_t, golden_models.inputs("timesteps", np.int32)


def _known():
    return {
        "inpaint_image": golden_models.inputs("image16")[:, :8, :8],
        "inpaint_mask": golden_models.inputs("mask16")[:, 4:12, 4:12],
    }


@functools.cache
def _fns(config):
    fns = build.make_denoiser(config)
    return jax.jit(fns.encode), jax.jit(fns.denoise)


def _run(config, *, fns=None, **options):
    """model_output on the golden inputs' corner."""
    encode, denoise = fns or _fns(config)
    text = encode(_params(config), *golden_models.caption())
    return np.asarray(denoise(_params(config), *_inputs(), text, **options))


@pytest.mark.parametrize(("prediction", "at"), [("x", 0), ("x_and_eps", 3)])
def test_a_residual_upsampler_adds_the_enlarged_picture_to_x_start(prediction, at):
    plain = dataclasses.replace(SMALL, low_res_px=4)
    residual = dataclasses.replace(plain, residual_low_res=True)
    fns = build.make_denoiser(residual, prediction=prediction)
    low_res = golden_models.inputs("low_res8")[:, :4, :4]
    own = _run(residual, fns=(fns.encode, fns.denoise), low_res=low_res)
    added = own - _run(plain, low_res=low_res)
    enlarged = jax.image.resize(low_res, (len(low_res), 8, 8, 3), "bilinear")
    expected = np.zeros_like(added)
    expected[..., at : at + 3] = enlarged
    np.testing.assert_allclose(added, expected, atol=ROUNDING)


def test_a_residual_upsampler_needs_its_prediction():
    residual = dataclasses.replace(SMALL, low_res_px=4, residual_low_res=True)
    fns = build.make_denoiser(residual)
    low_res = golden_models.inputs("low_res8")[:, :4, :4]
    with pytest.raises(ValueError, match="prediction=''"):
        _run(residual, fns=(fns.encode, fns.denoise), low_res=low_res)


def test_an_initial_model_returns_zero():
    encode, denoise = _fns(SMALL)
    params = build.make_denoiser(SMALL).init(jax.random.key(0))
    text = encode(params, *golden_models.caption())
    out = denoise(params, *_inputs(), text)
    assert out.shape == (2, 8, 8, 6)
    np.testing.assert_array_equal(out, 0)


@pytest.mark.parametrize(
    "dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)]
)
def test_half_precision_returns_float32_close_to_float32(dtype):
    half = dataclasses.replace(SMALL, compute_dtype=dtype)
    fns = build.make_denoiser(half)
    fns = jax.jit(fns.encode), jax.jit(fns.denoise)
    out, expected = _run(SMALL, fns=fns), _run(SMALL)
    assert out.dtype == np.float32
    # bfloat16 keeps 8 bits: 0.4% a layer, over a dozen layers, in the mean.
    assert np.abs(out - expected).mean() < 0.02 * np.abs(expected).mean()


def test_the_channels_of_a_position_are_the_pixels_of_its_patch():
    config = dataclasses.replace(SMALL, patch_px=4, attention_px=(), norm_groups=1)
    params = _params(config)
    last = params["unet"]["conv_out"]
    last["kernel"] = np.zeros_like(last["kernel"])
    last["bias"] = np.arange(6 * 16, dtype=np.float32)
    encode, denoise = _fns(config)
    text = encode(params, *golden_models.caption())
    output = denoise(params, *_inputs(), text)
    row, column, channel = np.indices((8, 8, 6))
    expected = 16 * channel + 4 * (row % 4) + column % 4
    np.testing.assert_array_equal(output, np.broadcast_to(expected, (2, 8, 8, 6)))


def test_missing_conditions_are_zeros():
    zeros = {name: np.zeros_like(value) for name, value in _known().items()}
    np.testing.assert_array_equal(_run(INPAINT), _run(INPAINT, **zeros))


def test_unknown_pixels_do_not_change_the_result():
    known = _known()
    assert 0 < known["inpaint_mask"].mean() < 1
    hidden = known["inpaint_image"] + 5 * (1 - known["inpaint_mask"])
    out = _run(INPAINT, **{**known, "inpaint_image": hidden})
    np.testing.assert_array_equal(out, _run(INPAINT, **known))
    assert np.abs(out - _run(INPAINT)).max() > 0.01


def test_masked_tokens_do_not_change_the_result():
    encode, _ = _fns(SMALL)
    tokens, text_mask = golden_models.caption()
    assert not text_mask.all()
    before = encode(_params(SMALL), tokens, text_mask)
    after = encode(_params(SMALL), np.where(text_mask, tokens, 5), text_mask)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_there_is_one_keys_values_array_per_attention_block():
    params = golden_models.params("base")
    encode, _ = golden_models.denoiser("base")
    text = encode(params, *golden_models.caption())
    blocks = layout.make_layout(golden_models.BASE).blocks()
    expected = [(2, 12, 2 * spec.channels) for spec in blocks if spec.attention]
    assert [array.shape for array in text.keys_values] == expected


def test_dropout_of_an_example_does_not_depend_on_its_place_in_the_batch():
    dropping = dataclasses.replace(SMALL, dropout_prob=0.3)
    encode, denoise = _fns(dropping)
    params, (x_t, timesteps) = _params(SMALL), _inputs()
    text = encode(params, *golden_models.caption())
    there = denoise(params, x_t, timesteps, text, dropout_keys=KEYS)
    swapped = jax.tree.map(lambda a: a[::-1], text)
    back = denoise(params, x_t[::-1], timesteps[::-1], swapped, dropout_keys=KEYS[::-1])
    assert golden_models.error(back[::-1], there) < ROUNDING
    other_keys = jax.random.split(jax.random.key(2), 2)
    other = denoise(params, x_t, timesteps, text, dropout_keys=other_keys)
    assert golden_models.error(other, there) > 0.01


def test_without_keys_or_without_probability_nothing_is_dropped():
    dropping = dataclasses.replace(SMALL, dropout_prob=0.3)
    expected = _run(SMALL)
    assert golden_models.error(_run(dropping), expected) < ROUNDING
    assert golden_models.error(_run(SMALL, dropout_keys=KEYS), expected) < ROUNDING


def test_every_attention_block_uses_the_given_attention():
    calls = []

    def counting(queries, keys, values):
        calls.append(keys.shape[1] - queries.shape[1])
        return attention.xla_attention(queries, keys, values)

    fns = build.make_denoiser(SMALL, attention=counting)
    out = _run(SMALL, fns=(_fns(SMALL)[0], jax.jit(fns.denoise)))
    assert golden_models.error(out, _run(SMALL)) < ROUNDING
    blocks = layout.make_layout(SMALL).blocks()
    # The caption's 12 keys stand before the pixels' own.
    assert calls == [12] * sum(spec.attention for spec in blocks)


def test_the_constrain_hook_is_called_with_the_batch_axis_first():
    seen = []

    def constrain(x):
        seen.append(x.shape)
        return x

    fns = build.make_denoiser(SMALL, constrain=constrain)
    out = _run(SMALL, fns=(_fns(SMALL)[0], jax.jit(fns.denoise)))
    assert golden_models.error(out, _run(SMALL)) < ROUNDING
    blocks = layout.make_layout(SMALL).blocks()
    # Within blocks as well, where a cut kernel would cut what is computed from it.
    assert {shape[0] for shape in seen} == {2}
    assert seen.count((2, 8, 8, 32)) > 2 * len(blocks)


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (SMALL, {"low_res": np.zeros((2, 4, 4, 3), np.float32)}, "not an upsampler"),
        (SMALL, {"inpaint_mask": np.ones((2, 8, 8, 1), np.float32)}, "inpaint=False"),
        (golden_models.UPSAMPLE, {}, "image_px=32"),
    ],
)
def test_unsupported_conditions_are_errors(config, given, message):
    text = build.TextConditioning(np.zeros((2, 128), np.float32), ())
    denoise = build.make_denoiser(config).denoise
    with pytest.raises(UserError, match=message):
        denoise({}, *_inputs(), text, **given)


def test_low_res_of_another_size_is_an_error():
    x_t = golden_models.inputs("x32")
    text = build.TextConditioning(np.zeros((2, 128), np.float32), ())
    denoise = build.make_denoiser(golden_models.UPSAMPLE).denoise
    timesteps = golden_models.inputs("timesteps", np.int32)
    with pytest.raises(UserError, match="low_res_px=8"):
        denoise({}, x_t, timesteps, text, low_res=x_t)


def test_captions_of_another_length_are_errors():
    tokens = np.zeros((1, 7), np.int32)
    with pytest.raises(UserError, match="text_context=12"):
        build.make_denoiser(SMALL).encode_text({}, tokens, tokens > 0)
