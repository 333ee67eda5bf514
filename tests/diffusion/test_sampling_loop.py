"""Step rules fed from recorded network outputs, and laws of the sampling loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax import errors
from glide_jax.diffusion import (
    inpainting,
    process,
    respacing,
    samplers,
    sampling_loop,
    single_step,
)

# Step rules in float32 (golden/README: 1e-5 of the largest value).
STEP_TOLERANCE = 1e-5

RUNS = {
    "ddpm": single_step.ddpm_step,
    "ddim_eta0": single_step.ddim_step,
    "ddim_eta0.7": functools.partial(single_step.ddim_step, eta=0.7),
    "cfg3_ddpm": single_step.ddpm_step,
    "cfg3_ddim": single_step.ddim_step,
    "clip3_ddpm": single_step.ddpm_step,
    "clip3_ddim": single_step.ddim_step,
    "inpaint_cfg5_ddpm": single_step.ddpm_step,
}


def _normal(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def tables():
    return respacing.respaced_tables("squaredcos_cap_v2", 1000, "8")


@pytest.fixture(scope="module")
def toy_denoise():
    """A fixed 1x1 linear network that also feels its timestep."""
    weights = 0.3 * _normal(7, 3, 6)

    def denoise(x_t, timesteps):
        scale = 1 + timesteps[:, None, None, None] / 1000
        return jnp.tanh(scale * (x_t @ weights))

    return denoise


def _run(tiny, name):
    prefix = f"sample/{name}/"
    return {
        key.removeprefix(prefix): array
        for key, array in tiny.items()
        if key.startswith(prefix)
    }


def _pin(tiny, name, batch):
    """The inpainting run pins its known pixels, in both halves of its batch."""
    if not name.startswith("inpaint"):
        return None
    image, mask = (
        np.tile(tiny[key], (batch // 2, 1, 1, 1)) for key in ("in/image16", "in/mask16")
    )
    return functools.partial(inpainting.project, inpaint_image=image, inpaint_mask=mask)


@pytest.mark.parametrize("name", RUNS)
def test_every_step_equals_the_reference(tiny, tables, assert_within, name):
    run = _run(tiny, name)
    batch = run["x_T"].shape[0]
    # Not jitted: fused operations round differently, and noisy steps amplify that.
    for i, t in enumerate(range(7, -1, -1)):
        gradient = run["guidance_gradient"][i] if "guidance_gradient" in run else None
        assert tables.timesteps[t] == run["timesteps"][i]
        step = RUNS[name](
            tables,
            run["model_output"][i],
            run["samples"][i - 1] if i else run["x_T"],
            np.full(batch, t, np.int32),
            run["noise"][i],
            gradient=gradient,
            denoised_fn=_pin(tiny, name, batch),
        )
        assert_within(step.x_prev, run["samples"][i], STEP_TOLERANCE)
        # The reference reports the image after a score shift, before a mean shift.
        assert_within(step.pred_x_start, run["pred_x_start"][i], STEP_TOLERANCE)


def test_every_reverse_step_equals_the_reference(tiny, tables, assert_within):
    run = _run(tiny, "ddim_reverse")
    x_t, take_step = run["x_start"], jax.jit(single_step.ddim_reverse_step)
    for i, expected in enumerate(run["samples"]):
        t = np.full(2, i, np.int32)
        step = take_step(tables, run["model_output"][i], x_t, t)
        assert_within(step.x_next, expected, STEP_TOLERANCE)
        x_t = expected


def test_the_upsampler_walks_fast27_and_lands_on_its_last_estimate(tiny, assert_within):
    run = _run(tiny, "upsample_fast27_ddim")
    tables = respacing.respaced_tables("linear", 1000, "fast27")
    np.testing.assert_array_equal(tables.timesteps[::-1], run["timesteps"])
    x_t, t = run["samples"][-2], np.zeros(2, np.int32)
    eps = process.predict_eps(tables, x_t, t, run["pred_x_start"][-1])
    step = single_step.ddim_step(tables, np.concatenate([eps, eps], -1), x_t, t, x_t)
    assert_within(step.x_prev, run["samples"][-1], STEP_TOLERANCE)


def test_ddim_reverse_undoes_ddim(tables):
    """Up and down again under one eps: both explain x_t by the same pair."""
    x_t, t = 0.5 * _normal(0, 2, 4, 4, 3), np.full(2, 2, np.int32)
    output = _normal(1, 2, 4, 4, 6)
    up = single_step.ddim_reverse_step(tables, output, x_t, t, clip_denoised=False)
    down = single_step.ddim_step(
        tables, output, up.x_next, t + 1, x_t, clip_denoised=False
    )
    # Float32 through 1 / sqrt(A_3) of about 1.3.
    np.testing.assert_allclose(down.x_prev, x_t, atol=1e-5)


def test_ddim_with_eta_0_ignores_the_noise(tables):
    x_t, output = _normal(0, 2, 4, 4, 3), _normal(1, 2, 4, 4, 6)
    t = np.array([3, 7], np.int32)
    steps = [
        single_step.ddim_step(tables, output, x_t, t, _normal(seed, 2, 4, 4, 3)).x_prev
        for seed in (2, 3)
    ]
    np.testing.assert_array_equal(*steps)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_ddim_with_eta_1_is_finite_at_every_step(schedule):
    tables = respacing.respaced_tables(schedule, 1000, "")
    x_t, t = _normal(0, 1000, 1, 1, 3), np.arange(1000)
    output = _normal(1, 1000, 1, 1, 6)
    out = jax.jit(single_step.ddim_step)(tables, output, x_t, t, x_t, eta=1.0)
    assert np.isfinite(out.x_prev).all()


def test_ddim_with_eta_1_has_the_posterior_variance(tables):
    """2010.02502, section 4.1: eta = 1 is DDPM with the smaller fixed variance."""
    x_t, output = _normal(0, 2, 4, 4, 3), _normal(1, 2, 4, 4, 6)
    t, zero = np.array([3, 6], np.int32), np.zeros_like(x_t)
    still = single_step.ddim_step(tables, output, x_t, t, zero, eta=1.0)
    moved = single_step.ddim_step(tables, output, x_t, t, zero + 1, eta=1.0)
    variance = process.gather(tables.posterior_variance, t)
    # The noise is the difference of two float32 images of magnitude 2.
    np.testing.assert_allclose(
        (moved.x_prev - still.x_prev) ** 2 - variance, 0, atol=2e-6
    )
    out = process.p_mean_variance(tables, output, x_t, t)
    np.testing.assert_allclose(still.x_prev, out.mean, atol=1e-5)


@pytest.mark.parametrize("rule", ["ddpm", "ddim"])
def test_the_loop_is_its_step_from_the_last_index_to_0(
    tables, toy_denoise, image_keys, assert_within, rule
):
    keys, seen = image_keys(2), []
    x_init = sampling_loop.initial_noise(keys, (4, 4, 3))
    step_fn = {"ddpm": single_step.ddpm_step, "ddim": single_step.ddim_step}[rule]
    options = {"eta": 0.5} if rule == "ddim" else {}
    x_t = x_init
    for index in range(7, -1, -1):
        t = jnp.full(2, index, jnp.int32)
        timesteps = tables.timesteps[t]
        seen.append(int(timesteps[0]))
        noise = sampling_loop.step_noise(keys, t, (4, 4, 3))
        gradient = 0.1 * x_t
        x_t = step_fn(
            tables,
            toy_denoise(x_t, timesteps),
            x_t,
            t,
            noise,
            gradient=gradient,
            **options,
        ).x_prev
    assert seen == respacing.kept_timesteps(1000, "8")[::-1].tolist()
    looped = sampling_loop.sample_loop(
        toy_denoise,
        tables,
        x_init,
        keys,
        rule=rule,
        gradient_fn=lambda x_t, timesteps: 0.1 * x_t,
        **options,
    )
    # Fused and unfused float32 differ by rounding, amplified on the noisy steps.
    assert_within(looped, x_t, 1e-4)


@pytest.mark.parametrize("rule", samplers.SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(tables, toy_denoise, image_keys, rule):
    def sample(keys):
        x_init = sampling_loop.initial_noise(keys, (4, 4, 3))
        return sampling_loop.sample_loop(
            toy_denoise, tables, x_init, keys, rule=rule, eta=1.0
        )

    # Noise is equal bit for bit; the network's matmul may round by batch size.
    batch = sample(image_keys(3))
    np.testing.assert_allclose(sample(image_keys(3)[1:2]), batch[1:2], atol=1e-5)
    assert np.abs(batch[0] - batch[1]).max() > 0.1


def test_noise_is_keyed_by_image_and_step(image_keys):
    keys = image_keys(3)
    noise = sampling_loop.step_noise(keys, jnp.array([4, 4, 4]), (4, 4, 3))
    alone = sampling_loop.step_noise(keys[1:2], jnp.array([4]), (4, 4, 3))
    np.testing.assert_array_equal(noise[1:2], alone)
    other = sampling_loop.step_noise(keys, jnp.array([3, 3, 3]), (4, 4, 3))
    first = sampling_loop.initial_noise(keys, (4, 4, 3))
    for one, two in [(noise, other), (noise, first), (noise[0], noise[1])]:
        assert np.abs(one - two).max() > 0.1


def test_a_scale_multiplies_the_starting_noise(image_keys):
    plain = sampling_loop.initial_noise(image_keys(2), (4, 4, 3))
    cooled = sampling_loop.initial_noise(image_keys(2), (4, 4, 3), 0.997)
    np.testing.assert_array_equal(cooled, np.float32(0.997) * plain)


def test_one_compilation_serves_every_eta(tables, toy_denoise, image_keys):
    keys, traces = image_keys(1), []

    @jax.jit
    def sample(eta):
        traces.append(eta)
        x_init = sampling_loop.initial_noise(keys, (4, 4, 3))
        return sampling_loop.sample_loop(
            toy_denoise, tables, x_init, keys, rule="ddim", eta=eta
        )

    images = [sample(jnp.float32(eta)) for eta in (0.0, 0.5, 1.0)]
    assert len(traces) == 1
    assert np.abs(images[0] - images[2]).max() > 1e-3


@pytest.mark.parametrize("rule", samplers.SAMPLERS)
def test_no_steps_return_the_start(tables, toy_denoise, image_keys, rule):
    x_init = _normal(0, 2, 4, 4, 3)
    out = sampling_loop.sample_loop(
        toy_denoise, tables, x_init, image_keys(2), rule=rule, num_steps=0
    )
    np.testing.assert_array_equal(out, x_init)


@pytest.mark.parametrize("rule", samplers.SAMPLERS)
def test_one_compilation_serves_every_number_of_steps(
    tables, toy_denoise, image_keys, rule
):
    keys, traces, x_init = image_keys(1), [], _normal(0, 1, 4, 4, 3)

    @jax.jit
    def sample(num_steps):
        traces.append(num_steps)
        return sampling_loop.sample_loop(
            toy_denoise, tables, x_init, keys, rule=rule, num_steps=num_steps
        )

    images = [sample(jnp.int32(num_steps)) for num_steps in (0, 3, 8, 9)]
    assert len(traces) == 1
    np.testing.assert_array_equal(images[0], x_init)
    assert np.abs(images[1] - images[2]).max() > 1e-3
    # More than there are is all of them.
    np.testing.assert_array_equal(images[2], images[3])
    whole = sampling_loop.sample_loop(toy_denoise, tables, x_init, keys, rule=rule)
    # Another program, so another order of rounding, through gains of up to 50.
    np.testing.assert_allclose(images[2], whole, atol=1e-5)


@pytest.mark.parametrize("rule", ["ddpm", "ddim"])
def test_a_run_started_in_the_middle_is_the_tail_of_the_whole_one(
    tables, toy_denoise, image_keys, rule
):
    keys, passed = image_keys(2), {}

    def record(x_prev, t):
        jax.debug.callback(lambda x, t: passed.setdefault(int(t[0]), x), x_prev, t)
        return x_prev

    @jax.jit
    def sample(x_init, num_steps):
        return sampling_loop.sample_loop(
            toy_denoise,
            tables,
            x_init,
            keys,
            rule=rule,
            eta=0.5,
            num_steps=num_steps,
            after_step=record,
        )

    whole = sample(sampling_loop.initial_noise(keys, (4, 4, 3)), 8)
    jax.effects_barrier()
    assert sorted(passed) == list(range(8))
    np.testing.assert_array_equal(passed[0], whole)
    np.testing.assert_array_equal(sample(passed[5], 5), whole)


def test_what_happens_after_a_step_enters_the_next(tables, toy_denoise, image_keys):
    x_init, seen = _normal(0, 1, 4, 4, 3), []

    def denoise(x_t, timesteps):
        jax.debug.callback(lambda x: seen.append(x), x_t)
        return toy_denoise(x_t, timesteps)

    out = sampling_loop.sample_loop(
        denoise,
        tables,
        x_init,
        image_keys(1),
        rule="ddim",
        num_steps=2,
        after_step=lambda x_prev, t: x_prev * 0 + t[:, None, None, None],
    )
    jax.effects_barrier()
    np.testing.assert_array_equal(seen[1], np.ones_like(x_init))
    np.testing.assert_array_equal(out, np.zeros_like(x_init))


def test_an_unknown_rule_names_the_known_ones(tables, toy_denoise, image_keys):
    with pytest.raises(errors.UserError, match=", ".join(samplers.SAMPLERS)):
        sampling_loop.sample_loop(
            toy_denoise, tables, _normal(0, 1, 4, 4, 3), image_keys(1), rule="euler"
        )


@pytest.mark.parametrize("rule", samplers.SAMPLERS)
def test_calls_per_step_counts_the_networks_evaluations(
    rule, tables, toy_denoise, image_keys
):
    calls = []

    def denoise(x_t, timesteps):
        calls.append(rule)
        return toy_denoise(x_t, timesteps)

    # The loop's body is traced once.
    sampling_loop.sample_loop(
        denoise, tables, _normal(0, 1, 4, 4, 3), image_keys(1), rule=rule
    )
    assert len(calls) == samplers.SAMPLERS[rule].calls_per_step
