"""Rows, tables and plots of finished runs."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from PIL import Image

from glide_jax.errors import UserError
from glide_jax.sweep import (
    plots,
    report,
    result,
    run_list,
    state,
    status,
    summary,
)

GRID = (
    "product(listed('scale', [1.0, 3.0, 20.0]), listed('mode', ['cfg', 'clip']), "
    "seeds(2))"
)
ROW = {"schema": 2, "sweep": "small", "id": "a", "label": "", "overrides": {}}
ROW |= {"verb": "evaluate", "flags": {}, "settings": {}, "warnings": []}
ROW |= {"metrics": {}, "seconds": 1.0, "attempts": 1, "machine": {}}


@pytest.fixture
def sweep(make_plan, root):
    """Results of all runs but the last: fid = scale + seed, and 10 more of clip."""
    plan = make_plan(GRID, "--reference=/data/a/reference.npz")
    run_list.keep(plan, root)
    for run in plan.runs[:-1]:
        entry = state.RunRecord(root, run.id)
        entry.folder.mkdir()
        entry.begin()
        value = run.overrides["scale"] + run.overrides["seed"]
        value += 10 * (run.overrides["mode"] == "clip")
        write_result(entry, {"fid": value, "broken": math.nan})
        entry.end(0)
    return plan


def write_result(entry, metrics, **changes):
    fields = {"verb": "evaluate", "settings": {}, "command": "", "machine": {}}
    made = {"schema": result.SCHEMA, **fields, "metrics": metrics, **changes}
    result.write(entry.result, made)


def test_there_is_a_row_for_each_finished_run_in_the_order_of_the_plan(sweep, root):
    rows = result.make_rows(sweep, root)
    assert [row["id"] for row in rows] == [run.id for run in sweep.runs[:-1]]
    first = rows[0]
    assert first["overrides"] == {"scale": 1.0, "mode": "cfg", "seed": 0}
    assert first["label"] == "scale=1,mode=cfg,seed=0"
    assert first["metrics"] == {"fid": 1.0, "broken": None}
    assert (first["schema"], first["sweep"], first["attempts"]) == (2, "small", 1)


def test_a_row_holds_no_path_of_its_machine(sweep, root, monkeypatch):
    text = json.dumps(result.make_rows(sweep, root))
    assert str(root) not in text
    assert "/data/a" not in text
    flags = {"base": "bundle", "reference": "reference.npz"}
    flags |= {"scale": 1.0, "mode": "cfg", "seed": 0}
    (first, *_) = result.make_rows(sweep, root)
    assert first["flags"] == flags
    command = result.command(first["verb"], first["flags"])
    assert command.startswith("glide evaluate --base=bundle --reference=reference.npz")
    monkeypatch.chdir("/")
    (first, *_) = result.make_rows(sweep, root)
    assert first["flags"]["reference"] == "data/a/reference.npz"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("clip:/home/me/runs/clip", "clip:clip"),
        ("webdataset:/data/x-{000..009}.tar", "webdataset:x-{000..009}.tar"),
        ("webdataset:/data/x-*.tar", "webdataset:x-*.tar"),
        ("('folder:/home/me/p', '/home/me/q')", "('folder:p', 'q')"),
        ("folder:/home/me/my pictures,/home/me/b", "folder:my pictures,b"),
        ("gs://bucket/a", "gs://bucket/a"),
        ("runs/a/bundle", "runs/a/bundle"),
        ("half/half ~/a ../b 1 / 2", "half/half ~/a ../b 1 / 2"),
    ],
)
def test_an_absolute_path_in_a_value_is_shortened(value, kept):
    assert result.portable(value) == kept
    assert result.portable({"a": [value, 3]}) == {"a": [kept, 3]}


def test_overrides_and_labels_of_a_row_hold_no_path_either(make_plan, root):
    plan = make_plan("listed('base', ['/home/me/a/bundle', '/home/me/b'])")
    run_list.keep(plan, root)
    entry = state.RunRecord(root, plan.runs[0].id)
    entry.folder.mkdir()
    write_result(entry, {})
    (row,) = result.make_rows(plan, root)
    assert (row["label"], row["overrides"]) == ("base=bundle", {"base": "bundle"})
    assert "/home" not in json.dumps(row)


def test_equal_names_in_different_folders_stay_apart(make_plan, root):
    plan = make_plan("listed('base', ['/a/first/bundle', '/a/second/bundle'])")
    run_list.keep(plan, root)
    for run in plan.runs:
        record = state.RunRecord(root, run.id)
        record.folder.mkdir()
        write_result(record, {"fid": 1.0})
    rows = result.make_rows(plan, root)
    assert [row["overrides"]["base"] for row in rows] == [
        "first/bundle",
        "second/bundle",
    ]
    assert len(summary.join_seeds(rows)) == 2


def test_rows_that_were_written_are_read_back(sweep, root, tmp_path):
    path = tmp_path / "results" / "small.jsonl"
    rows = result.make_rows(sweep, root)
    result.write_rows(path, rows)
    assert result.read_rows(path) == rows
    assert len(path.read_text().splitlines()) == len(rows)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"schema": 0, "metrics": {}}', "line 2 has schema 0, and this"),
        ('{"metrics": {}}', "line 2 has schema None"),
        ("[]", "line 2 has schema None"),
        (
            json.dumps(ROW).replace("metrics", "m"),
            "line 2 is not a result: no 'metrics'",
        ),
        (
            json.dumps(ROW).replace("attempts", "a"),
            "line 2 is not a result: no 'attempts'",
        ),
        (
            '{"schema": 2, "metrics": {}, "machine": {}}',
            "line 2 is not a result: no 'sweep'",
        ),
        ('{"schema": 1, "met', "line 2 is not JSON"),
        (json.dumps({**ROW, "metrics": [1]}), r"'metrics' is \[1\], not dict"),
        (json.dumps({**ROW, "metrics": {"fid": "low"}}), "'fid' is 'low', not int or"),
        (json.dumps({**ROW, "verb": 5}), "line 2 is not a result: 'verb' is 5, not"),
        (json.dumps({**ROW, "settings": None}), "'settings' is None, not dict"),
        (json.dumps({**ROW, "warnings": 5}), "'warnings' is 5, not list"),
        (json.dumps({**ROW, "seconds": True}), "'seconds' is True, not int or float"),
        ("\xff", "line 2 is not JSON"),
    ],
)
def test_a_row_of_another_schema_or_cut_short_is_named(tmp_path, line, named):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n{line}\n", encoding="latin-1")
    with pytest.raises(UserError, match=named):
        result.read_rows(path)


def test_a_row_keeps_the_digests_and_the_warnings_and_the_page_shows_these(sweep, root):
    for run in sweep.runs[:2]:
        settings = {"features": "noised_clip aaa", "reference": {"path": "/data/r.npz"}}
        warnings = ["fid: too few pictures"]
        entry = state.RunRecord(root, run.id)
        write_result(entry, {"fid": 1.0}, settings=settings, warnings=warnings)
    first, *_ = result.make_rows(sweep, root)
    assert first["settings"]["features"] == "noised_clip aaa"
    assert first["settings"]["reference"] == {"path": "r.npz"}
    assert first["warnings"] == ["fid: too few pictures"]
    report.write(sweep, root)
    page = (root / "results.md").read_text()
    assert page.count("- fid: too few pictures\n") == 1


def test_metrics_that_are_not_numbers_and_a_blocked_path_are_named(sweep, root):
    entry = state.RunRecord(root, sweep.runs[3].id)
    write_result(entry, {"fid": "low"})
    with pytest.raises(UserError, match="'fid' is 'low', not int or float"):
        report.write(sweep, root)
    write_result(entry, {"fid": 1.0})
    (root / "results.csv").mkdir()
    with pytest.raises(UserError, match=r"Is a directory: .*results\.csv"):
        report.write(sweep, root)


def test_an_older_result_in_the_folder_is_named(sweep, root):
    entry = state.RunRecord(root, sweep.runs[3].id)
    write_result(entry, {"fid": 1.0}, schema=0)
    with pytest.raises(UserError, match=r"result\.json has schema 0"):
        report.write(sweep, root)


def test_csv_has_a_column_for_each_swept_value_and_metric(sweep, root):
    report.write(sweep, root)
    with (root / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11
    assert list(rows[0]) == [
        *("id", "scale", "mode", "seed", "fid", "broken", "seconds", "attempts")
    ]
    for row in rows:
        expected = (
            float(row["scale"]) + float(row["seed"]) + 10 * (row["mode"] != "cfg")
        )
        assert float(row["fid"]) == expected
        assert row["broken"] == ""


def test_the_page_has_the_table_and_what_is_missing(sweep, root):
    report.write(sweep, root)
    lines = (root / "results.md").read_text().splitlines()
    assert "| scale | mode | runs | fid | broken |" in lines
    assert "| 20 | cfg | 2 | 20.5 ± 0.71 |  |" in lines
    assert "| 20 | clip | 1 | 30 |  |" in lines
    assert "| 1 | cfg | 2 | **1.5 ± 0.71** |  |" in lines
    assert sum("**" in line for line in lines) == 1
    assert sum(line.startswith("| ") for line in lines) == 2 + 6
    assert f"- {sweep.runs[-1].label}: waiting" in lines


def test_an_empty_report_is_an_error(make_plan, root):
    plan = make_plan(GRID)
    run_list.keep(plan, root)
    with pytest.raises(UserError, match="no run of small is finished"):
        report.write(plan, root)


def test_lines_are_the_other_values_and_seeds_are_dots_of_one_line(sweep, root):
    rows = result.make_rows(sweep, root)
    assert plots.varied_keys(rows) == ["scale", "mode"]
    lines = plots.series(rows, "fid", "scale")
    points = {label: [point[:2] for point in line] for label, line in lines.items()}
    assert points == {
        "mode=cfg": [(1, 1), (1, 2), (3, 3), (3, 4), (20, 20), (20, 21)],
        "mode=clip": [(1, 11), (1, 12), (3, 13), (3, 14), (20, 30)],
    }


def test_every_metric_that_varies_is_drawn_against_every_value(sweep, root):
    paths = report.write(sweep, root)
    pictures = {path.name: path for path in paths if path.suffix == ".png"}
    assert set(pictures) == {"fid_vs_scale.png", "fid_vs_mode.png"}
    for path in pictures.values():
        pixels = np.asarray(Image.open(path).convert("RGB"))
        # Something was drawn: lines of two colours of matplotlib's cycle.
        for colour in ((31, 119, 180), (255, 127, 14)):
            assert (pixels == colour).all(-1).sum() > 50


def test_a_standard_error_is_an_error_bar_and_a_detail_is_plotted_on_request(
    make_plan, root
):
    plan = make_plan("listed('scale', [1.0, 3.0])")
    run_list.keep(plan, root)
    for run, kid in zip(plan.runs, (0.01, 0.02), strict=True):
        entry = state.RunRecord(root, run.id)
        entry.folder.mkdir()
        found = {"kid": kid, "kid_standard_error": kid / 4, "retrieval_q0": kid}
        write_result(entry, found)
    (line,) = plots.series(result.make_rows(plan, root), "kid", "scale").values()
    assert [point.standard_error for point in line] == [0.0025, 0.005]
    names = [path.name for path in report.write(plan, root)[2:]]
    assert names == ["kid_vs_scale.png"]
    names = [path.name for path in report.write(plan, root, all_plots=True)[2:]]
    assert sorted(names) == [
        *("kid_standard_error_vs_scale.png", "kid_vs_scale.png"),
        "retrieval_q0_vs_scale.png",
    ]


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("validation/loss", 1.0),
        ("inception_tf1_fid", 1.0),
        ("noised_clip_kid", 1.0),
        ("efficientnet_lite0_fd", 1.0),
        ("efficientnet_lite0_kd", 1.0),
        ("noised_clip_score", 2.0),
        ("noised_clip_retrieval_q3", 2.0),
        ("inception_score", 2.0),
        ("inception_tf1_recall_float16", 2.0),
        ("noised_clip_diversity", 2.0),
        ("bits_per_dimension_q1", 1.0),
        ("kid_standard_error", None),
        ("skipped_updates", None),
    ],
)
def test_the_best_value_depends_on_the_metric(name, better):
    rows = [
        {"overrides": {"scale": value}, "metrics": {name: value}}
        for value in (1.0, 2.0)
    ]
    assert summary.best(summary.join_seeds(rows), name) == better
    assert summary.best(summary.join_seeds(rows[:1]), name) is None


def test_a_sweep_of_the_seed_alone_is_one_line_and_distinct_settings_keep_the_seed():
    def rows(*overrides):
        return [{"overrides": o, "metrics": {"fid": 1.0}} for o in overrides]

    (group,) = summary.join_seeds(rows({"seed": 0}, {"seed": 1}))
    assert (group.overrides, group.runs) == ({}, 2)
    kept = summary.join_seeds(rows({"seed": 0, "scale": 1}, {"seed": 1, "scale": 2}))
    assert [group.overrides["seed"] for group in kept] == [0, 1]


def test_losses_are_means_over_the_last_tenth_of_the_steps(tmp_path):
    rows = [{"step": step, "loss": step / 10, "mse": 1.0} for step in range(10, 101, 5)]
    rows.append({"step": 50, "validation/loss": 7.0})
    rows.append({"step": 100, "validation/loss": 5.0})
    metrics = result._training_metrics(rows)
    # Steps 95 and 100.
    assert metrics == {"loss": 9.75, "mse": 1.0, "validation/loss": 5.0}


def test_a_failed_run_shows_the_last_line_that_it_printed(sweep, root):
    entry = state.RunRecord(root, sweep.runs[-1].id)
    entry.begin()
    entry.log.write_text(
        "2026-01-01T00:00:00Z host: glide evaluate\n"
        "glide evaluate: --base=x has no config.json; export it again\n"
        "2026-01-01T00:00:09Z exit code 2\n"
    )
    assert entry.reason() == ""
    entry.end(2)
    reason = "glide evaluate: --base=x has no config.json; export it again"
    assert entry.reason() == reason
    table = status.table(sweep, root).splitlines()
    assert reason in "\n".join(table)
    assert max(map(len, table)) <= 130
    report.write(sweep, root)
    assert f": failed 2: {reason}\n" in (root / "results.md").read_text()


def test_a_table_in_a_page_is_made_from_the_rows_and_an_old_one_is_noticed(
    sweep, root, tmp_path
):
    rows = result.make_rows(sweep, root)
    result.write_rows(tmp_path / "small.jsonl", rows)
    page = f"above\n<!-- sweep small: fid -->\nold\n{report.TABLE_END}\nbelow\n"
    made = report.fill_tables(page, tmp_path)
    assert made != page
    assert made.startswith("above\n<!-- sweep small: fid -->\n| scale | mode | runs |")
    assert made.endswith(f"| 20 | clip | 1 | 30 |\n{report.TABLE_END}\nbelow\n")
    assert report.fill_tables(made, tmp_path) == made
    rows[0]["metrics"]["fid"] = 7.0
    result.write_rows(tmp_path / "small.jsonl", rows)
    assert report.fill_tables(made, tmp_path) != made


def test_a_table_of_rows_or_metrics_that_are_not_there_is_refused(
    sweep, root, tmp_path
):
    page = f"<!-- sweep small: kid -->\n{report.TABLE_END}"
    with pytest.raises(UserError, match=r"there is no file .*small\.jsonl; write it"):
        report.fill_tables(page, tmp_path)
    result.write_rows(tmp_path / "small.jsonl", result.make_rows(sweep, root))
    with pytest.raises(UserError, match="has no metric 'kid'; use some of fid"):
        report.fill_tables(page, tmp_path)


def test_the_status_shows_every_run_with_its_state(sweep, root):
    entry = state.RunRecord(root, sweep.runs[-1].id)
    entry.begin()
    entry.end(2)
    entry.folder.mkdir()
    (entry.folder / "metrics.jsonl").write_text('{"step": 40, "loss": 0.5}\n')
    lines = status.table(sweep, root).splitlines()
    assert lines[0].split() == ["id", "run", "state", "attempts", "so", "far", "time"]
    assert lines[1].split()[1:4] == [sweep.runs[0].label, "finished", "1"]
    assert "failed 2  1         step 40, loss 0.5" in lines[12]
    assert lines[13] == "small: 11 finished, 1 failed 2"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(59.5, "0:01:00"), (59.4, "0:00:59"), (3599.7, "1:00:00"), (90061.2, "25:01:01")],
)
def test_a_time_is_rounded_before_it_is_cut_into_parts(
    sweep, root, monkeypatch, seconds, shown
):
    monkeypatch.setattr(state.RunRecord, "seconds", lambda entry: seconds)
    assert status.table(sweep, root).splitlines()[1].split()[-1] == shown
