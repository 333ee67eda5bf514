"""What is drawn for an example, and what is asked of the model."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.diffusion import process, schedules, timestep_sampling
from glide_jax.models import build
from glide_jax.runtime import random_streams
from glide_jax.train import objectives, step
from tests.train.small_runs import CLIP, make_batch

PAD = 7


def keys(rows: int, stream: str = "caption_drop"):
    return random_streams.example_keys(0, stream, 0, jnp.arange(rows))


def random_params(init):
    """Weights without the zeros of initialisation, which would hide the inputs."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes
    )


def compile_loss(objective):
    """(params, batch, step) -> (loss, Aux), compiled once for every call."""

    def loss(params, batch, step):
        def keys_of(stream):
            return random_streams.example_keys(0, stream, step, batch["example_index"])

        return objective.loss(params, batch, keys_of, {})

    return jax.jit(loss)


def test_captions_are_dropped_at_the_rate_asked_for_and_wholly():
    batch = make_batch(rows=4000)
    tokens, text_mask = objectives.drop_captions(
        keys(4000), batch["tokens"], batch["text_mask"], pad_id=PAD, prob=0.2
    )
    is_dropped = np.all(np.asarray(tokens) == PAD, axis=1)
    # 0.2 +- 5 standard deviations of a Bernoulli mean over 4000 draws.
    assert abs(is_dropped.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 4000)
    assert not np.asarray(text_mask)[is_dropped].any()
    np.testing.assert_array_equal(tokens[~is_dropped], batch["tokens"][~is_dropped])
    np.testing.assert_array_equal(
        text_mask[~is_dropped], batch["text_mask"][~is_dropped]
    )


def test_whether_a_caption_is_dropped_belongs_to_its_row():
    batch = make_batch(rows=64)
    drop = functools.partial(objectives.drop_captions, pad_id=PAD, prob=0.5)
    whole, _ = drop(keys(64), batch["tokens"], batch["text_mask"])
    part, _ = drop(keys(64)[40:], batch["tokens"][40:], batch["text_mask"][40:])
    np.testing.assert_array_equal(whole[40:], part)


@pytest.mark.parametrize(("prob", "kept"), [(0.0, True), (1.0, False)])
def test_the_ends_of_caption_drop_are_exact(prob, kept):
    batch = make_batch(rows=32)
    _, text_mask = objectives.drop_captions(
        keys(32), batch["tokens"], batch["text_mask"], pad_id=PAD, prob=prob
    )
    np.testing.assert_array_equal(text_mask, batch["text_mask"] & kept)


def test_validation_keeps_captions_spreads_timesteps_and_repeats_itself(make_config):
    config = make_config(changes={"train.caption_drop_prob": 1.0})
    objective = objectives.make_objective(config, PAD, is_training=False)
    params = random_params(objective.init)
    evaluate = jax.jit(step.make_eval_step(config, objective))
    batch = make_batch()
    first, again = evaluate(params, batch, 0), evaluate(params, batch, 0)
    assert first["loss"] == again["loss"]
    # One timestep in the middle of each eighth of the chain: two in each quartile.
    assert [float(first[f"loss_q{i}"][1]) for i in range(4)] == [2.0] * 4
    quartiles = sum(float(first[f"loss_q{i}"][0]) for i in range(4))
    np.testing.assert_allclose(quartiles, float(first["loss"][0]), rtol=1e-5)
    other = evaluate(params, {**batch, "tokens": batch["tokens"][::-1]}, 0)
    assert first["loss"] != other["loss"], "the caption was dropped"


def test_an_initial_residual_upsampler_has_the_error_of_the_enlarged_picture(
    make_config,
):
    batch = make_batch()
    batch["low_res"] = batch["image"].reshape(8, 4, 2, 4, 2, 3).mean((2, 4))
    enlarged = jax.image.resize(batch["low_res"], (8, 8, 8, 3), "bilinear")
    for is_residual in (False, True):
        changes = {
            "model.low_res_px": 4,
            "model.residual_low_res": is_residual,
            "diffusion.prediction": "x",
        }
        objective = objectives.make_objective(make_config(changes=changes), PAD)
        params = objective.init(jax.random.key(0))
        _, aux = compile_loss(objective)(params, batch, 0)
        total, count = aux.metrics["mse"]
        expected = np.mean((batch["image"] - enlarged * is_residual) ** 2)
        np.testing.assert_allclose(total / count, expected, rtol=1e-5)


def test_training_drops_the_caption_from_what_the_model_sees(make_config):
    config = make_config(changes={"train.caption_drop_prob": 1.0})
    objective = objectives.make_objective(config, PAD)
    params = random_params(objective.init)
    batch = make_batch()
    other = {**batch, "tokens": batch["tokens"][::-1]}
    loss_of = compile_loss(objective)
    loss, aux = loss_of(params, batch, 0)
    assert loss == loss_of(params, other, 0)[0]
    assert loss == jnp.mean(aux.losses)


def test_every_draw_changes_with_the_step_and_not_with_the_call(make_config):
    objective = objectives.make_objective(make_config(CLIP), PAD)
    params = random_params(objective.init)
    batch = make_batch()
    loss_of = compile_loss(objective)
    first, again, later = (loss_of(params, batch, step)[1] for step in (1, 1, 2))
    np.testing.assert_array_equal(first.losses, again.losses)
    assert not np.array_equal(first.t, later.t)


def test_power_sampling_visits_high_noise_more_and_is_not_corrected_for(make_config):
    changes = {"train.timestep_sampling": "power", "train.timestep_power": 2.0}
    config = make_config(changes=changes)
    steps = config.diffusion.num_timesteps
    draw = objectives._make_timestep_draw(config, True, steps)
    t, weights = draw(keys(4000, "timestep"), jnp.arange(4000), {})
    # p(t) rises as t^2, so the mean of t / T is 3 / 4; its deviation is below 0.2.
    assert abs(float(jnp.mean(t)) / 1000 - 0.75) < 5 * 0.2 / np.sqrt(4000)
    np.testing.assert_array_equal(weights, 1.0)


def test_sampling_by_loss_is_corrected_for_once_every_timestep_has_its_history(
    make_config,
):
    changes = {
        "train.timestep_sampling": "loss_second_moment",
        "diffusion.num_timesteps": 4,
    }
    config = make_config(changes=changes)
    steps = config.diffusion.num_timesteps
    draw = objectives._make_timestep_draw(config, True, steps)
    empty = timestep_sampling.init_loss_second_moment(4)
    _, weights = draw(keys(8, "timestep"), jnp.arange(8), empty)
    np.testing.assert_allclose(weights, 1.0, rtol=1e-6)
    root = np.array([0.0, 1.0, 2.0, 5.0], np.float32)
    history = jnp.array(root)[:, None] * jnp.ones(10)
    full = timestep_sampling.LossSecondMoment(history, jnp.full(4, 10, jnp.int32))
    t, weights = draw(keys(4000, "timestep"), jnp.arange(4000), full)
    share = np.bincount(t, minlength=4) / 4000
    # 5 standard deviations of a share of one half over 4000 draws.
    np.testing.assert_allclose(share, root / 8, atol=5 * 0.5 / np.sqrt(4000))
    # Weight times probability is 1 / T; one draw in a thousand is uniform.
    is_likely = t > 0
    np.testing.assert_allclose(
        weights[is_likely] * root[t[is_likely]] / 8, 1 / 4, rtol=2e-3
    )


def test_the_contrastive_loss_is_that_of_the_whole_batch_both_ways(make_config):
    config = make_config(CLIP)
    objective = objectives.make_objective(config, PAD)
    params = random_params(objective.init) | {"logit_scale": np.float32(1.5)}
    batch = make_batch()
    loss, aux = compile_loss(objective)(params, batch, 0)

    fns = build.make_clip(config.model)
    tables = process.make_tables(schedules.make_betas("squaredcos_cap_v2", 1000))
    noise = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 3)))(keys(8, "noise"))
    x_t = process.q_sample(tables, batch["image"], aux.t, noise)
    images, texts = jax.jit(
        lambda p: (
            fns.encode_image(p, x_t, aux.t),
            fns.encode_text(p, batch["tokens"], batch["text_mask"]),
        )
    )(params)
    images, texts = (np.asarray(f, np.float64) for f in (images, texts))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    logits = np.exp(1.5) * images @ texts.T
    rows = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(axis=0)) - np.diag(logits)
    # float32 towers against float64 cross-entropies.
    np.testing.assert_allclose(aux.losses, (rows + columns) / 2, rtol=1e-4)
    np.testing.assert_allclose(loss, np.mean(rows + columns) / 2, rtol=1e-5)
    hits = (np.argmax(logits, axis=1) == np.arange(8)).sum()
    assert float(aux.metrics["accuracy"][0]) == hits


def test_the_logit_scale_is_kept_at_or_below_a_hundred(make_config):
    objective = objectives.make_objective(make_config(CLIP), PAD)
    for before, after in ((9.0, np.log(100.0)), (4.0, 4.0)):
        found = objective.constrain_params({"logit_scale": jnp.float32(before)})
        np.testing.assert_allclose(found["logit_scale"], after, rtol=1e-6)
