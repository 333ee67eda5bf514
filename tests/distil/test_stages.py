"""The stages of a distillation, and the whole of it at the smallest size."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from glide_jax import presets
from glide_jax.checkpoint import bundle
from glide_jax.cli import main
from glide_jax.config import defaults, experiments, resolve
from glide_jax.distil import compare, stages
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.runtime import ledger
from glide_jax.sample import cascade
from glide_jax.train import teachers
from tests.train import small_runs
from tests.train.small_runs import CLIP, TEXT2IM

UPSAMPLER = dataclasses.replace(TEXT2IM, image_px=16, low_res_px=8)
GUIDED = {"train.caption_drop_prob": 0.2}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_runs.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def write(tokenizer, tmp_path_factory):
    """write(model, changes) -> a bundle with random weights."""

    def make(model, changes=None) -> pathlib.Path:
        config = small_runs.make_config(tokenizer, model, changes)
        params = build.family_of(model).make_fns(model).init(jax.random.key(0))
        folder = tmp_path_factory.mktemp("bundle") / "bundle"
        files = {path.name: path.read_bytes() for path in tokenizer.iterdir()}
        text = resolve.to_json(config)
        bundle.write_bundle(folder, params, text, files, "A test model.")
        return folder

    return make


def request(teacher, role="base", steps=4, teacher_steps=16, **changes):
    return stages.Request(role, teacher, steps, teacher_steps, **changes)


def test_steps_are_halved_from_the_teachers_to_the_students():
    assert request(pathlib.Path("t")).halvings() == [8, 4]
    assert request(pathlib.Path("t"), steps=1, teacher_steps=8).halvings() == [4, 2, 1]


@pytest.mark.parametrize(("steps", "first"), [(3, 16), (4, 4), (4, 6), (8, 4)])
def test_steps_that_halving_does_not_reach_are_refused(steps, first):
    asked = request(pathlib.Path("t"), steps=steps, teacher_steps=first)
    with pytest.raises(UserError, match=rf"--teacher_steps={first} .*--steps={steps}"):
        asked.halvings()


@pytest.mark.parametrize("inpaint", [False, True])
def test_the_experiment_of_the_teachers_sizes_is_found(inpaint):
    for size in presets.STUDENT_SIZES:
        base = presets.base(size, inpaint=inpaint)
        assert stages.find_size(base, "base") == size
        upsampler = presets.upsampler(size, inpaint=inpaint)
        assert stages.find_size(upsampler, "upsampler") == size
        residual = dataclasses.replace(upsampler, residual_low_res=True)
        assert stages.find_size(residual, "upsampler") == size
    for other in (TEXT2IM, presets.base("icons", inpaint=inpaint)):
        with pytest.raises(UserError, match="--fold and --halve"):
            stages.find_size(other, "base")


def test_the_settings_of_every_stage_are_those_of_a_run(write, tmp_path):
    model = presets.base("tiny", inpaint=True)
    origin = {**GUIDED, "diffusion.schedule": "linear", "sample.guidance_scale": 2.0}
    asked = request(write(model, origin))
    planned = stages.plan(asked, tmp_path)
    assert [stage.name for stage in planned] == ["base_fold", "base_8", "base_4"]
    bundles = tmp_path / "bundles"
    teachers = [asked.teacher, bundles / "base_fold", bundles / "base_8"]
    assert [stage.teacher for stage in planned] == teachers
    for stage in planned:
        config = stages.make_config(stage, asked, stages.first_config(asked))
        assert config.model.inpaint
        assert config.model.guidance_range == (1.0, 5.0)
        assert config.diffusion == defaults.DiffusionConfig(
            schedule="linear", prediction="x_and_eps"
        )
        assert config.train.caption_drop_prob == 0.2
        assert config.sample.guidance_scale == 2.0
        wanted = f"grid{stage.steps}" if stage.steps else stages.FOLD_STEPS
        assert config.sample.respacing == wanted
    unguided = request(write(presets.base("tiny")))
    assert [s.name for s in stages.plan(unguided, tmp_path)] == ["base_8", "base_4"]


@pytest.mark.parametrize(
    ("prediction", "before", "after"),
    [("eps", False, True), ("v", False, False), ("x", False, False), ("x", True, True)],
)
def test_a_student_adds_the_small_picture_where_its_teacher_does(
    prediction, before, after, write, tmp_path
):
    model = dataclasses.replace(presets.upsampler("tiny"), residual_low_res=before)
    teacher = write(model, {"diffusion.prediction": prediction})
    asked = request(teacher, role="upsampler")
    first = stages.plan(asked, tmp_path)[0]
    origin = stages.first_config(asked)
    config = stages.make_config(first, asked, origin)
    assert config.model.residual_low_res == after
    train = dataclasses.replace(config.train, teacher=str(teacher))
    teachers.check_config(origin, dataclasses.replace(config, train=train))


def test_a_stage_that_would_fail_later_is_refused_at_first(write, tmp_path):
    base = write(presets.base("tiny"), GUIDED)
    with pytest.raises(UserError, match="more than the 1000 timesteps"):
        stages.plan(request(base, steps=100, teacher_steps=1600), tmp_path)
    for name, message in (
        ("base64", r"train\.loss_type='hybrid'"),
        ("upsample256_halve", r"model\.guidance_range"),
        ("noised_clip64", "no experiment of a base model"),
        ("base64_moments", "a distillation halves; give one like base64_halve"),
    ):
        given = experiments.load(name, "tiny")
        with pytest.raises(UserError, match=message):
            stages.plan(request(base, halve=given), tmp_path)


def test_models_that_cannot_be_distilled_are_refused(write, tmp_path):
    with pytest.raises(UserError, match="is not a bundle"):
        stages.plan(request(tmp_path), tmp_path)
    for model in (UPSAMPLER, CLIP):
        with pytest.raises(UserError, match="has the role"):
            stages.plan(request(write(model)), tmp_path)
    student = {"train.teacher": "runs/t", "train.student_steps": 4}
    with pytest.raises(UserError, match="a student itself"):
        stages.plan(request(write(TEXT2IM, student)), tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--base and --upsampler are missing"),
        (["--upsampler_teacher_steps=4"], "no effect without --upsampler"),
        (
            ["--upsampler_steps=4"],
            "--upsampler_steps has no effect without --upsampler",
        ),
    ],
)
def test_missing_models_are_named(flags, message, tmp_path, capsys):
    assert main.run(["distil", f"--output={tmp_path / 'out'}", *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_and_other_stages_are_refused(
    write, tmp_path, capsys
):
    argv = ["distil", f"--base={write(presets.base('tiny'))}"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "report.json").write_text("{}")
    assert main.run([*argv, f"--output={other}"]) == 2
    assert "is not empty and has no distillation" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["report.json"]
    begun = tmp_path / "begun"
    begun.mkdir()
    done = ledger.Ledger(begun / "ledger.json")
    done.keep_setting("pictures", 256)
    done.keep_setting("teacher_steps", 16)
    assert main.run([*argv, f"--output={begun}", "--teacher_steps=8"]) == 2
    assert "--teacher_steps=8 differs from 16" in capsys.readouterr().err


def test_figures_compare_with_the_teacher_and_the_original():
    originals = np.zeros((2, 8, 8, 3), np.uint8)
    originals[:, :, 4:] = 200
    task = compare.Task(["", ""], originals, originals[:, ::2, ::2], None, False)
    same = compare.figures(originals, originals, task)
    assert same == {"mse": 0.0, "edges": 1.0}
    half = compare.figures(originals // 2, originals, task)
    assert half["edges"] == pytest.approx(0.5)
    assert half["mse"] == pytest.approx(0.5 * (100 / 127.5) ** 2)


@pytest.mark.slow
def test_a_cascade_is_distilled_compared_and_used(write, tokenizer, tmp_path):
    student = {
        "data.tokenizer": "",
        "data.validation_sources": ("shapes:quickstart",),
        "diffusion.prediction": "x_and_eps",
        "train.num_steps": 1,
        "train.loss_type": "truncated_snr",
        "train.teacher": "runs/t",
        "sample.sampler": "ddim",
    }
    files = {}
    for name, model, changes in (
        ("fold", dataclasses.replace(TEXT2IM, guidance_range=(1.0, 5.0)), {}),
        (
            "halve",
            dataclasses.replace(TEXT2IM, guidance_range=(1.0, 5.0)),
            {"train.student_steps": 2, "sample.respacing": "grid2"},
        ),
        (
            "upsampler_halve",
            UPSAMPLER,
            {"train.student_steps": 2, "sample.respacing": "grid2"},
        ),
    ):
        config = small_runs.make_config(tokenizer, model, {**student, **changes})
        files[name] = small_runs.write_experiment(tmp_path / f"{name}.py", config)
    base, upsampler = write(TEXT2IM, GUIDED), write(UPSAMPLER)
    out = tmp_path / "out"
    argv = [
        *("distil", f"--base={base}", f"--upsampler={upsampler}", f"--output={out}"),
        *("--steps=1", "--teacher_steps=4", "--upsampler_teacher_steps=4"),
        *(f"--{name}={path}" for name, path in files.items()),
        "--pictures=8",
    ]
    assert main.run(argv) == 0
    report = json.loads((out / "report.json").read_text())
    rows = {row["name"]: row for row in report["models"]}
    assert list(rows) == [
        *("base_teacher", "base_fold", "base_2", "base_1"),
        *("upsampler_teacher", "upsampler_2"),
    ]
    assert (rows["base_teacher"]["rows"], rows["base_1"]["rows"]) == (2, 1)
    assert rows["base_1"]["steps"] == 1
    assert set(rows["base_1"]["figures"]) == {"1", "2", "3", "5"}
    assert rows["base_teacher"]["figures"]["3"]["mse"] == 0
    assert set(rows["upsampler_2"]["figures"][""]) == {"mse", "edges"}
    assert min(Image.open(out / "samples.png").size) > 200

    spent = ledger.Ledger(out / "ledger.json").seconds()
    (out / "samples.png").unlink()
    assert main.run(argv) == 0
    assert ledger.Ledger(out / "ledger.json").seconds() == spent
    assert (out / "samples.png").exists()

    bundles = out / "bundles"
    models = cascade.Glide.load(bundles / "base_1", bundles / "upsampler_2")
    drawn = models.sample("a red circle", guidance_scale=4.0)
    assert drawn.settings["base"]["respacing"] == "grid1"
    assert drawn.settings["upsampler"]["respacing"] == "grid2"
