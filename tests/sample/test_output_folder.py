"""A folder of samples: refused, or continued with what it holds listed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.cli import main
from glide_jax.eval import picture_folder, picture_sets
from glide_jax.sample import image_io, output_folder


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
    samples = picture_folder.read(str(tmp_path))
    assert [s.prompt for s in samples] == ["a", "a", "b"]
    shown = picture_sets.open_saved(str(tmp_path), None).read(0, 3)
    assert shown.captions == ["a", "a", "b"]
    assert shown.pixels[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_no_sheet_of_an_earlier_run_stays(tmp_path):
    add(tmp_path, [0, 1], "a", "grid.png", "beside.png")
    assert {"grid.png", "beside.png"} <= {*names(tmp_path)}
    add(tmp_path, [2], "b")
    assert names(tmp_path) == ["000000.png", "000001.png", "000002.png", "samples.json"]
    add(tmp_path, [3, 4], "c", "grid.png")
    assert (image_io.read_image(tmp_path / "grid.png") == 3).all()


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
    image_io.write_png(tmp_path / "p.png", np.zeros((8, 8, 3), np.uint8))
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


def test_files_of_an_interrupted_run_are_kept_and_reported(tmp_path, caplog):
    (tmp_path / "000004.png").write_text("")
    with pytest.raises(errors.UserError, match=r"1 picture, no samples\.json"):
        choose(tmp_path)
    assert choose(tmp_path, append=True) == 5
    assert "1 picture that no samples.json lists" in caplog.text


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


def batch(indices, count, seed=0, **inputs):
    """A record of some pictures of a run of `count`, and their pixels."""
    entries = [{"index": i, "prompt": "a", "file": f"{i:06d}.png"} for i in indices]
    record = {
        "verb": "sample",
        **inputs,
        "asked": {"pictures": count, "prompts_sha256": "p", "flags": {"seed": seed}},
        "bundles": {"base": {"folder": "b", "digest": "d"}},
        "settings": {"first_index": indices[0], "candidates": 1, "seed": seed},
        "images": entries,
    }
    pixels = [np.full((4, 4, 3), i, np.uint8) for i in indices]
    return [(e["file"], p) for e, p in zip(entries, pixels, strict=True)], record


def start(folder, record, *, append=False):
    return output_folder.start(
        folder,
        record,
        append=append,
        first_index=None,
        span=record["asked"]["pictures"],
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_in_batches_leaves_what_one_batch_leaves(tmp_path):
    for name, parts in (("one", [[0, 1, 2, 3]]), ("two", [[0, 1], [2, 3]])):
        folder = tmp_path / name
        folder.mkdir()
        for indices in parts:
            pictures, record = batch(indices, 4)
            record["settings"]["first_index"] = 0
            output_folder.add(folder, pictures, record)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_unfinished_run_is_continued_by_the_same_request_alone(tmp_path, caplog):
    caplog.set_level("INFO")
    mask = {"file": "m.png", "sha256": "m"}
    pictures, record = batch([0, 1], 4, mask=mask)
    output_folder.add(tmp_path, pictures, record)
    # Another place of the same file is no other request.
    again = {**record, "mask": {"file": "elsewhere.png", "sha256": "m"}}
    assert start(tmp_path, again) == (0, 2)
    assert "2 of 4 pictures are drawn; continuing with picture 2" in caplog.text
    asked = record["asked"]
    for change, named in (
        ({"verb": "edit"}, 'verb is "sample" there and "edit" here'),
        ({"asked": {**asked, "flags": {"seed": 1}}}, "--seed is 0 there and 1 here"),
        ({"asked": {**asked, "flags": {}}}, "--seed is 0 there and not given here"),
        ({"asked": {**asked, "pictures": 9}}, "number of pictures differs"),
        ({"asked": {**asked, "prompts_sha256": "q"}}, "text of the prompts differs"),
        ({"bundles": {"base": {"digest": "e"}}}, "bundle of --base differs"),
        ({"mask": {"file": "m.png", "sha256": "n"}}, "file of --mask differs"),
    ):
        with pytest.raises(errors.UserError, match=f"2 of 4 pictures.*{named}"):
            start(tmp_path, {**record, **change})
    output_folder.add(tmp_path, *batch([2, 3], 4, mask=mask))
    with pytest.raises(errors.UserError, match="holds samples already"):
        start(tmp_path, record)


def test_another_run_is_appended_to_an_unfinished_one(tmp_path, caplog):
    output_folder.add(tmp_path, *batch([0, 1], 4))
    _, other = batch([2, 3], 4, seed=1)
    assert start(tmp_path, other, append=True) == (2, 0)
    assert "--seed is 0 there and 1 here" in caplog.text
    output_folder.add(tmp_path, *batch([2, 3], 4, seed=1))
    # Cut as well: the same command adds what is missing, whether it says --append.
    for append in (True, False):
        assert start(tmp_path, other, append=append) == (2, 2)
    assert output_folder.add(tmp_path, *batch([4, 5], 4, seed=1)) == 6
    record = output_folder.read_record(tmp_path)
    assert [entry.get("run") for entry in record["images"]] == [0, 0, *[None] * 4]
    assert record["earlier_runs"][0]["asked"]["pictures"] == 4
    assert start(tmp_path, other, append=True) == (6, 0)


@pytest.mark.parametrize("moved", range(4))
def test_a_process_killed_while_it_moves_files_leaves_a_run_to_continue(
    tmp_path, moved
):
    folder = tmp_path / "out"
    folder.mkdir()
    script = f"""
    import os, pathlib, signal
    from glide_jax.sample import output_folder
    from tests.sample import test_output_folder as tests

    whole, left = pathlib.Path.replace, [{moved}]

    def replace(*arguments):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return whole(*arguments)

    pathlib.Path.replace = replace
    output_folder.add(pathlib.Path({str(folder)!r}), *tests.batch([0, 1], 4))
    """
    run = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(run, check=False).returncode == -signal.SIGKILL
    pictures, record = batch([0, 1], 4)
    assert start(folder, record) == (0, 0)
    output_folder.add(folder, pictures, record)
    # The draft of the killed process is gone, and nothing tells that there was one.
    whole = tmp_path / "whole"
    whole.mkdir()
    output_folder.add(whole, pictures, record)
    assert contents(folder) == contents(whole)


def test_pictures_are_appended_from_the_command_line(bundles, tmp_path, capsys):
    flags = [f"--base={bundles['base']}", "--respacing=2", "--num_images=2"]
    flags += [f"--output={tmp_path / 'out'}"]
    assert main.run(["sample", "--prompt=a big r circle", *flags]) == 0
    first = image_io.read_image(tmp_path / "out" / "000001.png")
    assert main.run(["sample", "--prompt=a big r circle", *flags]) == 2
    assert main.run(["sample", "--prompt=a big r circle", *flags, "--append"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "first as picture 2 of seed 0; samples.json lists 4" in told[-1]
    drawn = {
        image_io.read_image(tmp_path / "out" / f"{i:06d}.png").tobytes()
        for i in range(4)
    }
    assert len(drawn) == 4
    assert first.tobytes() in drawn
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["settings"]["first_index"] == 2
    assert record["earlier_runs"][0]["settings"]["first_index"] == 0
    assert not (tmp_path / "out" / ".lock").exists()
