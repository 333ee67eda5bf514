"""`glide evaluate` and `glide evaluate reference`, from the command line to files."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal

import numpy as np
import pytest

from glide_jax.cli import evaluate as evaluate_verb
from glide_jax.cli import main, output_folders
from glide_jax.convert import efficientnet
from glide_jax.eval import feature_passes, picture_sets, runner
from glide_jax.runtime import user_cache
from tests import fake_devices
from tests.eval import stand_in
from tests.sample.conftest import CAPTIONS, bundles, models, tokenizer  # noqa: F401

REAL = stand_in.noise_pictures(24)
LINES = "\n".join(CAPTIONS)


@pytest.fixture(scope="module")
def world(bundles, tmp_path_factory):  # noqa: F811
    """A folder with photos, a reference of them and a file of prompts."""
    root = tmp_path_factory.mktemp("world")
    photos = root / "photos"
    photos.mkdir()
    for i, pixels in enumerate(REAL):
        picture_sets.image_io.write_png(photos / f"{i:02d}.png", pixels)
        (photos / f"{i:02d}.txt").write_text(CAPTIONS[i % 6])
    (root / "prompts.txt").write_text(LINES)
    flags = [f"--source=folder:{photos}", "--px=8", f"--output={root / 'ref.npz'}"]
    flags += [f"--features=clip:{bundles['clip']}", "--batch_size=9"]
    assert main.run(["evaluate", "reference", *flags]) == 0
    return root


@pytest.fixture
def evaluate(world, bundles, tmp_path):  # noqa: F811
    """evaluate(*flags) -> exit code; draws 10 pictures by default."""

    def run(*flags, draws=True, output=tmp_path / "out", clip=bundles["clip"]):
        if draws:
            flags = (
                f"--base={bundles['base']}",
                f"--prompt_file={world / 'prompts.txt'}",
                "--num_images=10",
                "--respacing=2",
                *flags,
            )
        features = f"--features=clip:{clip}"
        reference = f"--reference={world / 'ref.npz'}"
        return main.run(["evaluate", features, reference, f"--output={output}", *flags])

    return run


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.slow
def test_the_installed_judge_names_its_values(tmp_path, monkeypatch):
    pytest.importorskip(efficientnet.PACKAGE, reason='needs pip install -e ".[judge]"')
    monkeypatch.setenv(user_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    shown, real = tmp_path / "shown.npz", tmp_path / "real.npz"
    np.savez(shown, arr_0=stand_in.noise_pictures(8, seed=1))
    np.savez(real, arr_0=REAL[:8])
    flags = [f"--images={shown}", f"--reference={real}", f"--output={tmp_path / 'out'}"]
    features = "--features=efficientnet_lite0"
    assert main.run(["evaluate", features, "--batch_size=8", *flags]) == 0
    result = result_of(tmp_path / "out")
    names = ("fd", "kd", "precision", "recall", "inception_score")
    expected = {f"efficientnet_lite0_{name}" for name in names}
    assert result["metrics"].keys() >= expected
    assert result["metrics"]["efficientnet_lite0_fd"] > 1
    assert result["settings"]["features"] == "efficientnet_lite0 579344248a93"


def test_a_run_leaves_figures_pictures_and_all_that_repeats_it(
    evaluate, world, tmp_path, capsys
):
    assert evaluate("--save_images=10", "--guidance_scale=2", "--batch_size=5") == 0
    result = result_of(tmp_path / "out")
    metrics, settings = result["metrics"], result["settings"]
    assert (result["schema"], result["verb"]) == (1, "evaluate")
    assert result["command"].startswith("glide evaluate --")
    assert "--guidance_scale=2" in result["command"]
    assert settings["pictures"]["base"]["guidance_scale"] == 2
    assert settings["pictures"]["base"]["respacing"] == "2"
    assert settings["features"].startswith("noised_clip ")
    assert settings["reference"]["count"] == 24
    assert result["machine"]["platform"] == "cpu"
    expected = {"fid", "kid", "kid_standard_error", "precision", "recall"}
    expected |= {"inception_score", "score", "retrieval"}
    expected |= {"diversity", "diversity_standard_error"}
    expected |= {f"retrieval_q{i}" for i in range(4)}
    assert metrics.keys() == {f"noised_clip_{name}" for name in expected}
    assert np.isfinite(list(metrics.values())).all()
    assert "10 pictures against 24" in result["warnings"][0]
    printed = capsys.readouterr().out
    assert all(name in printed for name in metrics)
    # 10 pictures in rows of 4, enlarged.
    sheet = picture_sets.image_io.read_image(tmp_path / "out" / "samples.png")
    height, width, _ = sheet.shape
    assert 3 * 128 < height < width < 5 * 128

    # Saved pictures have the figures that they had when they were drawn.
    (tmp_path / "prompts.txt").write_text("\n".join(CAPTIONS[i % 6] for i in range(10)))
    flags = [f"--images={tmp_path / 'out' / 'samples.npz'}", "--batch_size=3"]
    flags += [f"--prompt_file={tmp_path / 'prompts.txt'}"]
    assert evaluate(*flags, draws=False, output=tmp_path / "saved") == 0
    saved = result_of(tmp_path / "saved")["metrics"]
    # Features in float32, by programs of other batch sizes.
    assert saved == pytest.approx(metrics, rel=1e-4, abs=1e-5)


def test_real_pictures_against_themselves(evaluate, world, tmp_path):
    flags = [f"--images=folder:{world / 'photos'}", "--px=8"]
    assert evaluate(*flags, draws=False) == 0
    metrics = result_of(tmp_path / "out")["metrics"]
    assert metrics["noised_clip_fid"] == pytest.approx(0, abs=1e-3)
    assert metrics["noised_clip_precision"] == metrics["noised_clip_recall"] == 1


def test_float16_distances_are_recorded_and_need_no_new_features(
    evaluate, world, tmp_path, capsys
):
    flags = [f"--images=folder:{world / 'photos'}", "--px=8"]
    flags += ["--metrics=precision_recall"]
    assert evaluate(*flags, draws=False) == 0
    assert "pr_distances" not in result_of(tmp_path / "out")["settings"]
    flags += ["--pr_distances=float16"]
    assert evaluate(*flags, draws=False) == 0  # in the same folder
    result = result_of(tmp_path / "out")
    assert result["settings"]["pr_distances"] == "float16"
    shares = {f"noised_clip_{name}_float16" for name in ("precision", "recall")}
    assert result["metrics"].keys() == shares
    flags[-2] = "--metrics=fid"
    assert evaluate(*flags, draws=False) == 2
    assert (
        "--pr_distances=float16 needs the metric precision_recall"
        in capsys.readouterr().err
    )


def test_a_signal_ends_it_with_42_and_only_the_same_settings_resume(
    evaluate, tmp_path, monkeypatch, capsys
):
    assert evaluate("--batch_size=5", output=tmp_path / "whole") == 0
    read, drawn = picture_sets.Drawn.read, []

    def read_until_stopped(self, first, stop):
        drawn.append(first)
        if len(drawn) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, first, stop)

    monkeypatch.setattr(picture_sets.Drawn, "read", read_until_stopped)
    capsys.readouterr()
    assert evaluate("--batch_size=5") == 42
    assert "SIGTERM" in capsys.readouterr().err
    assert not (tmp_path / "out" / "result.json").exists()
    assert evaluate("--batch_size=5") == 0
    assert drawn == [0, 5]  # the batch under way was finished and kept
    whole, cut = result_of(tmp_path / "whole"), result_of(tmp_path / "out")
    assert cut["metrics"] == whole["metrics"]
    # Once more there is nothing to draw.
    assert evaluate("--batch_size=2", "--metrics=fid") == 0
    assert drawn == [0, 5]
    assert list(result_of(tmp_path / "out")["metrics"]) == ["noised_clip_fid"]
    # Pictures of other settings are not mixed with these.
    capsys.readouterr()
    assert evaluate("--batch_size=5", "--seed=2") == 2
    assert "features of pictures.seed=0, not" in capsys.readouterr().err


def test_losses_are_measured_alone_and_once(
    bundles,  # noqa: F811
    tmp_path,
    capsys,
    monkeypatch,
):
    flags = ["evaluate", f"--base={bundles['upsampler']}", f"--output={tmp_path}"]
    flags += ["--loss_source=shapes:quickstart", "--num_losses=4"]
    assert main.run(flags) == 0
    result = result_of(tmp_path)
    assert result["settings"]["losses"]["source"] == "shapes:quickstart"
    assert result["metrics"]["losses_count"] == 4
    assert "bits_per_dimension_q3" in capsys.readouterr().out
    from glide_jax.eval import losses

    monkeypatch.delattr(losses, "measure")
    assert main.run(flags) == 0


def test_warnings_that_differ_in_details_are_logged_once(caplog):
    with evaluate_verb.dedupe_warnings():
        for lost in ("a", "b"):
            logging.warning("%s cuts this prompt; not seen: %r", "base", lost)
            logging.warning("%s cuts this prompt; not seen: %r", "clip", lost)
            logging.info("%s is done", lost)
            logging.warning("%(name)s is odd", {"name": lost})
    told = [record.getMessage() for record in caplog.records]
    assert [line for line in told if "cuts" in line] == [
        "base cuts this prompt; not seen: 'a'",
        "clip cuts this prompt; not seen: 'a'",
    ]
    assert [line for line in told if "odd" in line] == ["a is odd", "b is odd"]
    logging.warning("%s cuts this prompt; not seen: %r", "base", "c")
    assert "not seen: 'c'" in caplog.text


def test_flags_that_do_not_fit_together_are_refused_in_a_line(
    evaluate,
    bundles,  # noqa: F811
    world,
    tmp_path,
    capsys,
):
    clip, base = f"--features=clip:{bundles['clip']}", f"--base={bundles['base']}"
    np.savez(tmp_path / "large.npz", arr_0=stand_in.noise_pictures(4, 16))
    large = f"--images={tmp_path / 'large.npz'}"
    prompts = f"--prompt_file={world / 'prompts.txt'}"
    reference = f"--reference={world / 'ref.npz'}"
    shapes = "--captions_of=shapes:quickstart"
    for flags, reason in (
        ([], "--base is missing"),
        ([base], "nothing to draw"),
        ([base, prompts, shapes], "give only one of them"),
        ([large, shapes], "--images are drawn already"),
        ([base, large], "leave out --base"),
        ([large, reference], "give --features"),
        ([large, clip, reference], "of pictures of 8 px, not 16 px"),
        ([large, prompts, clip], "4 pictures and there are 6 prompts"),
        ([large], "no metric can be computed"),
        ([large, clip, "--metrics=fid"], "--metrics=fid: give --reference"),
    ):
        code = main.run(["evaluate", f"--output={tmp_path / 'out'}", *flags])
        error = capsys.readouterr().err
        assert code == 2, flags
        assert reason in error
        assert len(error.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_a_reference_of_another_clip_is_refused(
    evaluate,
    bundles,  # noqa: F811
    tmp_path,
    capsys,
):
    other = shutil.copytree(bundles["clip"], tmp_path / "clip")
    mark = json.loads((other / "bundle.json").read_text())
    # The same bundle of another digest.
    (other / "bundle.json").write_text(json.dumps(mark, indent=3))
    assert evaluate(clip=other) == 2
    assert "was made with noised_clip" in capsys.readouterr().err


def test_an_interrupted_reference_resumes_and_missing_flags_are_named(
    world,
    bundles,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    flags = [f"--source=folder:{world / 'photos'}", "--px=8", "--keep_images"]
    flags += [f"--features=clip:{bundles['clip']}", "--batch_size=9"]
    flags += [f"--output={tmp_path / 'again.npz'}"]
    extract, seen = feature_passes.extract, []

    def extract_until_stopped(batch, networks):
        seen.extend(batch.indices.tolist())
        if len(seen) == 18:
            os.kill(os.getpid(), signal.SIGTERM)
        return extract(batch, networks)

    monkeypatch.setattr(feature_passes, "extract", extract_until_stopped)
    assert main.run(["evaluate", "reference", *flags]) == 42
    assert main.run(["evaluate", "reference", *flags]) == 0
    assert seen == list(range(24))
    with np.load(tmp_path / "again.npz") as again, np.load(world / "ref.npz") as whole:
        np.testing.assert_array_equal(again["arr_0"], REAL)
        found, expected = (file["noised_clip_sigma"] for file in (again, whole))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    capsys.readouterr()
    assert main.run(["evaluate", "reference", *flags[1:]]) == 2
    assert "--source is missing" in capsys.readouterr().err
    assert main.run(["evaluate", "reference", *flags[:-1], "--output=ref"]) == 2
    assert "does not end in .npz" in capsys.readouterr().err


def test_a_second_program_in_the_same_output_is_refused_and_harms_nothing(
    evaluate,
    bundles,  # noqa: F811
    world,
    tmp_path,
    capsys,
):
    path = tmp_path / "again.npz"
    flags = [f"--source=folder:{world / 'photos'}", "--px=8", f"--output={path}"]
    flags += [f"--features=clip:{bundles['clip']}"]
    (tmp_path / "out").mkdir()
    with output_folders.alone(tmp_path / "out"), output_folders.alone(path):
        capsys.readouterr()
        assert evaluate() == 2
        assert "another program writes to" in capsys.readouterr().err
        assert main.run(["evaluate", "reference", *flags]) == 2
        error = capsys.readouterr().err
        assert "another program writes to" in error
        assert len(error.splitlines()) == 1
    assert list((tmp_path / "out").iterdir()) == []
    assert main.run(["evaluate", "reference", *flags]) == 0
    assert sorted(found.name for found in tmp_path.iterdir()) == ["again.npz", "out"]


def test_classes_are_spread_over_the_distinct_captions():
    captions = [f"{i // 2:05d}" for i in range(10_000)][::-1]
    classes = runner.zero_shot_classes("clip:x", captions)
    assert classes == [f"{5 * i:05d}" for i in range(runner.MAX_CLASSES)]
    assert runner.zero_shot_classes("clip:x", ["b", "a", "b"]) == ["a", "b"]
    assert runner.zero_shot_classes("clip:x", ["a", "a"]) == []
    assert runner.zero_shot_classes("inception:x", captions) == []


@pytest.mark.slow
def test_eight_devices_find_the_figures_of_one(
    evaluate,
    bundles,  # noqa: F811
    world,
    tmp_path,
):
    losses = ["--loss_source=shapes:quickstart", "--num_losses=5"]
    assert evaluate("--batch_size=4", *losses) == 0
    fake_devices.run_with_devices(
        f"""
        import sys
        import jax
        from glide_jax.cli import main
        assert jax.device_count() == 8
        sys.exit(main.run([
            "evaluate",
            "--base={bundles["base"]}",
            "--prompt_file={world / "prompts.txt"}",
            "--num_images=10",
            "--respacing=2",
            "--features=clip:{bundles["clip"]}",
            "--reference={world / "ref.npz"}",
            "--loss_source=shapes:quickstart",
            "--num_losses=5",
            "--output={tmp_path / "eight"}",
        ]))
        """
    )
    one, eight = result_of(tmp_path / "out"), result_of(tmp_path / "eight")
    assert eight["machine"]["devices"] == 8
    # A pixel may round to its neighbour, and ten pictures have few features.
    assert eight["metrics"] == pytest.approx(one["metrics"], rel=2e-3, abs=1e-3)
