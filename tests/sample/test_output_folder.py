"""A folder of samples: refused, or continued with what it holds listed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.cli import main
from glide_jax.eval import pictures, sample_folder
from glide_jax.sample import images, output_folder


def choose(folder, *, append=False, asked=None, span=1):
    return output_folder.choose_first_index(
        folder, append=append, asked=asked, span=span
    )


def add(folder, indices, prompt, *sheets, **settings):
    """A run's pictures, of one grey each, as `glide sample` writes them."""
    entries = [{"index": i, "prompt": prompt, "file": f"{i:06d}.png"} for i in indices]
    pixels = [np.full((4, 4, 3), i, np.uint8) for i in indices]
    drawn = [(entry["file"], p) for entry, p in zip(entries, pixels, strict=True)]
    drawn += [(name, pixels[0]) for name in sheets]
    record = {"verb": "sample", "settings": settings, "images": entries}
    return output_folder.add(folder, drawn, record)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_runs_are_added_with_their_own_settings(tmp_path):
    for run, indices in enumerate([[0, 1], [2], [7]]):
        assert choose(tmp_path, append=True) == (0, 2, 3)[run]
        add(tmp_path, indices, f"prompt {run}", seed=run)
    assert choose(tmp_path, append=True) == 8
    record = json.loads((tmp_path / "samples.json").read_text())
    runs = [*record["earlier_runs"], record]
    of_entries = {
        entry["file"]: runs[entry.get("run", -1)]["settings"]["seed"]
        for entry in record["images"]
    }
    assert of_entries == {
        "000000.png": 0,
        "000001.png": 0,
        "000002.png": 1,
        "000007.png": 2,
    }
    assert all("versions" in run for run in runs)


def test_those_who_read_samples_see_all_runs(tmp_path):
    add(tmp_path, [0, 1], "a")
    add(tmp_path, [2], "b", "grid.png")
    samples = sample_folder.read(str(tmp_path))
    assert [s.prompt for s in samples] == ["a", "a", "b"]
    shown = pictures.open_saved(str(tmp_path), None).read(0, 3)
    assert shown.captions == ["a", "a", "b"]
    assert shown.pixels[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_no_sheet_of_an_earlier_run_stays(tmp_path):
    add(tmp_path, [0, 1], "a", "grid.png", "beside.png")
    assert {"grid.png", "beside.png"} <= {*names(tmp_path)}
    add(tmp_path, [2], "b")
    assert names(tmp_path) == ["000000.png", "000001.png", "000002.png", "samples.json"]
    add(tmp_path, [3, 4], "c", "grid.png")
    assert (images.read_image(tmp_path / "grid.png") == 3).all()


@pytest.mark.parametrize(
    "held", ["000000.png", "000003_base.png", "1000000.png", "grid.png", "samples.json"]
)
def test_a_folder_with_samples_is_refused_before_models_are_read(
    tmp_path, capsys, monkeypatch, held
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    text = '{"images": []}' if held == "samples.json" else ""
    (folder / held).write_text(text)
    images.write_png(tmp_path / "p.png", np.zeros((8, 8, 3), np.uint8))
    ask = ["--prompt=x", "--base=absent", "--output=out"]
    for argv in (
        ["sample", *ask],
        ["edit", "--image=p.png", *ask],
        ["inpaint", "--image=p.png", "--extend=0,0,4,0", *ask],
    ):
        assert main.run(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "--output=out holds samples already" in line
        assert "--append" in line
    assert names(folder) == [held]
    assert (folder / held).read_text() == text


def test_other_files_in_the_folder_do_no_harm(tmp_path):
    for name in ("notes.txt", "photo.png", "12.png", "result.json"):
        (tmp_path / name).write_text("")
    assert choose(tmp_path) == 0
    assert choose(tmp_path, asked=5) == 5


def test_what_an_interrupted_run_left_is_kept_and_told(tmp_path, caplog):
    (tmp_path / "000004.png").write_text("")
    with pytest.raises(errors.UserError, match=r"1 picture, no samples\.json"):
        choose(tmp_path)
    assert choose(tmp_path, append=True) == 5
    assert "1 pictures that no samples.json lists" in caplog.text


def test_an_index_that_is_there_is_not_drawn_over(tmp_path):
    add(tmp_path, [4], "a")
    assert choose(tmp_path, append=True, asked=0, span=4) == 0
    with pytest.raises(errors.UserError, match="holds picture 4 already"):
        choose(tmp_path, append=True, asked=0, span=5)


def test_a_record_of_something_else_is_refused(tmp_path):
    for text in ("{", "[]", "{}", '{"images": [{"file": "../x.png"}]}'):
        (tmp_path / "samples.json").write_text(text)
        with pytest.raises(errors.UserError, match="is not what glide sample writes"):
            choose(tmp_path, append=True)


def test_a_run_that_cannot_be_written_changes_nothing(tmp_path):
    add(tmp_path, [0, 1], "a", "grid.png")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    pixels = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(errors.UserError, match="cannot write"):
        output_folder.add(
            tmp_path,
            [("000002.png", pixels), ("absent/000003.png", pixels)],
            {"images": [{"index": 2, "prompt": "b", "file": "000002.png"}]},
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_pictures_are_appended_from_the_command_line(bundles, tmp_path, capsys):
    flags = [f"--base={bundles['base']}", "--respacing=2", "--num_images=2"]
    flags += [f"--output={tmp_path / 'out'}"]
    assert main.run(["sample", "--prompt=a big r circle", *flags]) == 0
    first = images.read_image(tmp_path / "out" / "000001.png")
    assert main.run(["sample", "--prompt=a big r circle", *flags]) == 2
    assert main.run(["sample", "--prompt=a big r circle", *flags, "--append"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "first as picture 2 of seed 0; samples.json lists 4" in told[-1]
    drawn = {
        images.read_image(tmp_path / "out" / f"{i:06d}.png").tobytes() for i in range(4)
    }
    assert len(drawn) == 4
    assert first.tobytes() in drawn
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["settings"]["first_index"] == 2
    assert record["earlier_runs"][0]["settings"]["first_index"] == 0
    assert not (tmp_path / "out" / ".lock").exists()
