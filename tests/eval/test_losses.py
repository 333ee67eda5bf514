"""Losses of a denoiser by quarter of the noise."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from glide_jax import errors
from glide_jax.config import defaults
from glide_jax.data import shapes_world
from glide_jax.diffusion import losses as diffusion_losses
from glide_jax.diffusion import process, schedules
from glide_jax.eval import losses
from tests.sample.conftest import models, tokenizer  # noqa: F401

SOURCE = shapes_world.ShapesWorld("quickstart", "held_out", length=7)


def measure(model, batch_size=4, count=7, **options):
    return losses.measure(model, SOURCE, count, batch_size=batch_size, **options)


def test_figures_do_not_depend_on_the_batch_size_and_their_parts_add_up(models):  # noqa: F811
    finished = []
    found = measure(models["base"], draws=2, on_batch=finished.append)
    assert finished == [4, 3]
    assert found["losses_count"] == 7
    # float32 sums over 192 numbers of each picture; of the prior little is left.
    other = measure(models["base"], draws=2, batch_size=8)
    assert other == pytest.approx(found, rel=1e-4, abs=1e-6)
    for name in ("loss", "mse"):
        quarters = [found[f"{name}_q{i}"] for i in range(4)]
        assert found[name] == pytest.approx(np.mean(quarters))
    terms = ["q0", "q1", "q2", "q3", "prior"]
    total = sum(found[f"bits_per_dimension_{term}"] for term in terms)
    assert found["bits_per_dimension"] == pytest.approx(total)
    assert found["bits_per_dimension_standard_error"] > 0


@pytest.mark.parametrize("name", ["upsampler", "base_inpaint"])
def test_models_that_read_more_than_noise_are_given_it(models, name):  # noqa: F811
    found = measure(models[name], count=2, draws=1)
    assert np.isfinite(list(found.values())).all()


def test_where_every_timestep_is_drawn_the_sum_is_that_of_the_whole_chain(
    models,  # noqa: F811
):
    # Four timesteps, one in each quarter: nothing is left to chance but the noise.
    diffusion = defaults.DiffusionConfig(num_timesteps=4)
    config = dataclasses.replace(models["base"].config, diffusion=diffusion)
    model = dataclasses.replace(models["base"], config=config)
    found = measure(model, draws=1)
    batch = losses._batch(model, SOURCE, 7, range(7))
    tables = process.make_tables(schedules.make_betas(diffusion.schedule, 4))
    encode, denoise = jax.jit(model.fns.encode), jax.jit(model.fns.denoise)
    text = encode(model.params, batch["tokens"], batch["text_mask"])

    indices = jax.numpy.asarray(batch["example_index"])

    @jax.jit
    def noise_of(t):
        # The draws are numbered as the timesteps are, but the first has two.
        draw = jax.numpy.where(t[0] == 0, 0, 1 + t[0])
        keys = losses._noise_keys(losses._keys(indices, draw))
        return jax.vmap(lambda key: jax.random.normal(key, (8, 8, 3)))(keys)

    expected = diffusion_losses.bits_per_dimension(
        lambda x_t, t: denoise(model.params, x_t, t, text),
        tables,
        batch["image"],
        noise_of,
    )
    # float32, other programs.
    bits = np.asarray(expected["total_bpd"], np.float64).mean()
    assert found["bits_per_dimension"] == pytest.approx(bits, rel=1e-5)
    errors_of_noise = []
    for step in range(4):
        t = jax.numpy.full(7, step)
        noise = noise_of(t)
        x_t = process.q_sample(tables, batch["image"], t, noise)
        output = denoise(model.params, x_t, tables.timesteps[t], text)
        errors_of_noise.append(np.mean((output[..., :3] - noise) ** 2))
    assert found["mse"] == pytest.approx(np.mean(errors_of_noise), rel=1e-4)
    by_step = np.asarray(expected["vb"]).mean(axis=0)[::-1]
    quarters = [found[f"bits_per_dimension_q{i}"] for i in range(4)]
    assert quarters == pytest.approx(list(by_step), rel=1e-4)


def test_a_clip_and_an_empty_source_are_refused(models):  # noqa: F811
    with pytest.raises(errors.UserError, match="is a CLIP, which has no denoising"):
        measure(models["clip"])
    with pytest.raises(errors.UserError, match="has no records"):
        measure(models["base"], count=0)
