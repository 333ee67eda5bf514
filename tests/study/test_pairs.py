"""Pairs show the same prompt, do not reveal their models, and are evenly drawn."""

from __future__ import annotations

import collections
import csv
import itertools
import json
import pathlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from glide_jax import errors
from glide_jax.eval import picture_folder
from glide_jax.sample import image_io
from glide_jax.study import pairs
from tests.eval import sample_folders

PROMPTS = sample_folders.PROMPTS


def listed(model, prompts):
    """Samples without their files."""
    return [
        picture_folder.Sample(pathlib.Path(model, f"{i}.png"), prompt)
        for i, prompt in enumerate(prompts)
    ]


def make_study(prompts=("p", "q"), models="abc", **options):
    folders = {model: listed(model, prompts) for model in models}
    return pairs.plan(folders, **options)


def models_of(pair):
    return frozenset({pair.left.model, pair.right.model})


def test_every_two_models_are_compared_once_for_every_picture_of_every_prompt():
    study = make_study(["p", "q", "p"])
    met = collections.Counter(
        (pair.prompt, models_of(pair), pair.left.file.name)
        for pair in study.pairs.values()
    )
    matches = [frozenset(match) for match in itertools.combinations("abc", 2)]
    files = {"p": ["0.png", "2.png"], "q": ["1.png"]}
    expected = {(p, m, f) for p, names in files.items() for f in names for m in matches}
    assert set(met) == expected
    assert set(met.values()) == {1}
    for pair in study.pairs.values():
        assert pair.left.file.name == pair.right.file.name


def test_prompts_in_another_order_are_paired_all_the_same():
    folders = {"a": listed("a", ["p", "q"]), "b": listed("b", ["q", "p"])}
    found = {
        pair.prompt: {pair.left.file.name, pair.right.file.name}
        for pair in pairs.plan(folders).pairs.values()
    }
    assert found == {"p": {"0.png", "1.png"}, "q": {"0.png", "1.png"}}


def test_fewer_pairs_are_spread_evenly_over_the_models():
    study = make_study([str(i) for i in range(50)], num_pairs=31)
    met = collections.Counter(models_of(pair) for pair in study.pairs.values())
    assert sorted(met.values()) == [10, 10, 11]


def test_sides_and_orders_are_drawn_from_the_seed():
    prompts = [str(i) for i in range(200)]
    one, same, other = (make_study(prompts, "ab", seed=seed) for seed in (0, 0, 1))
    assert one == same != other
    left = sum(pair.left.model == "a" for pair in one.pairs.values())
    assert 60 < left < 140  # 100 expected, deviation 7
    orders = list(one.orders.values())
    assert orders[0] != orders[1] != sorted(one.pairs)
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(one.pairs)


def test_the_study_is_named_after_what_it_shows():
    assert make_study().name == make_study().name != make_study(seed=1).name


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (["p"], "a has 1 picture without a counterpart in b, e.g. picture 1 of 'q'"),
        (
            ["p", "q", "q"],
            "b has 1 picture without a counterpart in a, e.g. picture 2 of",
        ),
        (
            ["p", "r"],
            "a has 1 picture without a counterpart in b, e.g. picture 1 of 'q'",
        ),
    ],
)
def test_folders_of_other_prompts_are_refused_with_the_first_that_differs(other, told):
    folders = {"a": listed("a", ["p", "q"]), "b": listed("b", other)}
    with pytest.raises(errors.UserError, match=told):
        pairs.plan(folders)


def test_more_pairs_than_there_are_and_a_model_called_tie_are_refused():
    with pytest.raises(errors.UserError, match=r"num_pairs=7, but these .* have 6"):
        make_study(num_pairs=7)
    with pytest.raises(errors.UserError, match="rename it"):
        make_study(models=["a", "tie"])


@pytest.fixture
def folders(tmp_path):
    paths = [
        sample_folders.make(tmp_path / name, PROMPTS, brightness=level)
        for name, level in (("cfg", 200), ("clip", 100))
    ]
    # What generating programs like to leave in a file.
    remark = PngImagePlugin.PngInfo()
    remark.add_text("model", "cfg")
    marked = Image.open(tmp_path / "cfg" / "000000.png")
    marked.save(tmp_path / "cfg" / "000000.png", dpi=(72, 72), pnginfo=remark)
    # Every other picture carries what `glide sample` writes into it.
    with Image.open(tmp_path / "clip" / "000000.png") as picture:
        assert picture.text.keys() == {"prompt", "glide_jax"}
    return dict(zip(("cfg", "clip"), map(picture_folder.read, paths), strict=True))


@pytest.fixture
def study(folders, tmp_path):
    found = pairs.plan(folders)
    (tmp_path / "study").mkdir()
    pairs.write(tmp_path / "study", found, {"seed": 0})
    return found


def test_the_key_names_the_model_of_each_written_picture(study, tmp_path):
    key = pairs.read_key(str(tmp_path / "study" / "key.json"))
    level = {"cfg": 200, "clip": 100}
    for name, pair in key["pairs"].items():
        for side in pairs.SIDES:
            shown = tmp_path / "study" / "rater" / "pairs" / f"{name}_{side}.png"
            red, number, _ = image_io.read_image(shown)[0, 0]
            assert red == level[pair[side]["model"]]
            assert PROMPTS[number] == pair["prompt"]


def test_nothing_that_a_rater_gets_names_a_model(study, tmp_path):
    for path in (tmp_path / "study" / "rater").rglob("*"):
        assert "cfg" not in path.name
        if path.is_file():
            content = path.read_bytes()
            assert b"cfg" not in content
            assert b"clip" not in content
    chunks = {
        chunk
        for path in (tmp_path / "study" / "rater" / "pairs").iterdir()
        for chunk in Image.open(path).info
    }
    assert chunks == set()


def test_the_sheet_asks_each_question_of_each_pair_and_holds_no_answer(study, tmp_path):
    with (tmp_path / "study" / "rater" / "sheet.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    asked = {(row["pair"], row["question"]) for row in rows}
    assert asked == set(itertools.product(study.pairs, pairs.QUESTIONS))
    assert {row["answer"] for row in rows} == {""}
    assert {row["study"] for row in rows} == {study.name}
    assert all(row["prompt"] == study.pairs[row["pair"]].prompt for row in rows)


def test_the_page_holds_prompts_that_look_like_markup_as_data(study, tmp_path):
    page = (tmp_path / "study" / "rater" / "vote.html").read_text()
    start = page.index('id="data">') + len('id="data">')
    data = json.loads(page[start : page.index("</script>", start)])
    assert {row["prompt"] for row in data["rows"]} == set(PROMPTS)
    assert page.count("</script>") == 2
    assert "http" not in page


def test_a_second_study_never_takes_the_place_of_a_key(study, tmp_path):
    with pytest.raises(errors.UserError, match="holds a study already"):
        pairs.write(tmp_path / "study", study, {})


def test_a_study_cut_off_leaves_nothing_and_can_be_written_again(folders, tmp_path):
    study, calls = pairs.plan(folders), iter(range(2))

    def stop():
        if next(calls, None) is None:
            raise KeyboardInterrupt

    (tmp_path / "cut").mkdir()
    with pytest.raises(KeyboardInterrupt):
        pairs.write(tmp_path / "cut", study, {}, stop)
    assert not list((tmp_path / "cut").iterdir())
    pairs.write(tmp_path / "cut", study, {})
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {"key.json", "rater"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "not JSON"),
        ("[]", "not a key"),
        ('{"pairs": {}}', "schema None, and this version reads 1"),
        ('{"schema": 1, "study": "s", "pairs": {"p": {"left": {}}}}', "both models"),
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path, content, told):
    (tmp_path / "key.json").write_text(content)
    with pytest.raises(errors.UserError, match=told):
        pairs.read_key(str(tmp_path / "key.json"))


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ("{", "samples.json is not JSON"),
        ('{"images": [1]}', "does not list pictures"),
        ('{"images": []}', "lists no picture"),
        ('{"images": [{"file": "a.png", "prompt": "x"}]}', "1 missing picture,"),
    ],
)
def test_a_folder_that_is_not_of_samples_is_refused(tmp_path, record, told):
    with pytest.raises(errors.UserError, match="cannot be read"):
        picture_folder.read(str(tmp_path))
    (tmp_path / "samples.json").write_text(record)
    with pytest.raises(errors.UserError, match=told):
        picture_folder.read(str(tmp_path))


def test_a_blend_of_prompts_is_one_prompt(tmp_path):
    folder = sample_folders.make(
        tmp_path / "s", [{"a corgi": 0.7, "a cat": 0.3}], brightness=1
    )
    assert picture_folder.read(folder)[0].prompt == "0.7 a corgi + 0.3 a cat"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["out/cfg", "out/clip"], ["cfg", "clip"]),
        (["runs/cfg/samples", "runs/clip/samples/"], ["cfg", "clip"]),
        (["out/a", "out/a/b"], ["a", "a/b"]),
        (["x/1/y/s", "x/2/z/s"], ["1/y", "2/z"]),
    ],
)
def test_models_are_named_by_the_parts_in_which_their_folders_differ(paths, names):
    assert picture_folder.names_of(paths) == names


def test_one_folder_given_twice_is_refused():
    with pytest.raises(errors.UserError, match="twice"):
        picture_folder.names_of(["out/a", "out/../out/a"])


def test_a_picture_that_cannot_be_read_is_named(folders, tmp_path):
    (tmp_path / "clip" / "000002.png").write_bytes(b"no picture")
    with pytest.raises(errors.UserError, match=r"000002\.png"):
        pairs.write(tmp_path, pairs.plan(folders), {})


def test_pictures_of_any_size_are_written_as_they_are(tmp_path):
    folders = {
        name: picture_folder.read(
            sample_folders.make(tmp_path / name, ["p"], brightness=9, px=px)
        )
        for name, px in (("a", 16), ("b", 64))
    }
    pairs.write(tmp_path, pairs.plan(folders), {})
    sides = [
        np.asarray(Image.open(path)).shape[0]
        for path in (tmp_path / "rater" / "pairs").iterdir()
    ]
    assert sorted(sides) == [16, 64]
