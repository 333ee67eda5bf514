"""Students of a teacher: trained and resumed like every other run."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from glide_jax.checkpoint import bundle
from glide_jax.cli import main
from glide_jax.config import resolve
from glide_jax.errors import UserError
from glide_jax.plan import cost, device_topology, memory, problem
from glide_jax.runtime import lifecycle, metric_writers
from glide_jax.sample import cascade
from glide_jax.text import sentencepiece_tokenizer, tokenizers
from glide_jax.train import (
    distilling,
    export,
    loop,
    objectives,
    setup,
    start,
    teachers,
    train_state,
)
from tests import fake_devices
from tests.train import small_runs
from tests.train.small_runs import CLIP, TEXT2IM, assert_trees_equal

FOLDED = dataclasses.replace(TEXT2IM, guidance_range=(1.0, 5.0))
STUDENT = {
    "data.tokenizer": "",
    "data.validation_sources": ("shapes:quickstart",),
    "diffusion.prediction": "x_and_eps",
    "train.caption_drop_prob": 0.2,
    "train.loss_type": "truncated_snr",
    "sample.sampler": "ddim",
}
MOMENTS = {
    **STUDENT,
    "train.student_loss": "match_moments",
    "train.student_steps": 2,
    "sample.respacing": "grid2",
    "sample.eta": 1.0,
}
HALVED = {**STUDENT, "train.student_steps": 2, "sample.respacing": "grid2"}


def make_bundle(config, folder):
    """Trains a run and returns its bundle."""
    assert loop.train(config, folder / "run") == lifecycle.ExitCode.OK
    export.export(folder / "run", folder / "bundle", dtype="float32")
    return str(folder / "bundle")


@pytest.fixture(scope="module")
def teacher(make_config, tmp_path_factory):
    """The bundle of a model that is guided."""
    config = make_config(TEXT2IM, {"train.caption_drop_prob": 0.2})
    return make_bundle(config, tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def fold(make_config, teacher, tmp_path_factory):
    """The bundle of its student that reads the guidance scale."""
    config = make_config(FOLDED, {**STUDENT, "train.teacher": teacher})
    return make_bundle(config, tmp_path_factory.mktemp("fold"))


def copy_bundle(source, target, *, tokenizer=None, change=0.0):
    """Copies a bundle with another tokenizer, or with changed parameters."""
    content = bundle.read_bundle(source)
    params = jax.tree.map(lambda leaf: leaf + np.float32(change), content.params)
    folder = tokenizer or content.folder
    found = (*folder.glob("tokenizer*"), *folder.glob("*.model"))
    files = {path.name: path.read_bytes() for path in found}
    bundle.write_bundle(target, params, content.config_json, files, "A copy.")
    return str(target)


def final_state(config, workdir):
    run, state = setup.prepare(config, workdir)
    run.checkpoints.close()
    return state


@pytest.mark.parametrize("kind", ["fold", "halve", "moments"])
def test_a_student_cut_in_two_is_the_same_student(
    make_config, teacher, fold, tmp_path, kind
):
    changes = {"fold": STUDENT, "halve": HALVED, "moments": MOMENTS}[kind]
    changes = {**changes, "train.teacher": teacher if kind == "fold" else fold}
    config = make_config(FOLDED, {**changes, "train.microbatches": 2})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert loop.train(config, whole) == lifecycle.ExitCode.OK
    loop.train(resolve.override(config, {"train.num_steps": 2}), cut)
    assert loop.train(config, cut) == lifecycle.ExitCode.OK
    state = final_state(config, whole)
    assert_trees_equal(final_state(config, cut), state)
    # It starts as its teacher, and learns.
    scales = np.asarray(state.params["unet"]["guidance_in"]["kernel"])
    assert np.abs(scales).max() > 0


def test_checkpoints_have_the_digest_of_the_teacher_and_not_its_weights(
    make_config, teacher, tmp_path
):
    config = make_config(FOLDED, {**STUDENT, "train.teacher": teacher})
    config = resolve.override(config, {"train.num_steps": 1})
    run, _ = setup.prepare(config, tmp_path)
    names = {"params", "ema_params", "opt_state", "counters"}
    assert loop.train(config, tmp_path) == lifecycle.ExitCode.OK
    newest = run.checkpoints.newest()
    assert newest is not None
    folder = run.checkpoints.directory / str(newest[0])
    assert names <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("*teacher*"))
    expected = teachers.load(config).digest
    assert newest[1]["teacher_digest"] == expected
    export.export(tmp_path, tmp_path / "bundle")
    facts = json.loads((tmp_path / "bundle" / "teacher.json").read_text())
    assert facts["params_sha256"] == expected
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert f"| teacher | {teacher} |" in card
    assert "| guidance scales it reads | 1 to 5, in one row |" in card
    # Damage of the record is found, as that of the settings is.
    (tmp_path / "teacher.json").write_text("{}")
    assert main.run(["verify", str(tmp_path)]) != 0


def test_a_second_network_learns_beside_the_student_and_stays_in_the_workdir(
    make_config, fold, tmp_path
):
    changes = {**MOMENTS, "train.teacher": fold, "log.validate_every_steps": 2}
    config = make_config(FOLDED, changes)
    run, state = setup.prepare(config, tmp_path / "run")
    run.checkpoints.close()
    params = jax.tree.map(np.asarray, state.params)
    second = params.pop(train_state.AUXILIARY)
    origin = teachers.load(config).origin.params
    for start_of in (params, second, *state.ema_params.values()):
        assert_trees_equal(jax.tree.map(np.asarray, start_of), origin)
    exported = bundle.read_bundle(make_bundle(config, tmp_path))
    assert bundle.flatten(exported.params).keys() == bundle.flatten(params).keys()
    assert (
        "| objective | match_moments |" in (exported.folder / "README.md").read_text()
    )
    state = final_state(config, tmp_path / "run")
    after = dict(state.params)
    second_after = after.pop(train_state.AUXILIARY)
    kernels = [tree["unet"]["conv_out"]["kernel"] for tree in (after, second_after)]
    first = params["unet"]["conv_out"]["kernel"]
    assert all(np.any(kernel != first) for kernel in kernels)
    assert np.any(kernels[0] != kernels[1])
    rows = metric_writers.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert {"moment_mse", "validation/moment_mse"} <= set().union(*rows)


def test_another_teacher_is_refused_when_a_student_resumes(make_config, fold, tmp_path):
    config = make_config(FOLDED, {**HALVED, "train.teacher": fold})
    config = resolve.override(config, {"train.num_steps": 1})
    assert loop.train(config, tmp_path / "run") == lifecycle.ExitCode.OK
    changed = copy_bundle(fold, tmp_path / "other", change=0.01)
    with pytest.raises(UserError, match=r"train\.teacher=.*not the teacher"):
        setup.prepare(
            resolve.override(config, {"train.teacher": changed}), tmp_path / "run"
        )


FOLD = {"model.guidance_range": (1.0, 5.0), "diffusion.prediction": "x_and_eps"}
# The settings of a student and of its teacher, and what the error says.
MISFITS = {
    "family": ({}, {"model": CLIP}, "noised_clip model"),
    "size": ({}, {"model.text_width": 64}, r"model\.text_width 64"),
    "schedule": ({}, {"diffusion.schedule": "linear"}, "'linear'"),
    "fold of a student": ({}, {"model.guidance_range": (1.0, 5.0)}, "already reads"),
    "range": (
        HALVED,
        {"model.guidance_range": (1.0, 3.0), "diffusion.prediction": "x_and_eps"},
        r"model\.guidance_range",
    ),
    "prediction": ({"diffusion.prediction": "v"}, {}, "predicts x_and_eps"),
    "steps": (
        HALVED,
        {
            "model.guidance_range": (1.0, 5.0),
            "diffusion.prediction": "x_and_eps",
            "train.student_steps": 16,
        },
        r"train\.student_steps=2 .* use 8",
    ),
    "moments of a student of few steps": (
        MOMENTS,
        {**FOLD, "train.student_steps": 4},
        "is a student of 4 steps, .* as train.init_from",
    ),
    "moments of eps": (MOMENTS, {"model.guidance_range": (1.0, 5.0)}, "predicts eps"),
    "half of noisy steps": (
        HALVED,
        {**FOLD, "train.student_steps": 4, "train.student_loss": "match_moments"},
        "adds noise in each of its steps",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_teacher_that_does_not_fit_is_refused_in_one_line(make_config, case):
    ours, theirs, message = MISFITS[case]
    student = make_config(FOLDED, {**STUDENT, "train.teacher": "runs/t", **ours})
    teacher = make_config(theirs.get("model", TEXT2IM))
    changes = {name: value for name, value in theirs.items() if name != "model"}
    teacher = resolve.override(teacher, changes)
    with pytest.raises(UserError, match=message) as caught:
        teachers.check_config(teacher, student)
    assert "\n" not in str(caught.value)


def test_a_missing_teacher_and_another_tokenizer_are_refused(
    make_config, teacher, tokenizer_folder, tmp_path
):
    changes = {**STUDENT, "train.teacher": str(tmp_path / "none")}
    config = make_config(FOLDED, changes)
    with pytest.raises(UserError, match=r"train\.teacher=.* does not exist"):
        setup.check(config, None)
    captions = ["a red circle", "a blue square", "a green cross"]
    proto = sentencepiece_tokenizer.train_sentencepiece(captions, 280)
    other = sentencepiece_tokenizer.SentencePieceTokenizer(proto)
    tokenizers.save(other, tmp_path / "tokenizer")
    changed = copy_bundle(teacher, tmp_path / "other", tokenizer=tmp_path / "tokenizer")
    config = make_config(
        FOLDED, {**STUDENT, "train.teacher": changed, "train.init_from": teacher}
    )
    with pytest.raises(UserError, match="another tokenizer"):
        setup.check(config, None)


def test_students_draw_in_their_steps_by_default(make_config, fold, tmp_path):
    config = make_config(FOLDED, {**HALVED, "train.teacher": fold})
    halved = make_bundle(config, tmp_path)
    for folder, steps in ((fold, "150"), (halved, "grid2")):
        drawn = cascade.Glide.load(folder).sample("a red circle", guidance_scale=4.0)
        assert drawn.settings["base"]["respacing"] == steps


def test_a_student_learns_at_its_own_timesteps(make_config):
    config = make_config(FOLDED, {**HALVED, "train.teacher": "runs/t"})
    tables = distilling.student_tables(config)
    assert tables.timesteps.tolist() == [499, 999]
    objective = objectives.make_objective(config, 0)
    params = objective.init(jax.random.key(0))

    def keys_of(stream):
        return jax.random.split(jax.random.key(1), 8)

    student = objective.with_teacher(params)
    _, aux = student.loss(params, small_runs.make_batch(8), keys_of, {})
    assert set(np.asarray(aux.t).tolist()) == {0, 1}
    assert set(aux.metrics) >= {"loss", "mse", "x_mse"}


def test_a_plan_counts_the_teacher(make_config):
    plain = make_config(FOLDED, {**STUDENT, "train.teacher": "runs/t"})
    where = device_topology.parse("v5e:2x2", None, None)
    given = problem.make_problem(
        resolve.override(plain, {"model.compute_dtype": "bfloat16"}), where
    )
    state = memory.measure_state(given.state)
    with_teacher = memory.estimate(given, state)
    without = memory.estimate(dataclasses.replace(given, teacher=None), state)
    # Matrices in bfloat16, all else in float32.
    assert 0.45 * with_teacher.params < with_teacher.teacher < with_teacher.params
    assert with_teacher.total - without.total == with_teacher.teacher
    assert teachers.forward_flops(plain) > 0
    halved = make_config(FOLDED, {**HALVED, "train.teacher": "runs/t"})
    assert 0 < teachers.forward_flops(halved) < teachers.forward_flops(plain)


def test_a_plan_counts_both_networks_that_learn(make_config):
    found = []
    for changes in (HALVED, MOMENTS):
        config = make_config(FOLDED, {**changes, "train.teacher": "runs/t"})
        where = device_topology.parse("v5e:2x2", None, None)
        given = problem.make_problem(config, where)
        state = memory.measure_state(given.state)
        per_image = cost.estimate(config, where, network_seconds={}).flops_per_step
        own = per_image / config.train.global_batch_size
        own -= teachers.forward_flops(config)
        found.append((memory.estimate(given, state), own))
    (one, flops), (two, flops_of_two) = found
    assert two.params == 2 * one.params
    assert two.grads == 2 * one.grads
    assert two.activations == 2 * one.activations
    # Adam's two moments of each network, and averages of the student alone.
    assert two.moments == pytest.approx(2 * one.moments, rel=1e-4)
    assert (two.ema, two.teacher) == (one.ema, one.teacher)
    assert flops_of_two == pytest.approx(2 * flops)


def test_a_dry_run_reads_the_teacher(make_config, teacher):
    config = make_config(FOLDED, {**STUDENT, "train.teacher": teacher})
    checked = setup.check(config, None)
    assert isinstance(checked.start, start.RunStart)
    assert checked.start.teacher_prediction == "eps"


@pytest.mark.slow
def test_a_student_trains_on_a_mesh_as_on_one_device():
    fake_devices.run_with_devices(
        """
        import dataclasses
        from tests.train import mesh_runs

        model = dataclasses.replace(mesh_runs.BASE, guidance_range=(1.0, 5.0))
        # The gradient of match_moments is the difference of two networks that start
        # alike, in which rounding weighs more.
        for steps, loss, rtol in (
            (0, "halve", 1e-5), (2, "halve", 1e-5), (2, "match_moments", 1e-4)
        ):
            config = mesh_runs.make_config("base", {
                "diffusion.prediction": "x_and_eps",
                "train.teacher": "runs/t",
                "train.student_steps": steps,
                "train.student_loss": loss,
                "train.loss_type": "truncated_snr",
            })
            config = dataclasses.replace(config, model=model)
            expected = mesh_runs.run(config, mesh_runs.make_mesh(1, 1, 1))
            found = mesh_runs.run(config, mesh_runs.make_mesh(2, 2, 2))
            mesh_runs.assert_same(found, expected, config, rtol=rtol)
        """,
        timeout_secs=600,
    )
