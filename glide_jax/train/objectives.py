"""Objectives: denoising for every U-Net, a contrastive loss for the noised CLIP.

An objective is a pure function of parameters, batch and per-example keys. It returns
the scalar to minimise and the run's metrics as (sum, count) pairs, so that means over
steps, devices and timestep quartiles are exact.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from glide_jax import array_types
from glide_jax.config.defaults import Config, NoisedClipConfig, Text2ImConfig
from glide_jax.diffusion import losses, process, schedules, timestep_sampling
from glide_jax.models import build
from glide_jax.train import distilling, teachers, train_state

Batch = Mapping[str, array_types.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]


class Aux(NamedTuple):
    """Auxiliary outputs of a loss: draws and per-example losses, (B,)."""

    t: array_types.Array
    losses: array_types.Array
    metrics: Metrics


class Objective(NamedTuple):
    """`init(key) -> params`; `loss(params, batch, keys_of, resampler) -> (loss, Aux)`.

    The loss of a student has a further argument, `teacher`: the teacher's parameters.

    `keys_of(stream)` gives the (B,) keys of a named stream. `constrain_params` maps
    updated parameters back into their allowed range. A loss that compares examples with
    each other is also given in two halves, None if the loss is a mean over examples:
    `encode(params, batch, keys_of) -> features`, of any part of a batch, and
    `contrast(params, features, batch, keys_of) -> (loss, Aux)`, of the whole.
    """

    init: Callable[..., array_types.Params]
    loss: Callable[..., tuple[jax.Array, Aux]]
    constrain_params: Callable[[array_types.Params], array_types.Params]
    encode: Callable[..., Any] | None = None
    contrast: Callable[..., tuple[jax.Array, Aux]] | None = None

    def with_teacher(self, teacher: array_types.Params | None) -> Objective:
        """The objective of a student whose teacher has these parameters."""
        if teacher is None:
            return self
        return self._replace(loss=functools.partial(self.loss, teacher=teacher))


def make_objective(
    config: Config,
    pad_id: int,
    *,
    is_training: bool = True,
    constrain: Callable[[jax.Array], jax.Array] | None = None,
    attention: Callable[..., jax.Array] | None = None,
    teacher_prediction: str = "",
) -> Objective:
    """Returns the objective of the model's family, see `OBJECTIVES`.

    Without `is_training` no captions are dropped, dropout is off and timesteps are
    evenly spaced over the rows, so that validation losses are comparable. `constrain`
    and `attention` are those of `build.make_denoiser`. `teacher_prediction` is what the
    teacher of a student predicts; "": the same as the student.
    """
    teacher_prediction = teacher_prediction or config.diffusion.prediction
    context = _Context(
        config, pad_id, is_training, constrain, attention, teacher_prediction
    )
    return OBJECTIVES[config.model.family](context)


class _Context(NamedTuple):
    """The arguments of `make_objective`."""

    config: Config
    pad_id: int
    is_training: bool
    constrain: Callable[[jax.Array], jax.Array] | None
    attention: Callable[..., jax.Array] | None
    teacher_prediction: str


def _make_denoising(context: _Context) -> Objective:
    """Predicts the noise of x_t from caption and conditions (arXiv 2112.10741).

    A student (train.teacher) learns from its teacher instead, see `distilling`.
    """
    config, pad_id, is_training, constrain, attention, teacher_prediction = context
    model = config.model
    assert isinstance(model, Text2ImConfig)
    hooks: dict[str, Any] = {
        "constrain": constrain,
        "attention": attention,
        "remat": config.train.remat,
        "remat_text": config.train.remat_text,
    }
    prediction = config.diffusion.prediction
    fns = build.make_denoiser(model, prediction=prediction, **hooks)
    tables, student_loss = _tables(config), None
    if config.train.teacher:
        tables = distilling.student_tables(config)
        student_loss = distilling.make_loss(config, pad_id, teacher_prediction, **hooks)
    draw_t = _make_timestep_draw(config, is_training, tables.num_timesteps)
    drop_prob = config.train.caption_drop_prob if is_training else 0.0
    has_dropout = is_training and model.dropout_prob > 0

    def loss(params, batch, keys_of, resampler, teacher=None):
        tokens, text_mask = batch["tokens"], batch["text_mask"]
        if drop_prob > 0:
            keys = keys_of("caption_drop")
            tokens, text_mask = drop_captions(
                keys, tokens, text_mask, pad_id=pad_id, prob=drop_prob
            )
        x_start = jnp.asarray(batch["image"])
        t, weights = draw_t(keys_of("timestep"), batch["example_index"], resampler)
        noise = _normal(keys_of("noise"), x_start)
        x_t = process.q_sample(tables, x_start, t, noise)
        own = train_state.without_auxiliary(params)
        text = fns.encode(own, tokens, text_mask)
        conditions = {"low_res": batch.get("low_res")}
        if model.inpaint:
            conditions["inpaint_image"] = x_start
            conditions["inpaint_mask"] = batch["inpaint_mask"]
        scale = None
        if model.guidance_range:
            scale = _uniform(keys_of("guidance_scale"), *model.guidance_range)
        model_output = fns.denoise(
            own,
            x_t,
            tables.timesteps[t],
            text,
            guidance_scale=scale,
            dropout_keys=keys_of("dropout") if has_dropout else None,
            **conditions,
        )
        if student_loss is None:
            terms = _loss_terms(config, tables, model_output, x_start, x_t, noise, t)
        else:
            read = x_start, x_t, t, tokens, text_mask, scale, conditions
            examples = distilling.Examples(*read)
            terms = student_loss(params, teacher, model_output, examples, keys_of)
        metrics = {name: _total(terms[name]) for name in terms}
        metrics |= _by_quartile("loss", terms["loss"], t, tables.num_timesteps)
        aux = Aux(t, terms["loss"], metrics)
        return jnp.mean(weights * terms["loss"]), aux

    return Objective(_make_init(config, fns), loss, lambda params: params)


def _make_init(config: Config, fns: build.DenoiserFns) -> Callable:
    """key -> parameters; both of two networks start alike."""
    if not teachers.matches_moments(config):
        return fns.init

    def init(key):
        params = fns.init(key)
        return train_state.with_auxiliary(params, params)

    return init


def _loss_terms(
    config: Config,
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_start: array_types.Image,
    x_t: array_types.Image,
    noise: array_types.Image,
    t: array_types.Timesteps,
) -> dict[str, array_types.PerExample]:
    """The weighted `losses.training_losses`, and those of train.low_pass_factors."""
    terms = losses.training_losses(
        tables,
        model_output,
        x_start,
        x_t,
        noise,
        t,
        loss_type=config.train.loss_type,
    )
    train = config.train
    if train.loss_weighting != "none":
        weights = losses.mse_weights(
            tables, t, train.loss_weighting, train.loss_weighting_snr
        )
        terms |= {"loss": terms["loss"] + (weights - 1) * terms["mse"]}
    for factor in train.low_pass_factors:
        coarse = losses.low_pass_mse(model_output, noise, factor)
        terms |= {"loss": terms["loss"] + coarse, f"mse_{factor}x": coarse}
    return terms


def _make_contrastive(context: _Context) -> Objective:
    config, _, is_training, constrain, *_ = context
    model = config.model
    assert isinstance(model, NoisedClipConfig)
    fns = build.make_clip(
        model,
        constrain=constrain,
        remat=config.train.remat[0],
        remat_text=config.train.remat_text,
    )
    tables = _tables(config)
    draw_t = _make_timestep_draw(config, is_training, tables.num_timesteps)
    rows_on_their_devices = constrain or (lambda x: x)

    def draw(batch, keys_of):
        return draw_t(keys_of("timestep"), batch["example_index"], {})[0]

    def encode(params, batch, keys_of):
        x_start = jnp.asarray(batch["image"])
        t = draw(batch, keys_of)
        x_t = process.q_sample(tables, x_start, t, _normal(keys_of("noise"), x_start))
        images = fns.encode_image(params, x_t, tables.timesteps[t])
        texts = fns.encode_text(params, batch["tokens"], batch["text_mask"])
        return _normalise(images), _normalise(texts)

    def contrast(params, features, batch, keys_of):
        images, texts = features
        t = draw(batch, keys_of)
        scale = fns.logit_scale(params)
        # Every image against every caption of the global batch, in both directions;
        # each device has the rows of its own examples.
        by_image = rows_on_their_devices(scale * images @ texts.T)
        by_text = rows_on_their_devices(scale * texts @ images.T)
        targets = jnp.arange(by_image.shape[0])
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        per_example = 0.5 * (
            cross_entropy(by_image, targets) + cross_entropy(by_text, targets)
        )
        # Every caption with the same words is a positive, whatever its row.
        tokens = jnp.asarray(batch["tokens"])
        is_right = jnp.all(tokens[jnp.argmax(by_image, axis=1)] == tokens, axis=1)
        accuracy = jnp.asarray(is_right, jnp.float32)
        metrics = {
            "loss": _total(per_example),
            "accuracy": _total(accuracy),
            "logit_scale": _total(scale[None]),
        }
        metrics |= _by_quartile("loss", per_example, t, tables.num_timesteps)
        metrics |= _by_quartile("accuracy", accuracy, t, tables.num_timesteps)
        return jnp.mean(per_example), Aux(t, per_example, metrics)

    def loss(params, batch, keys_of, resampler):
        return contrast(params, encode(params, batch, keys_of), batch, keys_of)

    def cap_logit_scale(params):
        # CLIP section 2.5: the scale is kept from growing past 100.
        capped = jnp.minimum(params["logit_scale"], jnp.log(100.0))
        return {**params, "logit_scale": capped}

    return Objective(fns.init, loss, cap_logit_scale, encode, contrast)


# The objective of each model family.
OBJECTIVES: dict[str, Callable[[_Context], Objective]] = {
    "text2im": _make_denoising,
    "noised_clip": _make_contrastive,
}


def drop_captions(
    keys: array_types.PRNGKeys,
    tokens: array_types.Tokens,
    text_mask: array_types.TextMask,
    *,
    pad_id: int,
    prob: float,
) -> tuple[array_types.Tokens, array_types.TextMask]:
    """Replaces each caption by the empty one (padding) with probability `prob`."""
    is_dropped = jax.vmap(lambda key: jax.random.bernoulli(key, prob))(keys)[:, None]
    return (
        jnp.where(is_dropped, jnp.int32(pad_id), tokens),
        jnp.where(is_dropped, False, text_mask),
    )


def _make_timestep_draw(config: Config, is_training: bool, T: int) -> Callable:
    """(keys, rows, resampler) -> (t, weights), both (B,); t below T."""
    sampling, batch = config.train.timestep_sampling, config.train.global_batch_size

    def evenly(keys, rows, resampler):
        t = jnp.asarray((rows % batch + 0.5) / batch * T, jnp.int32)
        return t, jnp.ones(t.shape, jnp.float32)

    def uniformly(keys, rows, resampler):
        return timestep_sampling.uniform(keys, T)

    def by_power(keys, rows, resampler):
        p = timestep_sampling.power_probabilities(T, config.train.timestep_power)
        t, _ = timestep_sampling.draw(keys, p)
        # Intended as a reweighting of the loss, so it is not corrected for.
        return t, jnp.ones(t.shape, jnp.float32)

    def by_loss(keys, rows, resampler):
        p = timestep_sampling.loss_second_moment_probabilities(resampler)
        return timestep_sampling.draw(keys, p)

    if not is_training:
        return evenly
    return {"uniform": uniformly, "power": by_power, "loss_second_moment": by_loss}[
        sampling
    ]


def _tables(config: Config) -> process.DiffusionTables:
    diffusion = config.diffusion
    betas = schedules.make_betas(diffusion.schedule, diffusion.num_timesteps)
    return process.make_tables(betas, prediction=diffusion.prediction)


def _uniform(keys: array_types.PRNGKeys, low: float, high: float) -> jax.Array:
    draw = functools.partial(jax.random.uniform, minval=low, maxval=high)
    return jax.vmap(draw)(keys)


def _normal(keys: array_types.PRNGKeys, like: array_types.Image) -> array_types.Image:
    shape = like.shape[1:]
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def _normalise(features: array_types.Features) -> array_types.Features:
    return features / (jnp.linalg.norm(features, axis=-1, keepdims=True) + 1e-12)


def _total(values: array_types.PerExample) -> tuple[jax.Array, jax.Array]:
    return jnp.sum(values), jnp.float32(values.shape[0])


def _by_quartile(
    name: str,
    values: array_types.PerExample,
    t: array_types.Timesteps,
    num_timesteps: int,
) -> Metrics:
    """`name`_q0 (least noise) to `name`_q3: sums and counts by quartile of t."""
    quartile = 4 * t // num_timesteps
    return {
        f"{name}_q{i}": (
            jnp.sum(jnp.where(quartile == i, values, 0.0)),
            jnp.sum(jnp.asarray(quartile == i, jnp.float32)),
        )
        for i in range(4)
    }
