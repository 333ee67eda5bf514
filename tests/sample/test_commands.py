"""`glide sample` and `glide inpaint`, from the command line to files."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from glide_jax.cli import main
from glide_jax.cli import sample as sample_verb
from glide_jax.config import defaults
from glide_jax.runtime import lifecycle, progress
from glide_jax.sample import cascade, image_io, output_folder


@pytest.fixture
def sample(bundles):
    """sample(*flags) -> exit code of `glide sample` with the small cascade."""

    def run(*flags):
        models = f"--base={bundles['base']}", f"--upsampler={bundles['upsampler']}"
        return main.run(["sample", *models, *flags])

    return run


def test_sampling_writes_pictures_a_grid_and_a_record_that_repeats_them(
    sample, tmp_path, capsys
):
    (tmp_path / "prompts.txt").write_text("a big r circle\n\na small g circle\n")
    flags = [f"--prompt_file={tmp_path / 'prompts.txt'}", "--seed=7", "--batch_size=2"]
    assert sample(*flags, f"--output={tmp_path / 'a' / 'b'}") == 0
    folder = tmp_path / "a" / "b"
    assert "2 pictures" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == [
        "000000.png",
        "000000_base.png",
        "000001.png",
        "000001_base.png",
        "grid.png",
        "samples.json",
    ]
    record = json.loads((folder / "samples.json").read_text())
    assert [entry["prompt"] for entry in record["images"]] == [
        "a big r circle",
        "a small g circle",
    ]
    assert record["settings"]["seed"] == 7
    assert record["bundles"].keys() == {"base", "upsampler"}
    assert sample(*flags, f"--output={tmp_path / 'again'}") == 0
    for path in folder.glob("*.png"):
        again = image_io.read_image(tmp_path / "again" / path.name)
        np.testing.assert_array_equal(again, image_io.read_image(path))


def test_one_picture_of_a_run_is_drawn_alone(sample, tmp_path):
    flags = ["--prompt=a big r circle", "--seed=7", "--respacing=2"]
    flags += ["--upsampler_respacing=2"]
    assert sample(*flags, "--num_images=2", f"--output={tmp_path / 'two'}") == 0
    assert sample(*flags, "--first_index=1", f"--output={tmp_path / 'one'}") == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["000001.png", "000001_base.png", "samples.json"]
    pair = [image_io.read_image(tmp_path / d / "000001.png") for d in ("one", "two")]
    # A batch may round differently, which is at most a level or two.
    assert np.abs(pair[0].astype(int) - pair[1]).max() <= 2


def write_photo(folder, name, colour):
    Image.fromarray(np.full((20, 20, 3), colour, np.uint8)).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(f"a big {name} circle\n")


def test_captions_of_a_source_are_drawn_beside_its_pictures(sample, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in (("r", (250, 0, 0)), ("g", (0, 250, 0)), ("b", (0, 0, 250))):
        write_photo(photos, name, colour)
    flags = [f"--captions_of=folder:{photos}", "--respacing=2"]
    flags += ["--upsampler_respacing=2"]
    two = "--num_captions=2"
    assert sample(*flags, two, f"--output={tmp_path / 'out'}") == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    prompts = [entry["prompt"] for entry in record["images"]]
    assert len(set(prompts)) == 2
    sheet = image_io.read_image(tmp_path / "out" / "beside.png")
    for name, colour in (("r", (250, 0, 0)), ("g", (0, 250, 0)), ("b", (0, 0, 250))):
        is_shown = (sheet == colour).all(axis=-1).sum() > 1000
        assert is_shown == (f"a big {name} circle" in prompts)
    capsys.readouterr()
    (photos / "r.png").write_bytes(b"no picture")
    assert sample(*flags, "--num_captions=3", f"--output={tmp_path / 'two'}") == 2
    assert "r.png" in capsys.readouterr().err
    assert sample(*flags, two, "--num_images=2", f"--output={tmp_path / 'two'}") == 2
    assert "--num_images=2" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_inpainting_keeps_what_the_mask_leaves_black(bundles, tmp_path, capsys):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(picture).save(tmp_path / "picture.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    code = main.run(
        [
            "inpaint",
            f"--base={bundles['base_inpaint']}",
            f"--upsampler={bundles['upsampler_inpaint']}",
            f"--image={tmp_path / 'picture.png'}",
            f"--mask={tmp_path / 'mask.png'}",
            "--prompt=a big r circle",
            "--num_images=2",
            f"--output={tmp_path / 'out'}",
        ]
    )
    assert code == 0
    first, second = (
        image_io.read_image(tmp_path / "out" / name)
        for name in ("000000.png", "000001.png")
    )
    np.testing.assert_array_equal(first[:, :8], picture[:, :8])
    np.testing.assert_array_equal(second[:, :8], picture[:, :8])
    assert not np.array_equal(first, second)
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["mask"]["file"].endswith("mask.png")
    read_as = "50% of 16x16 is repainted (white)"
    assert record["mask"]["read_as"] == read_as
    assert capsys.readouterr().out.splitlines()[0] == f"mask: {read_as}"
    with Image.open(tmp_path / "out" / "000001_base.png") as base:
        assert base.text["prompt"] == "a big r circle"
        made = json.loads(base.text["glide_jax"])
    assert (made["verb"], made["index"]) == ("inpaint", 1)
    assert made["settings"] == record["settings"]


def write_labels(folder):
    """The label 1 on a ground of 0, as programs that segment write it."""
    labels = np.zeros((16, 16), np.uint8)
    labels[2:14, 2:14] = 1
    Image.fromarray(labels).save(folder / "labels.png")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--mask=labels.png"], "values 0 to 1; white is 255"),
        (["--mask=labels.png", "--mask_from=black"], "everything would be repainted"),
        (["--mask=photo.png", "--mask_from=alpha"], "opacity 255 to 255"),
        (["--mask=photo.png", "--mask_from=grey"], "--mask_from"),
        (["--mask=absent.png"], "--mask=absent.png cannot be read"),
        (["--extend=0,0,8,0", "--mask_from=white"], "--mask_from=white is for a mask"),
    ],
)
def test_a_mask_that_cannot_be_followed_is_one_line_before_any_work(
    flags, named, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_labels(tmp_path)
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save("photo.png")
    flags = [*flags, "--base=absent", "--image=photo.png", "--prompt=x", "--output=o"]
    assert main.run(["inpaint", *flags]) == 2
    output = capsys.readouterr()
    assert len(output.err.strip().splitlines()) == 1, output.err
    assert named in output.err
    assert not output.out
    assert not (tmp_path / "o").exists()


def test_a_contact_sheet_says_never_trained_on_only_where_that_is_known():
    def config(sources, validation, init_from=""):
        return defaults.Config(
            data=defaults.DataConfig(sources=sources, validation_sources=validation),
            train=defaults.TrainConfig(init_from=init_from),
        )

    world, photos = ("shapes:quickstart",), ("folder:photos",)
    unseen = config(world, world)
    assert sample_verb._title(*world, [unseen, unseen]) == "Captions never trained on"
    for spec, configs in (
        (photos, [config(world, photos)]),  # may hold the same files
        (world, [unseen, config(photos, world)]),
        (world, [config((*world, *photos), world)]),
        (world, [config(world, world, init_from="runs/base")]),
        (world, [config(world, ())]),  # as in converted bundles
    ):
        assert sample_verb._title(*spec, configs) == f"Captions of {spec[0]}"


def test_a_picture_is_continued_beyond_its_sides(bundles, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    flags = [f"--base={bundles['base_inpaint']}", "--prompt=a big r circle"]
    flags += [f"--upsampler={bundles['upsampler_inpaint']}"]
    flags += [f"--image={tmp_path / 'picture.png'}", "--extend=0,0,8,0"]
    assert main.run(["inpaint", *flags, f"--output={tmp_path / 'out'}"]) == 0
    wider = image_io.read_image(tmp_path / "out" / "000000.png")
    assert wider.shape == (16, 24, 3)
    np.testing.assert_array_equal(wider[:, :16], picture)


def test_an_edit_is_written_with_what_repeats_it(bundles, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    flags = [f"--base={bundles['base']}", "--prompt=a big r circle"]
    flags += [f"--image={tmp_path / 'picture.png'}", "--num_images=2"]
    out = f"--output={tmp_path / 'out'}"
    assert main.run(["edit", *flags, "--strength=0.5", out]) == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["verb"] == "edit"
    assert record["settings"]["strength"] == 0.5
    assert len(record["image"]["sha256"]) == 64
    kept = f"--output={tmp_path / 'kept'}"
    assert main.run(["edit", *flags, "--strength=0", kept]) == 0
    drawn = image_io.read_image(tmp_path / "kept" / "000001.png")
    np.testing.assert_array_equal(drawn, picture)


def test_a_photo_comes_back_at_its_own_size(bundles, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    mask = np.zeros((40, 64), np.uint8)
    mask[8:18, 50:60] = 255
    Image.fromarray(photo).save("photo.png")
    Image.fromarray(mask).save("mask.png")
    flags = [f"--base={bundles['base_inpaint']}", "--image=photo.png", "--prompt=x"]
    assert main.run(["inpaint", *flags, "--mask=mask.png", "--output=filled"]) == 0
    assert "the 20 x 20 square at (44, 3)" in capsys.readouterr().out
    filled = image_io.read_image("filled/000000.png")
    np.testing.assert_array_equal(filled[mask == 0], photo[mask == 0])
    record = json.loads((tmp_path / "filled" / "samples.json").read_text())
    assert record["settings"]["squares"] == [{"left": 44, "top": 3, "side": 20}]
    assert main.run(["edit", *flags, "--output=edited"]) == 0
    assert "picture 64 x 40, continued to a square" in capsys.readouterr().out
    assert image_io.read_image("edited/000000.png").shape == photo.shape


def test_pictures_of_any_size_are_enlarged(bundles, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, size in (("a", (8, 8)), ("b", (5, 12))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(f"{name}.png")
    flags = ["upsample", f"--upsampler={bundles['upsampler']}", "--output=large"]
    named = ["--image=a.png", "--image=b.png"]
    assert main.run([*flags, *named]) == 2
    assert "--prompt" in capsys.readouterr().err
    assert main.run([*flags, *named, "--prompt=x", "--prompt=y", "--prompt=z"]) == 2
    assert "--prompt is given 3 times" in capsys.readouterr().err
    assert not (tmp_path / "large").exists()
    assert main.run([*flags, *named, "--prompt=x", "--prompt=y"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a.png: 8 x 8 px, enlarged to 16 x 16 in 1 square of 8 x 8"
    assert lines[1] == "b.png: 12 x 5 px, enlarged to 24 x 10 in 2 squares of 8 x 8"
    assert image_io.read_image("large/000000.png").shape == (16, 16, 3)
    assert image_io.read_image("large/000001.png").shape == (10, 24, 3)
    record = json.loads((tmp_path / "large" / "samples.json").read_text())
    assert [e["prompt"] for e in record["images"]] == ["x", "y"]
    assert [e["file"] for e in record["images_enlarged"]] == ["a.png", "b.png"]
    assert record["bundles"].keys() == {"upsampler"}


def test_prompts_are_blended_by_weight(sample, tmp_path):
    flags = ["--prompt=a big r circle", "--prompt=a small g circle", "--respacing=2"]
    flags += ["--blend=0.7,0.3", "--upsampler_respacing=2", "--negative_prompt=b"]
    assert sample(*flags, f"--output={tmp_path / 'out'}") == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    (entry,) = record["images"]
    assert entry["prompt"] == {"a big r circle": 0.7, "a small g circle": 0.3}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--image=p.png", "--strength=2", "--prompt=x"], "strength=2.0"),
        (["--prompt=x"], "--image=FILE"),
        (["--image=absent.png", "--prompt=x"], "absent.png"),
        (
            ["--image=p.png", "--prompt=x", "--sampler=ddpm", "--source_prompt=y"],
            "ddim",
        ),
    ],
)
def test_a_mistake_in_an_edit_is_one_line(
    bundles, tmp_path, capsys, monkeypatch, flags, named
):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16)).save("p.png")
    assert main.run(["edit", f"--base={bundles['base']}", *flags, "--output=out"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert named in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--prompt=x", "--guidance_scale=much"], "guidance_scale"),
        (["--prompt=x", "--guidance_scale=nan"], "guidance_scale=nan"),
        (["--prompt=x", "--guidance_mode=clip"], "needs a noised CLIP"),
        (["--prompt=x", "--respacing=0"], "respacing='0'"),
        (["--prompt=x", "--sampler=ddpm", "--eta=0.5"], "eta=0.5"),
        (["--prompt=x", "--first_index=-1"], "first_index=-1"),
        (["--prompt=x", "--num_images=0"], "--num_images=0"),
        (["--prompt=x", "--candidates=2"], "candidates=2 are compared by"),
        (["--prompt=x", "--blend=0.5,0.5"], "2 weights for 1 prompt;"),
        (["--prompt=x", "--blend=half"], "--blend=half"),
        (["--prompt=x", "--guidance_interval=900,100"], "guidance_interval"),
        (["--prompt=x", "--fsdp=4"], "fsdp=4"),
        (["--prompt=x", "--prompt_file=y"], "either"),
        (["--prompt_file=absent.txt"], "absent.txt"),
        ([], "either"),
        (["x"], "not a flag"),
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_no_file(
    sample, tmp_path, capsys, flags, named
):
    assert sample(*flags, f"--output={tmp_path / 'out'}") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert named in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_prompt_file_that_is_not_utf8_is_one_line(sample, tmp_path, capsys):
    (tmp_path / "latin.txt").write_bytes("grün".encode("latin-1"))
    assert sample(f"--prompt_file={tmp_path / 'latin.txt'}", "--output=out") == 2
    assert "is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/x", "/proc"])
def test_an_output_that_cannot_be_written_is_one_line_before_any_work(
    tmp_path, capsys, place
):
    (tmp_path / "file").write_text("")
    # Were anything done first, the absent bundle would be found.
    flags = "--prompt=x", "--base=absent", f"--output={tmp_path / place}"
    assert main.run(["sample", *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert f"{place} cannot be written" in lines[0]


def _verbs(bundles, tmp_path):
    """Commands that draw three pictures, one in each batch, by their verbs."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in "rgb":
        write_photo(photos, name, (ord(name), 0, 0))
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    base, upsampler = f"--base={bundles['base']}", f"--upsampler={bundles['upsampler']}"
    three = ["--prompt=a big r circle", "--num_images=3"]
    image = f"--image={tmp_path / 'picture.png'}"
    return {
        "sample": ["sample", base, upsampler, f"--captions_of=folder:{photos}"],
        "edit": ["edit", base, *three, image, "--source_prompt=a big g circle"],
        "inpaint": [
            *("inpaint", f"--base={bundles['base_inpaint']}", *three),
            *(image, "--extend=0,0,4,0"),
        ],
    }


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("verb", ["sample", "edit", "inpaint"])
def test_a_stopped_run_is_continued_to_the_same_bytes(
    bundles, tmp_path, monkeypatch, capsys, verb
):
    flags = [*_verbs(bundles, tmp_path)[verb], "--batch_size=1", "--respacing=2"]
    flags += ["--upsampler_respacing=2"] if verb == "sample" else []
    assert main.run([*flags, f"--output={tmp_path / 'whole'}"]) == 0
    write = output_folder.add

    def write_and_stop(*arguments):
        write(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    cut = f"--output={tmp_path / 'cut'}"
    monkeypatch.setattr(output_folder, "add", write_and_stop)
    for kept in (1, 2):
        assert main.run([*flags, cut]) == lifecycle.ExitCode.PREEMPTED
        told = capsys.readouterr().err
        assert f"stopped by SIGTERM with {kept} of 3 pictures kept" in told
        record = json.loads((tmp_path / "cut" / "samples.json").read_text())
        assert len(record["images"]) == kept
        assert record["asked"]["pictures"] == 3
    monkeypatch.undo()
    assert main.run([*flags, cut, "--seed=1"]) == 2
    assert "--seed is 0 there and 1 here" in capsys.readouterr().err
    assert main.run([*flags, cut]) == 0
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "cut") == whole
    assert ("beside.png" in whole) == (verb == "sample")


def test_batches_with_candidates_keep_the_pictures_of_one_call(bundles, tmp_path):
    models = f"--base={bundles['base']}", f"--clip={bundles['clip']}"
    flags = ["--prompt=a big r circle", "--num_images=3", "--candidates=2"]
    flags += ["--batch_size=2", "--respacing=2", "--first_index=5"]
    assert main.run(["sample", *models, *flags, f"--output={tmp_path / 'out'}"]) == 0
    glide = cascade.Glide.load(bundles["base"], clip=bundles["clip"])
    options = {"candidates": 2, "batch_size": 2, "respacing": "2", "first_index": 5}
    drawn = glide.sample("a big r circle", num_images=3, **options)
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert [entry["index"] for entry in record["images"]] == [
        index for _, index in drawn.seeds
    ]
    assert record["settings"] == drawn.settings
    for entry, pixels in zip(record["images"], drawn.images, strict=True):
        written = image_io.read_image(tmp_path / "out" / entry["file"])
        np.testing.assert_array_equal(written, pixels)


def test_a_warning_about_a_prompt_is_logged_once_for_all_batches(
    sample, tmp_path, caplog
):
    long = "--prompt=" + "a big r circle and " * 9
    flags = [long, "--num_images=3", "--batch_size=1", "--respacing=2"]
    flags += ["--upsampler_respacing=2", f"--output={tmp_path / 'out'}"]
    assert sample(*flags) == 0
    told = [r.getMessage() for r in caplog.records if "not seen" in r.getMessage()]
    assert len(told) == 2  # by each of the two models
    assert len(set(told)) == 2


def test_a_signal_ends_sampling_with_nothing_written(
    sample, tmp_path, monkeypatch, capsys
):
    whole = progress.ProgressBar.update

    def update(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        whole(*arguments)

    flags = ["--prompt=a big r circle", "--respacing=2", "--upsampler_respacing=2"]
    flags += [f"--output={tmp_path / 'out'}"]
    monkeypatch.setattr(progress.ProgressBar, "update", update)
    assert sample(*flags) == lifecycle.ExitCode.PREEMPTED
    assert "stopped by SIGTERM with nothing written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    assert sample(*flags) == 0
