"""Votes are counted whatever their order and sides, and mistakes are named by line."""

from __future__ import annotations

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.study import elo, votes
from tests.study import made_votes

GOOD = [("cfg", "clip", "cfg", "caption"), ("clip", "cfg", "tie", "caption")]
KEY = {
    "study": "s1",
    "pairs": {
        "p0001": {"left": {"model": "cfg"}, "right": {"model": "clip"}},
        "p0002": {"left": {"model": "clip"}, "right": {"model": "cfg"}},
    },
}


@pytest.fixture
def read(tmp_path):
    """read(rows) -> votes of a file with these rows."""

    def read(rows, columns=votes.COLUMNS, **options):
        path = made_votes.write(tmp_path / "votes.csv", rows, columns)
        return votes.read([path], **{"key": None, **options})

    return read


def test_neither_the_order_of_votes_nor_of_a_and_b_changes_the_counts(read):
    rng = np.random.default_rng(0)
    cast = made_votes.cast(
        made_votes.TABLE_1["caption"], "caption", 40, rng=rng, tie_prob=0.2
    )
    shuffled = [cast[i] for i in rng.permutation(len(cast))]
    swapped = [vote._replace(a=vote.b, b=vote.a) for vote in shuffled]
    one, other = (read(rows).tallies["caption"] for rows in (cast, swapped))
    assert one.models == other.models
    np.testing.assert_array_equal(one.counts, other.counts)
    assert one.votes == 120
    assert 0 < one.ties < 60


def test_each_question_is_counted_by_itself_with_its_own_models(read):
    more = [
        ("clip", "small", "small", "photorealism"),
        ("clip", "small", "small", "a further one"),
    ]
    tallies = read([*GOOD, *more]).tallies
    assert list(tallies) == ["photorealism", "caption", "a further one"]
    assert tallies["caption"].models == ("cfg", "clip")
    assert tallies["photorealism"].models == ("clip", "small")
    np.testing.assert_array_equal(tallies["photorealism"].counts[0, 1], [0, 1, 0])


def test_files_of_several_raters_are_added(tmp_path):
    paths = [made_votes.write(tmp_path / name, GOOD) for name in ("a.csv", "b.csv")]
    assert votes.read(paths, key=None).tallies["caption"].votes == 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("above", ["", "sep={mark}\r\n"])
def test_a_table_is_read_as_spreadsheets_write_it(tmp_path, encoding, mark, above):
    """A byte order mark, CRLF, separators, a further column, an empty line, spaces."""
    rows = [
        "rater|a|b|winner|question",
        "x| cfg |clip|cfg|caption",
        "",
        'y|"a;,b"|c|c|q',
    ]
    text = above.format(mark=mark) + "\r\n".join(rows).replace("|", mark) + "\r\n"
    path = tmp_path / "votes.csv"
    path.write_bytes(text.encode(encoding))
    tallies = votes.read([str(path)], key=None).tallies
    assert tallies["caption"].models == ("cfg", "clip")
    assert tallies["q"].models == ("a;,b", "c")


def test_a_line_is_counted_below_what_names_the_separator(tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text("sep=;\na;b;winner;question\nx;y;z;q\n")
    with pytest.raises(errors.UserError, match="line 3: winner 'z'"):
        votes.read([str(path)], key=None)


def test_another_separator_than_commas_is_one_line(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "votes.csv"
    path.write_text("a;b;winner;question\nx;y;x;q\n")
    votes.read([str(path)], key=None)
    (record,) = caplog.records
    assert "votes.csv: columns are separated by semicolons" in record.getMessage()


def test_blinded_answers_count_for_the_models_that_the_key_names(read):
    rows = [
        ("s1", "p0001", "caption", "left"),
        ("s1", "p0002", "caption", "right"),
        ("s1", "p0001", "photorealism", "neither"),
        ("s1", "p0002", "photorealism", ""),
    ]
    found = read(rows, votes.ANSWER_COLUMNS, key=KEY)
    np.testing.assert_array_equal(found.tallies["caption"].counts[0, 1], [2, 0, 0])
    assert found.tallies["photorealism"].ties == 1
    assert found.unanswered == 1


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (("cfg", "clip", "clap", "caption"), "line 4: winner 'clap' is neither"),
        (("cfg", "cfg", "cfg", "caption"), "line 4: a and b are both 'cfg'"),
        (("cfg", "clpi", "cfg", "caption"), "line 4: .*did you mean clip?"),
        (("cfg", "", "cfg", "caption"), "line 4: b is empty"),
        (("cfg", "clip", "cfg"), "line 4: question is empty"),
        (("cfg", "tie", "cfg", "caption"), "line 4: model 'tie' is not among"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(read, row, told):
    with pytest.raises(errors.UserError, match=told):
        read([*GOOD, row], models=("cfg", "clip"))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            ("s2", "p0001", "caption", "left"),
            "study 's2', but the key is of study 's1'",
        ),
        (("s1", "p0009", "caption", "left"), "no pair 'p0009'"),
        (("s1", "p0001", "caption", "1"), "'1' is not left, right or neither"),
        (("s1", "p0002", "caption", "left"), "second answer .*line 2"),
    ],
)
def test_an_answer_that_cannot_be_used_is_named_by_its_line(read, row, told):
    rows = [("s1", "p0002", "caption", "right"), row]
    with pytest.raises(errors.UserError, match=f"line 3: .*{told}"):
        read(rows, votes.ANSWER_COLUMNS, key=KEY)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty; its first line names the columns"),
        (b"a,b,winner,question\n", "no votes below the header"),
        (b"a,b,winner\n1,2,1\n", "has no column question"),
        (b"study,pair,question,answer\n", "blinded answers, so give --key"),
        (b"a,b,winner,question\n\xff,y,y,q\n", "is not UTF-8"),
        (b"\xff\xfea\x00,\x00b\x00", "has no column winner, question"),
        (b"\xff\xfea\x00,\x00b\x00x", "is not UTF-8"),
        (b'a,b,winner,question\nx,"y' + b",x,q\n" * 50000, "not CSV"),
        (b'a,b,winner,question\nx,y,y,"q\nx,y,x,q"\n', "an open quote before"),
        (b"a,b,winner,question\n" + b"x" * 70000, "line of 65536 characters"),
    ],
)
def test_a_file_that_holds_no_votes_is_refused(tmp_path, content, told):
    path = tmp_path / "votes.csv"
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match=told):
        votes.read([str(path)], key=None)


def test_a_file_that_is_absent_or_given_twice_is_refused(tmp_path):
    path = made_votes.write(tmp_path / "votes.csv", GOOD)
    with pytest.raises(errors.UserError, match="given twice"):
        votes.read([path, f"{tmp_path}/./votes.csv"], key=None)
    for other in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(errors.UserError, match="cannot be read"):
            votes.read([str(other)], key=None)


def test_empty_answers_are_distinguished_from_an_empty_file(read):
    rows = [("s1", "p0001", "caption", "")]
    with pytest.raises(errors.UserError, match="all answers are empty \(1\)"):
        read(rows, votes.ANSWER_COLUMNS, key=KEY)


def test_prompts_in_the_column_of_models_are_suspected_before_memory_fills(read):
    rows = ((f"m{i}", "m", "m", "q") for i in range(200))
    with pytest.raises(errors.UserError, match=r"line 101: .*more than 100 models"):
        read(rows)


def test_the_greatest_number_of_models_is_rated():
    """A ring: each model won against the next and lost once to it."""
    n = votes.MAX_MODELS
    counts = np.zeros((n, n, 3), np.int64)
    for i in range(n - 1):
        counts[i, i + 1] = (3, 1, 0)
    ratings = elo.fit(elo.wins_of(counts))
    # Each step is the logit of 3/4; a chain of 99 adds up what Newton leaves of each.
    np.testing.assert_allclose(-np.diff(ratings), 400 * np.log10(3), atol=1e-4)
