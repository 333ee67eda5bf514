"""What a network predicts: every reading of its output gives the same x and eps."""

import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.diffusion import (
    distillation,
    guidance,
    losses,
    process,
    respacing,
    single_step,
)
from glide_jax.errors import UserError

SCHEDULES = ("squaredcos_cap_v2", "linear")
TIMESTEPS = np.array([0, 1, 250, 700, 999], np.int32)


def draw(seed, shape=(5, 4, 4, 3)):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def make_tables(schedule, prediction, spec=""):
    return respacing.respaced_tables(schedule, 1000, spec, prediction=prediction)


def as_output(tables, x_start, eps, t, variance):
    """The output with which a network predicts x_start and eps."""
    if tables.prediction == "eps":
        return jnp.concatenate([eps, variance], axis=-1)
    if tables.prediction == "x_and_eps":
        return jnp.concatenate([eps, x_start], axis=-1)
    if tables.prediction == "x":
        return jnp.concatenate([x_start, variance], axis=-1)
    alpha = process.gather(tables.sqrt_alphas_cumprod, t)
    sigma = process.gather(tables.sqrt_one_minus_alphas_cumprod, t)
    return jnp.concatenate([alpha * eps - sigma * x_start, variance], axis=-1)


@pytest.fixture(params=SCHEDULES)
def made(request):
    """Schedule, x_start, eps, and the x_t that they make."""
    tables = make_tables(request.param, "eps")
    x_start, eps = jnp.tanh(draw(1)), draw(2)
    return (
        request.param,
        x_start,
        eps,
        process.q_sample(tables, x_start, TIMESTEPS, eps),
    )


@pytest.mark.parametrize("prediction", process.PREDICTIONS)
def test_every_prediction_gives_the_x_and_eps_that_it_was_made_from(made, prediction):
    schedule, x_start, eps, x_t = made
    tables = make_tables(schedule, prediction)
    output = as_output(tables, x_start, eps, TIMESTEPS, draw(3))
    found = process.predict(tables, output, x_t, TIMESTEPS)
    # Of x alone, a rounding error reaches eps times 90 at the clean end.
    np.testing.assert_allclose(found.eps, eps, atol=1e-4 if prediction == "x" else 1e-5)
    # Of eps alone, a rounding error reaches x_start times 2e4 at the noisy end.
    atol = 1e-5
    if prediction == "eps":
        worst = process.gather(tables.sqrt_recipm1_alphas_cumprod, TIMESTEPS)
        atol = 1e-5 * np.maximum(1, np.asarray(worst))
    assert np.all(np.abs(np.asarray(found.x_start - x_start)) <= atol)


@pytest.mark.parametrize("prediction", ["v", "x", "x_and_eps"])
def test_predicted_x_and_eps_add_up_to_x_t(made, prediction):
    schedule, _, _, x_t = made
    tables = make_tables(schedule, prediction)
    found = process.predict(tables, draw(4, (5, 4, 4, 6)), x_t, TIMESTEPS)
    again = process.q_sample(tables, found.x_start, TIMESTEPS, found.eps)
    np.testing.assert_allclose(again, x_t, atol=1e-5)


def test_v_is_eps_at_the_clean_end_and_minus_x_at_the_noisy_end(made):
    schedule, x_start, eps, _ = made
    tables = make_tables(schedule, "v")
    first, last = as_output(tables, x_start, eps, TIMESTEPS, eps)[..., :3][
        np.array([0, -1])
    ]
    np.testing.assert_allclose(first, eps[0], atol=0.03)
    np.testing.assert_allclose(last, -x_start[-1], atol=0.03)


def test_guidance_and_a_step_are_the_same_for_every_prediction(made):
    schedule, x_start, eps, x_t = made
    inner = slice(1, 4)  # where eps alone gives an accurate x_start
    found = {}
    for prediction in process.PREDICTIONS:
        tables, t = make_tables(schedule, prediction), TIMESTEPS[inner]
        # Both rows are at the same x_t: another x_start has another eps.
        other = 0.5 * x_start[inner]
        other_eps = process.predict_eps(tables, x_t[inner], t, other)
        cond = as_output(tables, x_start[inner], eps[inner], t, draw(5)[inner])
        uncond = as_output(tables, other, other_eps, t, draw(6)[inner])
        guided = guidance.classifier_free(cond, uncond, 3.0, prediction=prediction)
        step = single_step.ddim_step(tables, guided, x_t[inner], t, 0 * x_t[inner])
        found[prediction] = step.x_prev
    for prediction in ("v", "x", "x_and_eps"):
        np.testing.assert_allclose(found[prediction], found["eps"], atol=2e-4)


def test_losses_of_v_are_those_of_its_target():
    tables, t = make_tables("linear", "v"), TIMESTEPS
    x_start, eps = jnp.tanh(draw(1)), draw(2)
    x_t = process.q_sample(tables, x_start, t, eps)
    right = as_output(tables, x_start, eps, t, jnp.zeros_like(eps))
    terms = losses.training_losses(tables, right, x_start, x_t, eps, t)
    np.testing.assert_allclose(terms["mse"], 0, atol=1e-10)
    wrong = right.at[..., :3].add(0.5)
    terms = losses.training_losses(tables, wrong, x_start, x_t, eps, t)
    np.testing.assert_allclose(terms["mse"], 0.25, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["v", "x", "x_and_eps"])
def test_the_truncated_loss_is_the_larger_error(made, prediction):
    schedule, x_start, eps, x_t = made
    tables = make_tables(schedule, prediction)
    output = draw(7, (5, 4, 4, 6))
    terms = losses.training_losses(
        tables, output, x_start, x_t, eps, TIMESTEPS, loss_type="truncated_snr"
    )
    found = process.predict(tables, output, x_t, TIMESTEPS)
    x_mse = jnp.mean(jnp.square(found.x_start - x_start), axis=(1, 2, 3))
    eps_mse = jnp.mean(jnp.square(found.eps - eps), axis=(1, 2, 3))
    np.testing.assert_allclose(terms["x_mse"], x_mse, rtol=1e-4)
    # x and eps determine each other, so both errors are those of the equation.
    np.testing.assert_allclose(
        terms["loss"], jnp.maximum(x_mse, eps_mse), rtol=2e-2, atol=1e-6
    )


def test_a_network_of_x_and_eps_has_no_variance():
    tables = make_tables("linear", "x_and_eps")
    with pytest.raises(ValueError, match="variance"):
        process.p_mean_variance(tables, draw(1, (5, 4, 4, 6)), draw(2), TIMESTEPS)
    with pytest.raises(UserError, match="x_or_eps"):
        make_tables("linear", "x_or_eps")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", ["eps", "x_and_eps"])
def test_one_step_of_a_perfect_student_leads_where_two_of_its_teacher_lead(
    schedule, prediction
):
    teacher = make_tables(schedule, prediction, "grid8")
    student = make_tables(schedule, "x_and_eps", "grid4")
    t = np.arange(4, dtype=np.int32)
    np.testing.assert_array_equal(student.timesteps, teacher.timesteps[2 * t + 1])
    x_t = draw(1, (4, 4, 4, 3))

    def denoise(images, timesteps):
        # Any function will do.
        level = timesteps[:, None, None, None] / 1000
        return jnp.concatenate([jnp.tanh(images) * level, 0.3 * images], axis=-1)

    clean = 0.1 * draw(8, x_t.shape)
    expected = x_t
    for index in (2 * t + 1, 2 * t):
        # The clean picture takes the place of an x_start that eps does not determine.
        is_noisy = np.asarray(teacher.alphas_cumprod)[index] < 1 / 101
        is_replaced = (is_noisy & (prediction == "eps"))[:, None, None, None]
        output = denoise(expected, teacher.timesteps[index])
        expected = single_step.ddim_step(
            *(teacher, output, expected, index, 0 * x_t),
            denoised_fn=lambda x, where=is_replaced: jnp.where(where, clean, x),
        ).x_prev
    target = distillation.halved_target(denoise, teacher, x_t, t, clean)
    eps = process.predict_eps(student, x_t, t, target)
    output = jnp.concatenate([eps, target], axis=-1)
    reached = single_step.ddim_step(
        student, output, x_t, t, 0 * x_t, clip_denoised=False
    ).x_prev
    np.testing.assert_allclose(reached, expected, atol=1e-4)
    # The last step ends at the clean image.
    np.testing.assert_allclose(target[0], expected[0], atol=1e-6)


def test_the_folded_target_is_the_guided_estimate(made):
    schedule, x_start, _, x_t = made
    tables = make_tables(schedule, "v")
    zeros = jnp.zeros_like(x_start)
    rows = [
        as_output(
            tables,
            image,
            process.predict_eps(tables, x_t, TIMESTEPS, image),
            TIMESTEPS,
            zeros,
        )
        for image in (0.2 * x_start, 0.1 * x_start)
    ]
    scale = np.array([1, 2, 3, 4, 5], np.float32)
    target = distillation.folded_target(tables, *rows, x_t, TIMESTEPS, scale)
    expected = (0.1 + 0.1 * scale[:, None, None, None]) * x_start
    np.testing.assert_allclose(target[1:], expected[1:], atol=1e-4)


def test_a_grid_keeps_every_second_timestep_of_the_finer_one():
    assert respacing.kept_timesteps(1000, "grid4").tolist() == [249, 499, 749, 999]
    for count in (1, 2, 3, 7, 16, 64, 500):
        finer = respacing.kept_timesteps(1000, f"grid{2 * count}")
        coarse = respacing.kept_timesteps(1000, f"grid{count}")
        np.testing.assert_array_equal(coarse, finer[1::2])
        assert len(set(finer)) == 2 * count
    with pytest.raises(UserError, match="grid1001"):
        respacing.kept_timesteps(1000, "grid1001")
