"""`glide evaluate --curves`: from a sweep's folder or rows to a picture and a table."""

from __future__ import annotations

import json

import pytest

from glide_jax.cli import main
from glide_jax.sweep import result, run_list, state, sweep_file
from tests.eval.test_evaluate_command import evaluate, world  # noqa: F401
from tests.launch import launchers
from tests.sample.conftest import bundles, models, tokenizer  # noqa: F401
from tests.sweep.test_guidance_curves import FIGURES

RUNS = [
    {"guidance_mode": "none"},
    {"guidance_mode": "cfg", "guidance_scale": 2.0},
    {"guidance_mode": "clip", "clip_guidance_scale": 3.0},
]


@pytest.fixture
def sweep(tmp_path):
    """A folder of a sweep whose runs are finished, and its plan."""
    defined = sweep_file.Definition("curves", ("evaluate",), RUNS)
    plan = run_list.make(defined, ["--reference=ref.npz"])
    root = tmp_path / "sweep"
    run_list.keep(plan, root)
    for number, run in enumerate(plan.runs):
        finish(root, run, number)
    return plan, root


def finish(root, run, number, **changed):
    entry = state.RunRecord(root, run.id)
    entry.begin()
    entry.end(0)
    path = entry.result
    path.parent.mkdir(exist_ok=True)
    made = {
        "schema": 1,
        "verb": "evaluate",
        "settings": {"pictures": run.overrides, "features": "noised_clip aaa"},
        "metrics": FIGURES | {"noised_clip_fid": 10.0 + number},
        "machine": {},
    }
    path.write_text(json.dumps(made | changed))


def draw(source, output):
    return main.run(["evaluate", f"--curves={source}", f"--output={output}"])


def refused(capsys, source, output="c.png") -> str:
    assert draw(source, output) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_folder_and_its_rows_give_the_same_table(sweep, tmp_path, capsys):
    plan, root = sweep
    rows = tmp_path / "rows.jsonl"
    result.write_rows(rows, result.make_rows(plan, root))
    tables = []
    for source, name in ((root, "a"), (rows, "b")):
        output = tmp_path / "made" / f"{name}.png"
        assert draw(source, output) == 0
        assert capsys.readouterr().out.split() == [
            str(output),
            str(output.with_suffix(".md")),
        ]
        assert output.read_bytes().startswith(b"\x89PNG")
        text = output.with_suffix(".md").read_text()
        # The folder they lie in is the machine's.
        drawn_by = f"glide evaluate --curves={source.name} --output={output.name}"
        assert drawn_by in text
        assert str(tmp_path) not in text
        tables.append(text.partition("Drawn by")[0])
    assert tables[0] == tables[1]
    assert "| clip | 3 | 0.9 | 0.5 | 8 | 12 | 40 |" in tables[0]


def test_the_table_that_is_kept_is_what_its_rows_say(tmp_path):
    kept = launchers.ROOT / "experiments" / "results" / "curves" / "quickstart.jsonl"
    assert draw(kept, tmp_path / "c.png") == 0
    table = (tmp_path / "c.md").read_text().partition("Drawn by")[0]
    assert kept.with_suffix(".md").read_text().startswith(table)


def test_unfinished_runs_are_logged_and_left_out(sweep, tmp_path, caplog):
    plan, root = sweep
    state.RunRecord(root, plan.runs[2].id).result.unlink()
    assert draw(root, tmp_path / "c.png") == 0
    assert "2 of 3 runs are finished" in caplog.text
    assert "| clip |" not in (tmp_path / "c.md").read_text()


def test_a_folder_without_finished_runs_is_refused(sweep, capsys):
    plan, root = sweep
    for run in plan.runs:
        state.RunRecord(root, run.id).result.unlink()
    assert "no run is finished" in refused(capsys, root).splitlines()[-1]


def test_runs_with_features_of_other_weights_are_refused(sweep, tmp_path, capsys):
    plan, root = sweep
    finish(root, plan.runs[1], 1, settings={"features": "noised_clip bbb"})
    assert "features noised_clip aaa and run" in refused(capsys, root)
    made, rows = result.make_rows(plan, root), tmp_path / "rows.jsonl"
    result.write_rows(rows, made)
    assert "features noised_clip aaa and run" in refused(capsys, rows)


def test_what_is_to_be_read_with_care_stands_once_below_the_table(sweep, tmp_path):
    plan, root = sweep
    for number, run in enumerate(plan.runs):
        finish(root, run, number, warnings=["fid: too few pictures"])
    assert draw(root, tmp_path / "c.png") == 0
    assert (tmp_path / "c.md").read_text().count("\n- fid: too few pictures\n") == 1


def test_a_result_of_an_older_schema_is_refused(sweep, capsys):
    plan, root = sweep
    finish(root, plan.runs[1], 1, schema=0)
    assert "has schema 0, and this version reads 1" in refused(capsys, root)


def test_a_folder_that_holds_no_sweep_is_refused(tmp_path, capsys):
    assert "has no plan.json" in refused(capsys, tmp_path)
    assert "there is no file" in refused(capsys, tmp_path / "rows.jsonl")


def test_the_picture_is_a_png_and_no_other_flag_is_read(sweep, tmp_path, capsys):
    _, root = sweep
    assert "is not a PNG file" in refused(capsys, root, tmp_path / "folder")
    flags = [f"--curves={root}", "--output=c.png", "--num_images=10"]
    assert main.run(["evaluate", *flags]) == 2
    assert "reads no --num_images" in capsys.readouterr().err


def test_a_page_of_ones_own_beside_the_picture_is_left_alone(sweep, tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text("# Mine")
    assert "which is another page" in refused(capsys, sweep[1], tmp_path / "README.png")
    assert page.read_text() == "# Mine"


def test_an_unwritable_output_is_a_one_line_error(sweep, tmp_path, capsys):
    _, root = sweep
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "c.png"
    assert "cannot be written (File exists)" in refused(capsys, root, output)


@pytest.mark.slow
def test_curves_are_drawn_of_evaluations_of_every_mode(evaluate, tmp_path, bundles):  # noqa: F811
    # The results are those that glide evaluate writes.
    defined = sweep_file.Definition("curves", ("evaluate",), RUNS)
    shared = [f"--clip={bundles['clip']}", "--metrics=fid,precision_recall"]
    shared[1] += ",inception_score,clip_score"
    plan = run_list.make(defined, shared)
    run_list.keep(plan, tmp_path)
    for run in plan.runs:
        entry = state.RunRecord(tmp_path, run.id)
        own = [f"--{name}={value}" for name, value in run.overrides.items()]
        entry.begin()
        assert evaluate(*shared, *own, output=entry.folder) == 0
        entry.end(0)
    assert draw(tmp_path, tmp_path / "c.png") == 0
    lines = (tmp_path / "c.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == [
        "| unguided",
        "| cfg",
        "| clip",
    ]
