"""Every mistake of a user's: one line that names it, exit code 2, nothing written."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from glide_jax.cli import main
from glide_jax.runtime import lifecycle
from tests import fake_devices
from tests.train import small_runs

BASE64 = fake_devices.ROOT / "experiments" / "configs" / "base64.py"


NEAREST = "optim.learning_rte is not a setting; did you mean optim.learning_rate?"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["trian"], "'trian' is not a verb; did you mean 'train'?"),
        (["xyz"], "'xyz' is not a verb; the verbs are quickstart, data check"),
        (["help", "trian"], "did you mean 'train'?"),
        (["train"], "--config is missing"),
        (["train", "--confg=x.py"], "confg"),
        (["train", "runs/base"], "'runs/base'"),
        (["train", "--config=absent.py:tiny"], "absent.py"),
        (["train", "--config=absent.py:tiny", "--config.seed=1"], "absent.py"),
        (["train", f"--config={BASE64}:tiny", "--config.sd=1"], "sd is not a setting"),
        (["train", f"--config={BASE64}:huge"], "'huge' is not one of tiny"),
        (["quickstart", "now"], "'now' is not a flag"),
        (["quickstart", "--scale=much"], "scale"),
        (["quickstart", "--scale=-1"], "scale"),
        (["quickstart", "--scale=nan"], "--scale=nan is not finite"),
        (["export"], "0 workdirs"),
        (["export", "a", "b"], "2 workdirs"),
        (["export", "absent"], "absent has no config.json"),
        (["export", "absent", "--dtype=float8"], "dtype"),
        (["data"], "the verbs are data check, data build, data prepare"),
        (["data", "chek"], "did you mean 'data check'?"),
        (["data", "check"], "0 sources given"),
        (["data", "check", "folder:absent"], "absent"),
        (["data", "build"], "--output is missing"),
        (["data", "build", "--output=o"], "--source is missing"),
        (["data", "build", "--output=o", "--source=cubes:1"], "cubes:1"),
        (["data", "build", "--output=o", "--source=folder:absent"], "absent"),
        (["data", "tokenizer", "--output=o", "--vocab_size=2"], "vocab_size"),
        (["sample", "--output=o"], "give either --prompt"),
        (["sample", "--prompt=x"], "--output is missing"),
        (["sample", "--prompt=x", "--output=o", "--upsampler=up"], "needs --base"),
        (["sample", "--prompt=x", "--output=o", "--base=absent"], "absent"),
        (["inpaint", "--prompt=x"], "--image=FILE"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(refused, argv, named):
    assert named in refused(*argv)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "--workdir is missing"),
        (["--workdir=run", "--config.optim.learning_rte=1"], NEAREST),
        (["--workdir=run", "--config.optm.eps=1"], "optim"),
        (["--workdir=run", "--config.train.num_steps=many"], "num_steps"),
        (["--workdir=run", "--config.train.num_steps=0"], "train.num_steps=0"),
        (["--workdir=run", "--config.model.num_channels=33"], "num_channels"),
        (["--workdir=run", "--config.seed=-1"], "seed=-1"),
        (["--workdir=run", "--config.train.init_from=absent"], "absent"),
        (["--workdir=run", "--config.data.tokenizer=absent"], "absent"),
        (
            ["--workdir=run", "--config.data.sources=('webdataset:{0..3}.tar',)"],
            "webdataset:{0..3}.tar",
        ),
        (["--workdir=run", "--config.data.sources=()"], "data.sources=()"),
        (["--workdir=run", "--config.mesh.fsdp=3"], "mesh.fsdp=3"),
        (["--workdir=run", "--config.sample.respacing=x"], "sample.respacing='x'"),
        (
            ["--workdir=run", "--allow_change=seed,model.compute_dtyp"],
            "'model.compute_dtyp' is not a setting; did you mean model.compute_dtype?",
        ),
        (["--workdir=run", "--devices=8"], "add --dry_run"),
        (["--workdir=run", "--profile_steps=5"], "--profile_steps=5"),
        (["--workdir=run", "--profile_steps=5:5"], "e.g. 100:105"),
        (["--workdir=run", "--profile_steps=0:2"], "the first, from 1"),
        (["--dry_run", "--profile_steps=a:b"], "--profile_steps=a:b"),
        (["--dry_run", "--config.seed=9999999999"], "seed=9999999999"),
        (["--dry_run", "--config.sample.respacing=x"], "sample.respacing='x'"),
        (["--dry_run", "--config.data.sources=('folder:absent',)"], "absent"),
        (["--dry_run", "--config.train.init_from=absent"], "absent does not exist"),
        (["--dry_run", "--devices=8", "--config.mesh.fsdp=3"], "mesh.fsdp=3"),
    ],
)
def test_a_mistake_in_the_settings_of_a_run_is_named(refused, experiment, flags, named):
    assert named in refused("train", f"--config={experiment}", *flags)


def test_a_missing_shard_of_a_range_is_named(refused, experiment, tmp_path):
    (tmp_path / "000.tar").write_bytes(b"")
    line = refused(
        "train",
        f"--config={experiment}",
        "--workdir=run",
        "--config.data.sources=('webdataset:{000..002}.tar',)",
    )
    assert "001.tar" in line


def test_a_workdir_that_cannot_be_written_is_named(refused, experiment, tmp_path):
    # Below a file nobody may make a folder, whatever their rights.
    (tmp_path / "file").write_text("")
    line = refused("train", f"--config={experiment}", "--workdir=file/run")
    assert "--workdir=file/run cannot be written" in line
    line = refused("quickstart", "--output=file/run")
    assert "--output=file/run cannot be written" in line
    data = ["data", "tokenizer", "--source=shapes:quickstart"]
    assert "file/run" in refused(*data, "--output=file/run")


def test_a_workdir_of_another_model_is_refused_with_the_difference(
    refused, experiment, workdir
):
    train = ["train", f"--config={experiment}", f"--workdir={workdir}"]
    line = refused(*train, "--config.model.text_layers=2")
    assert "model.text_layers: 1 -> 2" in line
    assert "--allow_change" not in line, "no flag makes the checkpoints another shape"
    line = refused(*train, "--config.seed=7")
    assert "--allow_change=seed" in line


def test_a_run_with_checkpoints_of_which_none_is_good_does_not_start_over(
    experiment, workdir, tmp_path, capsys
):
    run = shutil.copytree(workdir, tmp_path / "run")
    for path in run.glob("checkpoints/*/meta.json"):
        path.write_text("{}")
    for argv in (
        ["train", f"--config={experiment}", f"--workdir={run}"],
        ["export", str(run), f"--output={tmp_path / 'bundle'}"],
    ):
        assert main.run(argv) == lifecycle.ExitCode.NO_CHECKPOINT
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 1
        assert "none is valid (tried 1)" in told[0]
    assert not (tmp_path / "bundle").exists()


def test_a_step_that_is_not_there_or_damaged_is_not_exported(
    refused, workdir, tmp_path
):
    line = refused("export", str(workdir), "--output=o", "--step=7")
    assert "no checkpoint of step 7" in line
    assert "stored: 1" in line
    run = shutil.copytree(workdir, tmp_path / "run")
    (run / "checkpoints" / "1" / "meta.json").write_text("{}")
    line = refused("export", str(run), "--output=o", "--step=1")
    assert "checkpoint step 1 in" in line
    assert "meta.json has 2 bytes" in line


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(experiment, tmp_path):
    output = fake_devices.run_with_devices(f"""
        import contextlib, io
        from glide_jax.cli import main
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            code = main.run([
                "train", "--config={experiment}", "--workdir={tmp_path / "run"}",
                "--config.train.global_batch_size=12", "--config.mesh.fsdp=2",
            ])
        print(code, told.getvalue(), end="")
    """)
    assert output.count("\n") == 1
    assert output.startswith("2 ")
    assert "global_batch_size=12 is not divisible by 8 (mesh data=4, fsdp=2)" in output
    assert "data=4, fsdp=2" in output
    assert "use 8 or 16" in output
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_is_printed_without_escapes(refused, experiment):
    line = refused("train", f"--config={experiment}", "--config.optim.learning_rte=1")
    assert "\\" not in line
    assert line.startswith(f"glide train: {NEAREST}")


def test_a_quickstart_of_another_scale_is_refused(refused, tmp_path):
    (tmp_path / "ledger.json").write_text('{"scale": {"seconds": 0.0, "result": 0.1}}')
    line = refused("quickstart", "--output=.", "--scale=0.2")
    assert "--scale=0.2 differs from 0.1" in line


def test_a_bundle_that_cannot_be_written_is_named(refused, workdir, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused("export", str(workdir), "--output=file/bundle")
    assert "file/bundle cannot be written" in line


def test_an_average_that_a_run_does_not_keep_is_named(refused, workdir):
    line = refused("export", str(workdir), "--ema=0.99", "--output=o")
    assert "0.9, 0.5" in line


def test_bundles_of_the_wrong_kind_are_named(refused, workdir, clip_bundle):
    base = workdir / "bundle"
    ask = "sample", "--prompt=x", "--output=o"
    assert "is not a base model" in refused(*ask, f"--base={clip_bundle}")
    assert "is not an upsampler" in refused(
        *ask, f"--base={base}", f"--upsampler={base}"
    )
    assert "is not a noised CLIP" in refused(
        *ask, f"--base={base}", f"--clip={base}", "--guidance_mode=clip"
    )
    # A workdir is no bundle.
    assert str(workdir) in refused(*ask, f"--base={workdir}")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--guidance_scale=much"], "guidance_scale"),
        (["--guidance_scale=nan"], "guidance_scale"),
        (["--guidance_scale=-1"], "guidance_scale"),
        (["--respacing=2000"], "respacing"),
        (["--batch_size=0"], "batch_size"),
    ],
)
def test_a_number_out_of_its_range_is_named(refused, workdir, flags, named):
    base = f"--base={workdir / 'bundle'}"
    assert named in refused("sample", base, "--prompt=x", "--output=o", *flags)


def test_a_prompt_file_that_is_not_utf8_is_named(refused, workdir, tmp_path):
    (tmp_path / "latin.txt").write_bytes("grün".encode("latin-1"))
    line = refused("sample", "--prompt_file=latin.txt", "--output=o", "--base=b")
    assert "latin.txt is not UTF-8" in line


def test_pictures_and_masks_that_do_not_fit_are_named(refused, workdir, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "picture.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    base = f"--base={workdir / 'bundle'}"
    ask = "inpaint", base, "--prompt=x", "--output=o"
    for image, mask, named in (
        ("picture.png", "small.png", "mask"),
        ("picture.png", "absent.png", "absent.png"),
        ("text.png", "small.png", "text.png"),
        ("picture.png", "picture.png", "--mask_from"),  # nothing is white
    ):
        line = refused(*ask, f"--image={image}", f"--mask={mask}")
        assert named in line.removeprefix("glide inpaint: ")


def test_a_model_that_cannot_inpaint_is_named(workdir, tmp_path, capsys):
    hole = np.zeros((8, 8), np.uint8)
    Image.fromarray(hole).save(tmp_path / "picture.png")
    hole[2:4] = 255
    Image.fromarray(hole).save(tmp_path / "hole.png")
    flags = [f"--image={tmp_path}/picture.png", f"--mask={tmp_path}/hole.png"]
    ask = ["inpaint", f"--base={workdir / 'bundle'}", "--prompt=x", "--output=o"]
    assert main.run([*ask, *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == "mask: 25% of 8x8 is repainted (white)"
    assert "inpaint" in captured.err.removeprefix("glide inpaint: ")


def test_settings_of_an_experiment_that_fit_no_section_are_named(refused, tmp_path):
    (tmp_path / "own.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'optim': {'lr': 1e-4}})\n"
    )
    line = refused("train", "--config=own.py", "--workdir=run")
    assert "optim.lr is not a setting" in line


def test_small_runs_are_valid(make_config):
    # Otherwise every refusal above could be one of something else.
    from glide_jax.config import validate

    for model in (small_runs.TEXT2IM, small_runs.CLIP):
        validate.validate(make_config(model))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def get_config(size):\n    x = = 1\n", "own.py, line 2: invalid syntax"),
        (
            "def get_config(size):\n    return made\n",
            "own.py, line 2: NameError: name 'made' is",
        ),
        ("import absent_module\n", "own.py, line 1: ModuleNotFoundError"),
        (
            "def get_config(size):\n    raise ValueError('two\\nlines')\n",
            "own.py, line 2: ValueError: two lines; correct this file",
        ),
        ("def get_config(size):\n    return 1 / 0\n", "own.py, line 2: ZeroDivision"),
        ("def get_config(size):\n    return {}['a']\n", "own.py, line 2: KeyError"),
        ("def get_config():\n    return 1\n", "own.py: TypeError: get_config()"),
        ("def get_config(size):\n    open('gone')\n", "the file failed"),
        ("def get_config(size):\n    pass\n", "get_config returned None"),
    ],
)
def test_a_mistake_in_a_configuration_file_is_named_with_its_line(
    refused, tmp_path, text, told
):
    (tmp_path / "own.py").write_text(text)
    assert told in refused("train", "--config=own.py:tiny", "--workdir=run")
    refused("train", "--config=own.py:tiny", "--config.seed=1", "--workdir=run")


def test_a_configuration_without_its_size_is_refused(refused):
    line = refused("train", "--config=base64", "--workdir=run")
    assert "base64.py needs a size" in line
