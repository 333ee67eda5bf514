"""What the page draws and writes, without the page."""

from __future__ import annotations

import contextlib
import pathlib
import shlex
import socket
import time

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.cli import demo as demo_verb
from glide_jax.cli import main
from glide_jax.demo import ballot, features, history, painting, studio
from glide_jax.demo import bundles as demo_bundles
from glide_jax.demo.commands import Work
from glide_jax.sample import cascade, image_io

PROMPT = "a big r circle"
PHOTO = np.random.default_rng(0).integers(0, 256, (20, 12, 3), np.uint8)
KNOWN = np.ones((20, 12), bool)
KNOWN[4:9, 3:8] = False


@contextlib.contextmanager
def started(models, folder, **limits):
    own = studio.Studio(models, history.History(folder), studio.Limits(**limits))
    try:
        yield own
    finally:
        own.close()


def works(found: features.Features) -> list[Work]:
    """A work of each verb, with options that change the pictures."""
    guided = {"guidance_mode": "cfg", "guidance_scale": 2.5, "sampler": "ddim"}
    chosen = found.chosen({**guided, "eta": 0.25, "negative_prompt": "it's g"})
    return [
        Work("sample", "a 'big' r circle", 2, {**chosen, "seed": 2**32 - 2}),
        Work("inpaint", PROMPT, 1, {"feather_px": 1, "seed": 3}, PHOTO, KNOWN),
        Work("edit", PROMPT, 1, {"seed": 4}, PHOTO, None, 0.75, "a small g circle"),
    ]


@pytest.mark.slow
def test_the_command_draws_the_same_pixels(loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = pathlib.Path("it's here")
    folder.mkdir()
    with started(loaded, folder) as own:
        asked = works(features.find(loaded.draw))
        tickets = [own.submit([work], number) for number, work in enumerate(asked)]
        items = [ticket.future.result(600)[0] for ticket in tickets]
    assert own.history.items == items
    for item in items:
        verb, *flags = shlex.split(item.command.replace("\\\n", " "))[1:]
        assert main.run([verb, *flags]) == 0
        (run,) = item.runs
        for file in run.pictures:
            again = image_io.read_image(f"{run.folder}_again/{file.name}")
            np.testing.assert_array_equal(again, image_io.read_image(file))
    assert (items[1].pixels(0, 0)[KNOWN][0] == PHOTO[KNOWN][0]).all()


def test_a_ticket_is_cancelled_within_a_step_and_the_next_one_is_drawn(
    models, tmp_path, loaded
):
    folders = demo_bundles.Bundles(loaded.bundles.base)
    base = cascade.Glide(models["base_inpaint"])
    small = demo_bundles.Models(folders, base, base)
    limits = {"preview_every_s": 0, "preview_least_s": 0, "tickets": 2}
    with started(small, tmp_path, **limits) as own:
        long = Work("sample", PROMPT, 1, {"respacing": "1000", "seed": 1})
        short = Work("sample", PROMPT, 1, {"seed": 1})
        first = own.submit([long], ("session", "draw"))
        end = time.monotonic() + 300
        while first.preview is None:
            assert not first.future.done()
            assert time.monotonic() < end
            time.sleep(0.01)
        second = own.submit([short], ("other", "draw"))
        own.submit([short], ("session", "fill"))
        with pytest.raises(errors.UserError, match="the queue is full"):
            own.submit([short], ("third", "draw"))
        assert own.ahead(second) == 1
        assert first.preview.shape == (1, 8, 8, 3)
        made = first.progress.num_made
        own.leave("session")
        (item,) = second.future.result(60)
    assert first.future.cancelled()
    assert first.progress.num_made <= made + 200  # of 1000
    assert own.history.items == [item]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"count": 17}, "17 pictures at once; give 1 to 16"),
        ({"options": {"seed": 1, "respacing": "0"}}, "respacing"),
        ({"options": {"seed": 1, "sampler": "magic"}}, "sampler='magic'"),
        ({"verb": "edit", "picture": PHOTO, "strength": 1.5}, "strength=1.5"),
    ],
)
def test_a_work_that_cannot_be_drawn_is_refused_in_one_line(
    loaded, tmp_path, change, line
):
    given = {"verb": "sample", "prompt": PROMPT, "count": 1, "options": {"seed": 1}}
    with (
        started(loaded, tmp_path) as own,
        pytest.raises(errors.UserError, match=line) as refused,
    ):
        own.submit([Work(**{**given, **change})], "anyone")
    assert "\n" not in str(refused.value)


def test_only_what_the_models_support_is_offered(loaded, models):
    every = features.find(loaded.draw)
    assert every.inpaint_modes[0] == "pinned"
    assert "cfg+clip" in every.guidance_modes
    plain = features.find(cascade.Glide(models["base"]))
    assert plain.inpaint_modes == ("masked", "implicit")
    assert not any("clip" in mode for mode in plain.guidance_modes)
    assert plain.upsampler_samplers == ()
    # Values that are not shown, or at their defaults, are not given.
    hidden = {"clip_guidance_scale": 5.0, "eta": 0.5, "upsampler_eta": 0.5}
    assert plain.chosen({**hidden, "sampler": "ddpm"}) == plain.chosen({})
    assert plain.chosen({}, fills=True)["inpaint_mode"] == "masked"
    both = every.chosen({"guidance_mode": "cfg+clip", **hidden, "sampler": "ddim"})
    assert both["clip_guidance_scale"] == 5.0
    assert (both["eta"], both.get("upsampler_eta")) == (0.5, None)
    assert "sampler" not in every.chosen({"sampler": "plms"}, inverts=True)


def test_the_paint_is_read_at_the_size_of_the_picture(loaded):
    canvas = painting.on_canvas(PHOTO)
    assert canvas.shape == (500, 300, 3)  # a whole factor
    np.testing.assert_array_equal(canvas[::25, ::25], PHOTO)
    layer = np.zeros((500, 300, 4), np.uint8)
    layer[4 * 25 : 9 * 25, 3 * 25 - 5 : 8 * 25 + 5] = (255, 0, 0, 255)
    layer[250:255, 100:105] = 255  # a touch
    value = {"layers": [layer]}
    hole = painting.find_hole(PHOTO, value, loaded.fill)
    np.testing.assert_array_equal(hole.known, KNOWN)
    assert "10% of the picture is repainted" in hole.statement
    assert hole.shown.shape == canvas.shape
    sketch = painting.sketched(PHOTO, value, 16)
    np.testing.assert_array_equal(sketch[:4], PHOTO[:4])
    np.testing.assert_array_equal(sketch[5, 5], (255, 0, 0))
    assert painting.sketched(None, value, 16).shape == (16, 16, 3)
    for picture, paint, line in (
        (None, value, "there is no picture"),
        (PHOTO, None, "nothing is painted"),
        (PHOTO, {"layers": [np.full((500, 300, 4), 255, np.uint8)]}, "all of the"),
    ):
        with pytest.raises(errors.UserError, match=line):
            painting.find_hole(picture, paint, loaded.fill)
    with pytest.raises(errors.UserError, match="there is no picture"):
        painting.sketched(None, {"layers": [np.zeros((9, 9, 4), np.uint8)]}, 16)


def test_votes_are_those_that_evaluate_elo_reads(tmp_path, capsys):
    own = ballot.Ballot(tmp_path)
    assert own.report() == "No votes yet."
    names = ("cfg 1, ddpm 4", "cfg 3, ddpm 4")
    sides = set()
    for number, answer in enumerate(["first", "neither", "first", "second"] * 8):
        pair = ballot.shuffle(*names, f"{number:04}", PROMPT)
        sides.add(pair.places)
        side = "left" if pair.places[0] == 0 else "right"
        other = {"left": "right", "right": "left"}[side]
        said = own.add(
            pair, {"first": side, "second": other}.get(answer, answer), "caption"
        )
        assert names[0] in said
        if number == 0:
            assert "No rating yet" in own.report()
    assert sides == {(0, 1), (1, 0)}
    report = ballot.Ballot(tmp_path).report()  # of a later start
    assert "32 votes, 8 ties" in report
    assert f"| {names[0]} | {names[1]} | 16 | 8 | 8 |" in report
    assert main.run(["evaluate", "elo", f"--votes={own.path}"]) == 0
    first, second = capsys.readouterr().out.splitlines()[1:3]
    assert first.startswith(names[0])
    assert second.startswith(names[1])
    own.path.write_text("a,b\n1,2\n")
    with pytest.raises(errors.UserError, match="has no column"):
        ballot.Ballot(tmp_path)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["now"], "'now' is not a flag"),
        (["--port=65536"], "--port=65536 is not a port"),
        (["--port=TAKEN"], "give another --port"),
        (["--clip=x"], "--clip needs a base model"),
        (["--base=x", "--fill_upsampler=y"], "--fill_upsampler is for --fill_base"),
        (["--base=absent"], "absent"),
    ],
)
def test_a_page_that_cannot_start_says_why_in_one_line(
    flags, line, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("uvicorn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_verb, "_NEEDED", ())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = [flag.replace("TAKEN", port) for flag in flags]
        if not any("--port" in flag for flag in flags):
            given.append("--port=0")
        assert main.run(["demo", *given]) == 2
    said = capsys.readouterr()
    assert line in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_line_names_it(monkeypatch, capsys):
    monkeypatch.setattr(demo_verb, "_NEEDED", ("no_such_module",))
    assert main.run(["demo"]) == 2
    assert 'no_such_module, not installed here; pip install -e ".[demo]"' in (
        capsys.readouterr().err
    )
