"""The vote page in a real browser: keys answer, a reload loses nothing, it exports."""

from __future__ import annotations

import json
import time

import pytest

from glide_jax.cli import main
from glide_jax.study import pairs
from tests.eval import sample_folders
from tests.study import browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not browser.is_here(), reason="chromium and chromedriver are not installed"
    ),
]

PROMPTS = sample_folders.PROMPTS
READY = "return !document.querySelector('[data-answer]').disabled"
KEY_OF = {"left": "1", pairs.NEITHER: "2", "right": "3"}


@pytest.fixture
def study(tmp_path):
    """A study of two models, written by the command."""
    flags = [
        f"--samples={sample_folders.make(tmp_path / name, PROMPTS, brightness=level)}"
        for name, level in (("bright", 200), ("dark", 100))
    ]
    folder = tmp_path / "study"
    assert main.run(["evaluate", "pairs", *flags, f"--output={folder}"]) == 0
    return folder


@pytest.fixture
def window(tmp_path):
    with browser.started(tmp_path / "downloads") as window:
        yield window


def text(window, name):
    return window.run(f"return document.getElementById('{name}').textContent")


def vote(window, choose):
    """Answers what is shown as `choose(question, pair name)` says."""
    window.wait_for(READY)
    row = window.run("return rows[place]")
    window.press(KEY_OF[choose(row["question"], row["pair"])])


def test_votes_by_keyboard_survive_a_reload_and_come_out_as_ratings(
    study, window, tmp_path, capsys
):
    shown = json.loads((study / "key.json").read_text())["pairs"]

    def choose(question, name):
        if question == "photorealism" and name == "p0001":
            return pairs.NEITHER
        if question == "caption" and name == "p0002":
            return min(pairs.SIDES, key=lambda side: shown[name][side]["model"])
        # "dark" else wins.
        return max(pairs.SIDES, key=lambda side: shown[name][side]["model"])

    window.open(study / "rater" / "vote.html")
    for _ in range(3):
        vote(window, choose)
    assert text(window, "count") == "3 of 8 answered"
    stored = window.run("return JSON.parse(localStorage.getItem(STORE)).answers")
    assert len(stored) == 3
    # As Chromium sometimes does for a page that is reloaded at once.
    window.run("localStorage.clear()")
    window.reload()
    assert text(window, "count") == "3 of 8 answered"
    window.wait_for(READY)
    window.press(browser.BACKSPACE)
    assert window.run("return place") == 2
    for _ in range(6):
        vote(window, choose)
    assert text(window, "count") == "8 of 8 answered"
    assert window.run("return document.getElementById('end').checkVisibility()")
    window.run("document.getElementById('save').click()")
    answers = tmp_path / "downloads" / "answers.csv"
    end = time.monotonic() + 10
    while not answers.exists():
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.05)

    capsys.readouterr()
    flags = [f"--votes={answers}", f"--key={study / 'key.json'}"]
    out = tmp_path / "elo"
    assert main.run(["evaluate", "elo", *flags, f"--output={out}"]) == 0
    rated = json.loads((out / "elo.json").read_text())["questions"]
    (caption,) = rated["caption"]["differences"]
    assert (caption["a"], caption["wins"], caption["losses"]) == ("dark", 3, 1)
    (realism,) = rated["photorealism"]["differences"]
    assert (realism["a"], realism["wins"], realism["ties"]) == ("dark", 3, 1)


def test_the_newer_of_two_memories_counts(study, window):
    window.open(study / "rater" / "vote.html")

    def recalled(stored, own):
        memories = [
            {"time": time, "answers": {"caption p0001": answer}} if answer else None
            for time, answer in (stored, own)
        ]
        # Not by a reload: Chromium can give the page an older localStorage.
        return window.run(
            "localStorage.setItem(STORE, JSON.stringify(arguments[0]));"
            "history.replaceState(arguments[1] && { [STORE]: arguments[1] }, '');"
            "recall(); return Object.values(answers)",
            *memories,
        )

    assert recalled((0, None), (0, None)) == []
    assert recalled((1, "left"), (0, None)) == ["left"]  # another tab, a later visit
    assert recalled((0, None), (1, "right")) == ["right"]  # reloaded at once
    assert recalled((2, "left"), (1, "right")) == ["left"]  # back to an old entry
    assert recalled((1, "left"), (2, "right")) == ["right"]


def test_a_caption_is_shown_as_text_and_only_where_it_is_asked_about(study, window):
    window.open(study / "rater" / "vote.html")
    shown = {"photorealism": [], "caption": []}
    for _ in range(8):
        question = window.run("return rows[place].question")
        shown[question].append(text(window, "prompt"))
        vote(window, lambda question, name: "left")
    assert shown["photorealism"] == [""] * 4
    assert sorted(shown["caption"]) == sorted(PROMPTS)


def test_no_answer_counts_while_a_picture_is_missing(study, window):
    for path in (study / "rater" / "pairs").glob("*_right.png"):
        path.unlink()
    window.open(study / "rater" / "vote.html")
    window.wait_for("return document.getElementById('trouble').textContent")
    assert "keep the folder pairs beside this page" in text(window, "trouble")
    window.press("1")
    assert text(window, "count") == "0 of 8 answered"


def test_the_page_asks_for_nothing_but_its_pictures(study, window):
    window.open(study / "rater" / "vote.html")
    window.wait_for(READY)
    loaded = window.run(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    folder = (study / "rater" / "pairs").as_uri()
    assert all(name.startswith(folder) for name in loaded)
    assert window.run("return getComputedStyle(document.body).margin") == "0px"
