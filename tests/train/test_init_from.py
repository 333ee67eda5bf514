"""A phase starts with exactly what the phase before it ended with."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from glide_jax.config import resolve
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.text import sentencepiece_tokenizer, tokenizers
from glide_jax.train import export, init_from, setup
from tests.train.small_runs import CLIP, TEXT2IM, assert_trees_equal

INPAINT = dataclasses.replace(TEXT2IM, inpaint=True)


@pytest.fixture(scope="module")
def origin(make_config, tmp_path_factory):
    """A workdir whose averages are no copies of its parameters, and its bundle."""
    workdir = tmp_path_factory.mktemp("origin") / "base"
    run, state = setup.prepare(make_config(), workdir)
    averages = {
        decay: jax.tree.map(lambda leaf, by=float(decay): leaf + by, tree)
        for decay, tree in state.ema_params.items()
    }
    state = dataclasses.replace(state, ema_params=averages, step=state.step + 7)
    run.save(state, 7, {})
    run.checkpoints.close()
    bundle = workdir / "bundle"
    assert export.export(workdir, bundle, dtype="float32") == 7
    return workdir, bundle, averages


@pytest.mark.parametrize("which", [0, 1], ids=["workdir", "bundle"])
def test_a_phase_starts_from_the_first_average_of_another(
    origin, which, make_config, tmp_path
):
    changes = {"train.init_from": str(origin[which]), "optim.learning_rate": 1e-5}
    run, state = setup.prepare(make_config(changes=changes), tmp_path / "next")
    assert_trees_equal(state.params, origin[2]["0.9"])
    for average in state.ema_params.values():
        assert_trees_equal(average, state.params)
    assert int(state.step) == 0, "a phase counts its own steps"
    assert (
        run.tokenizer.digest() == init_from.load(str(origin[which])).tokenizer.digest()
    )


def test_inpainting_channels_grow_from_zero_and_are_named(
    origin, make_config, tmp_path, caplog
):
    workdir, _, averages = origin
    config = make_config(INPAINT, {"train.init_from": str(workdir)})
    with caplog.at_level("INFO"):
        _, state = setup.prepare(config, tmp_path / "next")
    assert "extended: unet/stem/kernel" in caplog.messages
    before = averages["0.9"]["unet"]["stem"]["kernel"]
    after = state.params["unet"]["stem"]["kernel"]
    np.testing.assert_array_equal(after[:, :, :3], before)
    np.testing.assert_array_equal(after[:, :, 3:], 0.0)
    rest = dict(state.params["unet"], stem=averages["0.9"]["unet"]["stem"])
    assert_trees_equal(rest, averages["0.9"]["unet"])


def test_a_run_under_way_does_not_need_its_origin_any_more(
    origin, make_config, tmp_path
):
    copy = shutil.copytree(origin[1], tmp_path / "bundle")
    config = make_config(changes={"train.init_from": str(copy)})
    run, state = setup.prepare(config, tmp_path / "next")
    run.save(state, 3, {})
    run.checkpoints.close()
    shutil.rmtree(copy)
    _, resumed = setup.prepare(config, tmp_path / "next")
    assert_trees_equal(resumed.params, state.params)


@pytest.mark.parametrize("decay", ["0.9", "0.5"])
def test_the_average_that_was_asked_for_is_exported(origin, decay, tmp_path):
    workdir, _, averages = origin
    export.export(workdir, tmp_path / "bundle", decay=decay, dtype="float32")
    found = init_from.load(str(tmp_path / "bundle")).params
    assert_trees_equal(jax.tree.map(np.asarray, averages[decay]), found)
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert f"| average | {decay} |" in card


def test_exporting_an_average_that_is_not_there_names_those_that_are(origin, tmp_path):
    with pytest.raises(UserError, match=r"decay 0\.99 .*: 0\.9, 0\.5"):
        export.export(origin[0], tmp_path / "bundle", decay="0.99")


def test_a_place_without_a_model_is_a_user_error(make_config, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        init_from.load(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a workdir"):
        init_from.load(str(tmp_path / "empty"))


def test_a_workdir_without_a_checkpoint_is_a_user_error(origin, tmp_path):
    fresh = tmp_path / "fresh"
    shutil.copytree(
        origin[0], fresh, ignore=shutil.ignore_patterns("checkpoints", "bundle")
    )
    with pytest.raises(UserError, match="no checkpoint yet"):
        init_from.load(str(fresh))
    assert not (fresh / "checkpoints").exists(), "looking leaves no trace"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (CLIP, "text2im model.* noised_clip model"),
        (dataclasses.replace(TEXT2IM, text_layers=2), "text_layers 1 -> 2"),
    ],
    ids=["family", "size"],
)
def test_another_model_is_refused_before_anything_is_trained(
    origin, make_config, tmp_path, model, message
):
    config = make_config(model, {"train.init_from": str(origin[0])})
    with pytest.raises(UserError, match=message):
        setup.prepare(config, tmp_path / "next")


def test_a_clip_starts_only_from_its_own_size(make_config, tokenizer_folder):
    config = make_config(CLIP)
    found = init_from.Origin(params={}, config=config, tokenizer=None, step=0)
    assert init_from.adapt(found, config) == ({}, [])
    wider = make_config(dataclasses.replace(CLIP, embed_dim=32))
    with pytest.raises(UserError, match=r"model\.embed_dim: 16 -> 32") as error:
        init_from.adapt(found, make_config(wider.model, {"seed": 3}))
    assert "seed" not in str(error.value)


def test_a_bundle_in_half_precision_starts_a_float32_run(origin, make_config, tmp_path):
    half = tmp_path / "half"
    export.export(origin[0], half)
    config = make_config(changes={"train.init_from": str(half)})
    run, state = setup.prepare(config, tmp_path / "next")
    run.checkpoints.close()
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("f4")}


def test_weights_of_another_shape_than_their_settings_are_named(origin):
    found = init_from.load(str(origin[1]))
    params = {**found.params, "padding": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match="here: tensor padding has shape"):
        build.checked_params(params, found.config.model, "here")


def test_another_noise_is_refused(origin, make_config, tmp_path):
    changes = {"train.init_from": str(origin[0]), "diffusion.schedule": "linear"}
    with pytest.raises(UserError, match="squaredcos_cap_v2 -> linear"):
        setup.prepare(make_config(changes=changes), tmp_path / "next")


def test_a_model_of_differences_does_not_start_one_of_pictures(make_config):
    changes = {"model.low_res_px": 4, "diffusion.prediction": "x"}
    plain = make_config(changes=changes)
    residual = resolve.override(plain, {"model.residual_low_res": True})
    for origin, config in ((plain, residual), (residual, plain)):
        with pytest.raises(UserError, match=r"another prediction: .*residual"):
            init_from.check_fits(origin, config)
    init_from.check_fits(residual, residual)


@pytest.mark.parametrize("spec", ["", "own", "sentencepiece:300", "another"])
def test_a_phase_takes_the_tokenizer_of_its_origin_or_none(
    origin, make_config, tmp_path, spec
):
    another = sentencepiece_tokenizer.train_sentencepiece(["a b c d e"] * 9, 270)
    tokenizers.save(
        sentencepiece_tokenizer.SentencePieceTokenizer(another), tmp_path / "another"
    )
    folders = {"own": origin[0] / "tokenizer", "another": tmp_path / "another"}
    spec = str(folders.get(spec, spec))
    config = make_config(
        changes={"train.init_from": str(origin[0]), "data.tokenizer": spec}
    )
    if spec and not spec.endswith("tokenizer"):
        with pytest.raises(UserError, match="leave it empty"):
            setup.prepare(config, tmp_path / "next")
        assert not (tmp_path / "next").exists()
        return
    run, _ = setup.prepare(config, tmp_path / "next")
    run.checkpoints.close()
    assert run.tokenizer.digest() == tokenizers.load(folders["own"]).digest()


def test_weights_that_are_not_finite_are_not_exported(make_config, tmp_path):
    run, state = setup.prepare(make_config(CLIP), tmp_path / "run")
    average = {**state.ema_params["0.9"], "logit_scale": jax.numpy.float32(np.nan)}
    averages = {**state.ema_params, "0.9": average}
    run.save(dataclasses.replace(state, ema_params=averages), 3, {})
    run.checkpoints.close()
    with pytest.raises(UserError, match="step 3 holds values in logit_scale"):
        export.export(tmp_path / "run", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
