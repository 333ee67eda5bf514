"""`glide evaluate elo` and `pairs` from the command line: outputs and refusals."""

from __future__ import annotations

import csv
import json
import os
import signal

import numpy as np
import pytest

from glide_jax.cli import main
from glide_jax.sample import image_io
from glide_jax.study import elo_report, pairs
from tests.eval import sample_folders
from tests.study import made_votes


@pytest.fixture
def votes(tmp_path):
    """1000 votes on each two models of table 1, for both questions, a tenth ties."""
    rng = np.random.default_rng(0)
    rows = [
        vote
        for question, ratings in made_votes.TABLE_1.items()
        for vote in made_votes.cast(ratings, question, 1000, rng=rng, tie_prob=0.1)
    ]
    return made_votes.write(tmp_path / "votes.csv", rows)


def test_table_1_comes_back_from_votes_with_its_win_rates(votes, tmp_path, capsys):
    out = tmp_path / "out"
    assert main.run(["evaluate", "elo", f"--votes={votes}", f"--output={out}"]) == 0
    record = json.loads((out / "elo.json").read_text())
    for question, truth in made_votes.TABLE_1.items():
        found = record["questions"][question]
        assert found["votes"] == 3000
        assert len(found["differences"]) == 3
        for entry in found["differences"]:
            # Six intervals of 95%; with this seed all of them hold the truth.
            assert entry["low"] < truth[entry["a"]] - truth[entry["b"]] < entry["high"]
            share = (entry["wins"] + entry["ties"] / 2) / 1000
            # Each two models' own share, and what ratings of all three imply.
            assert entry["win_rate"] == pytest.approx(share, abs=0.03)
        best = max(found["elo"], key=lambda name: found["elo"][name]["elo"])
        assert best == "cfg_3.0"
        assert sum(e["elo"] for e in found["elo"].values()) == pytest.approx(
            0, abs=1e-6
        )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "photorealism", "caption"]
    assert [line.split()[0] for line in lines[1:4]] == [
        "cfg_3.0",
        "clip_2.0",
        "unguided",
    ]
    page = (out / "elo.md").read_text()
    assert record["command"] in page
    assert "| cfg_3.0 | unguided |" in page
    picture = image_io.read_image(out / "elo.png")
    blue = (picture == np.array([0x3B, 0x3B, 0xD0], np.uint8)).all(-1)
    # A dot for each model and question, 8 points across at 150 dots an inch.
    assert blue.sum() == pytest.approx(6 * np.pi * (4 * 150 / 72) ** 2, rel=0.15)


def test_the_seed_and_the_number_of_resamples_are_used(votes, tmp_path):
    found = []
    for flags in ([], ["--seed=1"], ["--resamples=200"]):
        out = tmp_path / f"out{len(found)}"
        command = ["evaluate", "elo", f"--votes={votes}", f"--output={out}", *flags]
        assert main.run(command) == 0
        record = json.loads((out / "elo.json").read_text())
        assert all(flag in record["command"] for flag in flags)
        found.append(record["questions"]["caption"]["elo"]["cfg_3.0"])
    assert len({entry["elo"] for entry in found}) == 1
    assert len({entry["low"] for entry in found}) == 3


def test_an_open_interval_is_null_in_json_and_logged(tmp_path, capsys):
    rows = [("a", "b", "a", "q")] * 9 + [("a", "b", "tie", "q")]
    path = made_votes.write(tmp_path / "votes.csv", rows)
    command = ["evaluate", "elo", f"--votes={path}", f"--output={tmp_path}"]
    assert main.run(command) == 0
    record = json.loads((tmp_path / "elo.json").read_text())["questions"]["q"]
    assert record["elo"]["a"]["high"] is None
    assert record["elo"]["a"]["elo"] == pytest.approx(200 * np.log10(19), abs=1e-3)
    assert "[open, open]" in (tmp_path / "elo.md").read_text()
    assert "resamples had no finite maximum" in capsys.readouterr().out
    assert image_io.read_image(tmp_path / "elo.png").shape[2] == 3


def test_a_model_without_votes_on_a_question_has_an_empty_cell(tmp_path, capsys):
    rows = [("a", "b", winner, "caption") for winner in ("a", "b", "tie")]
    rows += [("b", "c", winner, "photorealism") for winner in ("b", "c")]
    path = made_votes.write(tmp_path / "votes.csv", rows)
    assert main.run(["evaluate", "elo", f"--votes={path}"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert [lines[name].count("[") for name in "abc"] == [1, 2, 1]


def test_a_bar_in_the_name_of_a_model_does_not_break_the_table():
    (header, *_) = elo_report._grid([["a|b", "c"]])
    assert header == "| a\\|b | c |"


def test_a_sheet_filled_in_by_hand_is_rated_with_the_key(tmp_path, capsys):
    flags = [
        f"--samples={sample_folders.make(tmp_path / n, 'pqrs', brightness=b)}"
        for n, b in (("dim", 50), ("lit", 200))
    ]
    study = tmp_path / "study"
    assert main.run(["evaluate", "pairs", *flags, f"--output={study}"]) == 0
    assert "4 pairs of dim, lit" in capsys.readouterr().out
    with (study / "rater" / "sheet.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        # A rater who likes bright pictures, and cannot tell in one pair.
        reds = {
            side: image_io.read_image(
                study / "rater" / "pairs" / f"{row['pair']}_{side}.png"
            )[0, 0, 0]
            for side in pairs.SIDES
        }
        row["answer"] = max(reds, key=reds.get)
        if row["pair"] == "p0001":
            row["answer"] = pairs.NEITHER if row["question"] == "caption" else ""
    rows.append({**rows[0], "pair": "p0001", "question": "photorealism"})
    rows[-1]["answer"] = pairs.NEITHER
    filled = tmp_path / "filled.csv"
    with filled.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    flags = [f"--votes={filled}", f"--key={study / 'key.json'}", "--models=dim,lit"]
    assert main.run(["evaluate", "elo", *flags, f"--output={tmp_path / 'out'}"]) == 0
    assert "1 row without an answer ignored" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "elo.json").read_text())["questions"]
    for question in pairs.QUESTIONS:
        (entry,) = found[question]["differences"]
        assert (entry["a"], entry["wins"], entry["ties"]) == ("lit", 3, 1)


def test_a_signal_ends_the_writing_of_pairs_with_nothing_left(
    tmp_path, monkeypatch, capsys
):
    flags = [
        f"--samples={sample_folders.make(tmp_path / name, 'pq', brightness=1)}"
        for name in "ab"
    ]
    whole = image_io.write_png

    def write_png(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        whole(*arguments)

    monkeypatch.setattr(image_io, "write_png", write_png)
    out = tmp_path / "out"
    assert main.run(["evaluate", "pairs", *flags, f"--output={out}"]) == 42
    assert "stopped by SIGTERM with nothing written" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["elo"], "--votes is missing"),
        (["elo", "votes.csv"], "'votes.csv' is not a flag"),
        (["elo", "--votes=absent.csv"], "absent.csv cannot be read"),
        (["elo", "--votes=v.csv", "--key=absent.json"], "absent.json cannot be read"),
        (["elo", "--votes=v.csv", "--resamples=10"], "resamples"),
        (["pairs", "--output=o"], "0 folders of samples given"),
        (["pairs", "--output=o", "--samples=a"], "1 folders of samples given"),
        (["pairs", "--samples=a", "--samples=b"], "--output is missing"),
        (["pairs", "--samples=a", "--samples=b", "--output=o"], "--samples=a: its"),
        (["pairs", "--samples=a", "--samples=a", "--output=o"], "twice"),
        (["neighbours", "out"], "'out' is not a flag"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(refused, argv, named):
    assert named in refused("evaluate", *argv)


def test_votes_on_unknown_models_are_refused_with_the_nearest(refused, votes):
    told = refused("evaluate", "elo", f"--votes={votes}", "--models=cfg_3,unguided")
    assert "line 2: model 'clip_2.0' is not among the --models cfg_3, unguided" in told
