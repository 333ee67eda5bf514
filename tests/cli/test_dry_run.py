"""A dry run refuses what a start refuses, in the same words, and leaves no trace."""

from __future__ import annotations

import importlib.util
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from glide_jax.cli import main
from glide_jax.text import tokenizers

SOURCES = "--config.data.sources"


def write_pictures(folder, count: int, *, broken: int = 0) -> None:
    """Pictures with captions, of which the first are cut short."""
    folder.mkdir()
    for i in range(count):
        path = folder / f"{i}.png"
        noise = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(path)
        if i < broken:
            path.write_bytes(path.read_bytes()[:100])
        (folder / f"{i}.txt").write_text(f"picture {i}")


@pytest.fixture
def no_wandb(monkeypatch):
    """A machine where W&B is not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name == "wandb" else find(name, *rest),
    )


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--config.data.tokenizer=None"], "'None' is neither a name nor"),
        (["--config.data.tokenizer=gpt3"], "'gpt3' is neither a name nor"),
        (["--config.data.tokenizer=absent/tokenizer"], "absent/tokenizer"),
        (["--config.data.tokenizer=sentencepiece:many"], "data.tokenizer"),
        # No download is needed to know how many pieces it has.
        (["--config.data.tokenizer=clip"], "model.vocab_size=320"),
        (["--config.log.wandb_project=x"], "log.wandb_project='x'"),
        ([f"{SOURCES}=('folder:absent',)"], "absent"),
        ([f"{SOURCES}=('folder:broken',)"], "none of the first 3 records can be used"),
        (["--config.data.validation_sources=('webdataset:no.tar',)"], "no.tar"),
        (["--config.data.weights=(1.0,2.0)"], "data.weights"),
        (["--config.train.init_from=absent"], "absent does not exist"),
        (["--config.train.init_from=folder"], "folder has no config.json"),
        (["--config.mesh.fsdp=3"], "mesh.fsdp=3"),
        (["--config.mesh.data_dcn=2"], "mesh.data_dcn=2"),
        (["--config.mesh.rules=('absent/kernel=fsdp',)"], "mesh.rules"),
        (["--config.train.global_batch_size=5", "--config.train.microbatches=2"], "=5"),
        (["--allow_change=model.width"], "'model.width' is not a setting"),
        (["--workdir=file/run"], "--workdir=file/run cannot be written"),
    ],
)
def test_a_dry_run_and_a_start_refuse_the_same_in_the_same_words(
    refused, no_wandb, experiment, tmp_path, flags, named
):
    write_pictures(tmp_path / "broken", 3, broken=3)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    command = ["train", f"--config={experiment}", *flags]
    line = refused(*command, "--dry_run")
    assert named in line
    if "--workdir=file/run" not in flags:
        command.append("--workdir=run")
    assert refused(*command) == line


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--config.seed=7"], "seed: 0 -> 7"),
        (["--config.model.text_layers=2"], "model.text_layers: 1 -> 2"),
        (["--config.ema.decays=(0.9,)"], "ema.decays"),
        ([f"{SOURCES}=('shapes:full',)", "--allow_change=seed"], "data.sources"),
    ],
)
def test_a_dry_run_says_that_a_workdir_holds_another_run(
    refused, experiment, workdir, tmp_path, flags, named
):
    run = shutil.copytree(workdir, tmp_path / "run")
    command = ["train", f"--config={experiment}", f"--workdir={run}", *flags]
    line = refused(*command, "--dry_run")
    assert named in line
    assert refused(*command) == line


def test_a_dry_run_of_a_resumed_workdir_passes(experiment, workdir, tmp_path):
    run = shutil.copytree(workdir, tmp_path / "run")
    command = ["train", f"--config={experiment}", f"--workdir={run}", "--dry_run"]
    assert main.run(command) == 0
    allowed = [*command, "--config.seed=7", "--allow_change=seed"]
    assert main.run(allowed) == 0
    shutil.rmtree(run / "tokenizer")
    assert main.run(command) == 2


def test_an_origin_that_does_not_fit_is_refused(
    refused, experiment, workdir, clip_bundle
):
    command = ["train", f"--config={experiment}"]
    for origin, change, named in (
        (clip_bundle, "--config.seed=0", "noised_clip"),
        (workdir, "--config.diffusion.num_timesteps=500", "diffusion.num_timesteps"),
        (workdir / "bundle", "--config.data.tokenizer=sentencepiece:99", "leave it"),
    ):
        flags = [f"--config.train.init_from={origin}", change]
        flags += [] if "tokenizer" in change else ["--config.data.tokenizer="]
        line = refused(*command, *flags, "--dry_run")
        assert named in line
        assert refused(*command, *flags, "--workdir=run") == line


def test_a_dry_run_logs_bad_records_and_long_captions(
    experiment, tmp_path, caplog, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "some", 4, broken=1)
    (tmp_path / "some" / "3.txt").write_text("a very long caption " * 40)
    flags = [f"--config={experiment}", f"{SOURCES}=('folder:some',)", "--dry_run"]
    assert main.run(["train", *flags]) == 0
    assert "1 of the first 4 records cannot be used, e.g. " in caplog.text
    assert "more than model.text_context=8 tokens" in caplog.text
    assert os.listdir(tmp_path) == ["some"]


def test_a_dry_run_downloads_no_tokenizer(experiment, tmp_path, caplog, monkeypatch):
    for name in ("GLIDE_JAX_VOCAB", "GLIDE_JAX_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert not any(map(tokenizers.is_cached, tokenizers.published()))
    # A start would ask the network.
    monkeypatch.setattr("urllib.request.urlopen", None)
    flags = ["--config.data.tokenizer=gpt2", "--config.model.vocab_size=50257"]
    assert main.run(["train", f"--config={experiment}", *flags, "--dry_run"]) == 0
    assert "lengths of captions are not checked" in caplog.text
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--devices=8", "--config.mesh.fsdp=3"], "mesh.fsdp=3"),
        (["--devices=8"], "train.global_batch_size=4 is not divisible by 8"),
        (["--devices=4", "--slices=2", "--config.mesh.data=4"], "4 in 2 slices"),
        (["--devices=4", "--slices=3"], "4 in 3 slices"),
        (["--devices=4", "--config.data.tokenizer=sentencepiece:"], "no number"),
        (["--devices=4", "--config.data.tokenizer=gpt2"], "50257 pieces"),
        (["--devices=4", "--allow_change=sed"], "'sed' is not a setting"),
        (["--slices=2"], "add --devices"),
        (["--devices=0"], "devices"),
    ],
)
def test_settings_are_checked_for_devices_elsewhere(refused, experiment, flags, named):
    assert named in refused("train", f"--config={experiment}", *flags, "--dry_run")


def test_data_and_files_are_not_checked_for_devices_elsewhere(
    experiment, caplog, no_wandb
):
    flags = [
        f"{SOURCES}=('folder:/cluster/photos',)",
        "--config.data.tokenizer=/cluster/tokenizer",
        "--config.train.init_from=/cluster/base",
        "--config.log.wandb_project=x",
        "--workdir=/cluster/run",
    ]
    command = ["train", f"--config={experiment}", "--dry_run", "--devices=4"]
    with caplog.at_level("INFO"):
        assert main.run([*command, "--slices=2", *flags]) == 0
    assert "not checked: data" in caplog.text


def test_a_dry_run_reads_the_data_and_reports_it(
    experiment, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "some", 6, broken=1)
    shutil.copy(tmp_path / "some" / "2.png", tmp_path / "some" / "3.png")
    command = ["train", f"--config={experiment}", f"{SOURCES}=folder:some", "--dry_run"]
    assert main.run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    lines = [line.strip() for line in lines[lines.index("records of folder:some:") :]]
    assert lines[1].startswith("0.png: broken image")
    assert "5 of 6 records can be used" in lines
    assert "short side of the pictures: 16 to 16, median 16 px" in lines
    assert "0 duplicates; 1 picture again with another caption" in lines
    assert main.run([*command, "--check_records=2"]) == 0
    assert "4 of 6 records were not read" in capsys.readouterr().out
    assert main.run([*command, "--check_records=0"]) == 0
    assert "records: not read (--check_records=0)" in capsys.readouterr().out


def test_a_dry_run_finds_bad_records_that_no_start_reads(
    experiment, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("glide_jax.train.data_check.MOST_RECORDS", 4)
    write_pictures(tmp_path / "some", 40, broken=2)
    command = ["train", f"--config={experiment}", f"{SOURCES}=folder:some", "--dry_run"]
    assert main.run(command) == 2
    assert "2 of 40 records cannot be used" in capsys.readouterr().err
    assert main.run([*command, "--check_records=0"]) == 0
