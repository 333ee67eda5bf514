"""Points of figure 6 from rows, their errors, and the plots."""

from __future__ import annotations

import itertools

import pytest
from PIL import Image

from glide_jax.errors import UserError
from glide_jax.sweep import guidance_curves, guidance_plots

FIGURES = {
    "noised_clip_precision": 0.9,
    "noised_clip_recall": 0.5,
    "noised_clip_inception_score": 8.0,
    "noised_clip_fid": 10.0,
    "noised_clip_score": 40.0,
}


def row(*words, settings=None, **changed):
    """A finished run's row; `changed` are metrics by the end of their names."""
    flags = {"reference": "ref.npz"}
    flags |= dict(word.removeprefix("--").split("=") for word in words)
    return {
        "id": "0123456789",
        "label": ",".join(words),
        "verb": "evaluate",
        "flags": flags,
        "settings": settings or {},
        "warnings": [],
        "metrics": FIGURES | {f"noised_clip_{k}": v for k, v in changed.items()},
    }


def cfg(scale, *flags, **changed):
    given = ("--guidance_mode=cfg", f"--guidance_scale={scale}")
    return row(*given, *flags, **changed)


def clip(scale, *flags, **changed):
    given = ("--guidance_mode=clip", f"--clip_guidance_scale={scale}")
    return row(*given, *flags, **changed)


# By the features of each extractor that eval/extractors.py names.
def of_inception(row, prefix):
    metrics = {
        name if name == "noised_clip_score" else name.replace("noised_clip_", prefix): v
        for name, v in row["metrics"].items()
    }
    return row | {"metrics": metrics}


@pytest.mark.parametrize("prefix", ["", "inception_tf1_", "noised_clip_"])
def test_figures_of_every_extractor_are_drawn(prefix):
    rows = [of_inception(row, prefix) for row in SWEEP]
    names = guidance_curves.of_rows(rows).names
    assert names["fid"] == f"{prefix}fid"
    assert names["recall"] == f"{prefix}recall"
    assert names["clip_score"] == "noised_clip_score"


def test_the_distance_of_a_network_that_is_no_inception_is_drawn():
    rows = [of_inception(row, "efficientnet_lite0_") for row in SWEEP]
    for row in rows:
        values = row["metrics"]
        values["efficientnet_lite0_fd"] = values.pop("efficientnet_lite0_fid")
    names = guidance_curves.of_rows(rows).names
    assert names["fid"] == "efficientnet_lite0_fd"


def in_float16(row):
    """A row of `glide evaluate --pr_distances=float16`."""
    shares = ("noised_clip_precision", "noised_clip_recall")
    metrics = {
        f"{name}_float16" if name in shares else name: value
        for name, value in row["metrics"].items()
    }
    own = {"pr_distances": "float16"}
    flags, settings = row["flags"] | own, row["settings"] | own
    return row | {"metrics": metrics, "flags": flags, "settings": settings}


def test_shares_of_float16_distances_are_drawn_but_not_beside_exact_ones():
    exact = [cfg(1, settings={}), cfg(2, settings={})]
    rounded = [in_float16(row) for row in exact]
    names = guidance_curves.of_rows(rounded).names
    assert names["precision"] == "noised_clip_precision_float16"
    assert names["recall"] == "noised_clip_recall_float16"
    for mixed in ([exact[0], rounded[1]], [rounded[0], exact[1]]):
        with pytest.raises(UserError, match="pr_distances"):
            guidance_curves.of_rows(mixed)


NONE = row("--guidance_mode=none")
# A sweep as a user has it: points near each other at small scales, apart at large.
SWEEP = [
    row("--guidance_mode=none", fid=10, recall=0.7, precision=0.8, score=40),
    cfg(1.5, fid=9, recall=0.68, precision=0.83, score=45, inception_score=9),
    cfg(2.0, fid=9.5, recall=0.6, precision=0.85, score=48, inception_score=9.5),
    cfg(5.0, fid=20, recall=0.3, precision=0.86, score=52, inception_score=10),
    clip(1.0, fid=9.9, recall=0.69, precision=0.8, score=48, inception_score=8.3),
    clip(2.0, fid=10.5, recall=0.6, precision=0.79, score=55, inception_score=8.5),
    clip(8.0, fid=30, recall=0.5, precision=0.5, score=65, inception_score=7.5),
]


def keys(rows):
    return [(point.mode, point.scale) for point in guidance_curves.of_rows(rows).points]


def test_points_go_from_unguided_by_mode_and_by_scale_in_any_order_of_rows():
    expected = [("unguided", None), ("cfg", 2), ("cfg", 10), ("clip", 0.5)]
    rows = [clip(0.5), cfg(10), NONE, cfg(2)]
    assert keys(rows) == keys(rows[::-1]) == expected


def test_scale_1_of_cfg_and_0_of_clip_are_unguided_too():
    assert keys([cfg(1), clip("0.0"), NONE, cfg(3)]) == [
        ("unguided", None),
        ("cfg", 3),
    ]


def test_a_mode_left_out_is_cfg():
    assert keys([row("--guidance_scale=4")]) == [("cfg", 4)]


def test_seeds_are_one_point_at_their_mean():
    rows = [cfg(2, "--seed=0", fid=10.0), cfg(2, "--seed=1", fid=13.0)]
    (point,) = guidance_curves.of_rows(rows).points
    assert point.metrics["noised_clip_fid"] == 11.5
    assert point.metrics["noised_clip_recall"] == 0.5


def test_the_command_keeps_all_that_the_runs_have_in_common():
    found = guidance_curves.of_rows([NONE, cfg(2, "--seed=3")])
    assert found.command == "glide evaluate --reference=ref.npz"


def test_figures_of_inception_are_found_by_their_own_names():
    rows = [cfg(2)]
    rows[0]["metrics"] = {
        name if name == "noised_clip_score" else name.removeprefix("noised_clip_"): v
        for name, v in FIGURES.items()
    }
    names = guidance_curves.of_rows(rows).names
    assert (names["fid"], names["clip_score"]) == ("fid", "noised_clip_score")


OTHER = {"features": "noised_clip bbb", "pictures": {"guidance_mode": "cfg"}}
SAME = {"features": "noised_clip aaa", "pictures": {"guidance_mode": "none"}}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "no run is finished"),
        ([NONE, cfg(1)], "no run was guided"),
        ([NONE, cfg(2, "--reference=b.npz")], "has --reference ref.npz and run --g"),
        ([NONE, cfg(2, "--features=clip:b")], "has --features None and run"),
        ([row(settings=SAME), cfg(2)], "has no settings"),
        ([row(settings=SAME), cfg(2, settings=OTHER)], "features noised_clip aaa and"),
        ([cfg(2, fid=None)], "has no noised_clip_fid; runs need"),
        (
            [row("--guidance_mode=cfg+clip")],
            "has guidance_mode=cfg+clip; a curve is of",
        ),
        ([row("--guidance_mode=clip")], "has no --clip_guidance_scale"),
        ([cfg("high")], "has --guidance_scale=high, which is not a number"),
        ([{**NONE, "verb": "train"}], "is of glide train; curves need runs of"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(rows, told):
    with pytest.raises(UserError) as refusal:
        guidance_curves.of_rows(rows)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_guidance_and_seed_are_no_other_settings():
    settings = {**SAME, "pictures": {"guidance_mode": "cfg", "guidance_scale": 2}}
    rows = [row("--guidance_mode=none", settings=SAME), cfg(2, settings=settings)]
    assert len(guidance_curves.of_rows(rows).points) == 2


def test_the_table_has_a_line_for_each_point_and_both_commands():
    text = guidance_curves.to_markdown(
        guidance_curves.of_rows(SWEEP), "glide evaluate --curves=a"
    )
    lines = text.splitlines()
    assert lines[0].startswith("| guidance | scale | noised_clip_precision |")
    assert lines[2] == "| unguided |  | 0.8 | 0.7 | 8 | 10 | 40 |"
    assert lines[3].startswith("| cfg | 1.5 | 0.83 |")
    assert sum(line.startswith("| c") for line in lines) == 6
    assert "glide evaluate --reference=ref.npz" in lines
    assert "glide evaluate --curves=a" in lines


@pytest.fixture(scope="module")
def figure():
    return guidance_plots.make(
        guidance_curves.of_rows(SWEEP), "glide evaluate --curves=a"
    )


def test_the_three_plots_are_those_of_figure_6(figure):
    names = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    fid = "noised_clip_fid (lower is better)"
    assert names == [
        ("noised_clip_recall", "noised_clip_precision"),
        (fid, "noised_clip_inception_score"),
        (fid, "noised_clip_score"),
    ]


def test_both_lines_begin_at_unguided_and_pass_through_the_figures(figure):
    by_cfg, by_clip = (
        line.get_xydata().tolist()
        for line in figure.axes[2].lines
        if line.get_linestyle() == "-"
    )
    assert by_cfg == [[10, 40], [9, 45], [9.5, 48], [20, 52]]
    assert by_clip == [[10, 40], [9.9, 48], [10.5, 55], [30, 65]]


def test_scales_are_written_at_the_points_and_hide_neither_points_nor_each_other(
    figure,
):
    for axes in figure.axes:
        assert [text.get_text() for text in axes.texts] == [
            *("1.5", "2", "5"),
            *("1", "2", "8"),
        ]
        boxes = [text.get_window_extent() for text in axes.texts]
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)
        for line in axes.lines:
            for dot in axes.transData.transform(line.get_xydata()):
                assert not any(box.contains(*dot) for box in boxes)


def test_the_caption_holds_the_commands_and_stays_in_the_picture(figure):
    (caption,) = figure.texts
    text = " ".join(caption.get_text().split())
    assert "glide evaluate --reference=ref.npz, and its guidance" in text
    assert "Drawn by: glide evaluate --curves=a" in text
    box = caption.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    lowest = min(axes.get_tightbbox().y0 for axes in figure.axes)
    assert box.y0 >= 0
    assert box.y1 <= lowest


def test_one_mode_alone_is_drawn_alone(tmp_path):
    shown = guidance_curves.of_rows([cfg(2), cfg(3, fid=20.0)])
    guidance_plots.draw(shown, tmp_path / "one.png", "glide")
    assert Image.open(tmp_path / "one.png").format == "PNG"
    figure = guidance_plots.make(shown, "glide")
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["classifier-free guidance"]
