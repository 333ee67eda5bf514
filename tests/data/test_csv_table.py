"""A CSV file of pictures and captions is a source, and its bad rows are named."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from glide_jax.cli import config_flag, main
from glide_jax.data import csv_table, picture_table, schema, sources, transforms
from glide_jax.errors import UserError
from tests.data import conftest, streams

TABLE = """image,caption
photos/b.png,a grey square
photos/a.png,"a square, nearly black"
"""


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Three pictures below a folder, for a table beside it."""
    (tmp_path / "photos").mkdir()
    for shade, name in ((0, "a"), (100, "b"), (200, "c")):
        content = conftest.encoded_picture(shade)
        (tmp_path / "photos" / f"{name}.png").write_bytes(content)
    return tmp_path


def write(folder: pathlib.Path, text: str, encoding: str = "utf-8") -> str:
    (folder / "table.csv").write_bytes(text.encode(encoding))
    return f"csv:{folder / 'table.csv'}"


def captions(source: schema.Source) -> list[str]:
    return [source[i].caption for i in range(len(source))]


@pytest.mark.parametrize(
    ("separator", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16")]
)
def test_rows_are_records_in_the_order_of_the_file(folder, separator, encoding):
    rows = ["caption,image", "grün,photos/b.png", "'black',photos/a.png"]
    text = "\r\n".join(rows).replace(",", separator)
    source = sources.open_source(write(folder, text, encoding))
    assert captions(source) == ["grün", "'black'"]
    assert [source[i].key for i in range(2)] == [
        "table.csv:2:photos/b.png",
        "table.csv:3:photos/a.png",
    ]
    np.testing.assert_allclose(
        transforms.load_image(source[0], 8), 100 / 127.5 - 1, atol=1e-6
    )


def test_options_name_the_columns_and_the_use_of_several_captions(folder):
    spec = write(
        folder,
        "path,en,caption\n"
        "photos/a.png,black,x\n"
        "photos/b.png,grey,x\n"
        "photos/a.png,dark,x\n",
    )
    chosen = f"{spec}?image=path&caption=en"
    assert captions(sources.open_source(chosen)) == ["black", "grey"]
    joined = sources.open_source(f"{chosen}&captions=join")
    assert captions(joined) == ["black dark", "grey"]
    drawn = sources.open_source(f"{chosen}&captions=random")
    assert drawn[0].choices == ("black", "dark")


def test_bad_rows_are_counted_with_their_lines(folder):
    spec = write(
        folder,
        "image,caption\n"
        'photos/a.png,"two\nlines"\n'
        "photos/none.png,gone\n"
        ",nothing\n"
        "photos/b.png,\n"
        "\n"
        "photos/b.png,grey,surplus\n"
        "photos/none.png,gone\n",
    )
    source = sources.open_source(spec)
    assert isinstance(source, csv_table.CsvTable)
    assert captions(source) == ["two\nlines"]
    assert source.report.skipped == {
        csv_table.MISSING_PICTURE: 2,
        picture_table.NO_PICTURE: 1,
        picture_table.NO_CAPTION: 1,
        csv_table.WRONG_FIELDS: 1,
    }
    described = source.report.describe()
    for reason, lines in (
        (csv_table.MISSING_PICTURE, "4, 9"),
        (picture_table.NO_PICTURE, "5"),
        (picture_table.NO_CAPTION, "6"),
        (csv_table.WRONG_FIELDS, "8"),
    ):
        assert f"{reason}: line {lines}" in described
    all_pictures = sources.open_source(spec, captions_required=False)
    assert captions(all_pictures) == ["two\nlines", ""]


@pytest.mark.parametrize(
    ("text", "options", "named"),
    [
        (TABLE, "?image=path", "path"),
        (TABLE, "?caption=title", "title"),
        ("a,b\n1,2\n", "", "a, b"),
        (TABLE, "?column=image", "column"),
        (TABLE, "?captions=last", "last"),
        ("image,caption\n", "", "no usable row"),
        ("", "", "image"),
        ('image,caption\nphotos/a.png,"x" y\n', "", "line 2"),
        ("image,caption\nnone.png,x\n", "", "line 2"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(
    folder, text, options, named
):
    with pytest.raises(UserError, match=named) as refused:
        sources.open_source(write(folder, text) + options)
    assert "\n" not in str(refused.value)
    assert "table.csv" in str(refused.value)


def test_an_unknown_column_is_refused_with_the_columns_present(folder):
    with pytest.raises(UserError, match="image, caption"):
        sources.open_source(write(folder, TABLE) + "?caption=title")


def test_a_missing_or_undecodable_file_is_refused(folder):
    with pytest.raises(UserError, match=r"none\.csv"):
        sources.open_source(f"csv:{folder}/none.csv")
    with pytest.raises(UserError, match=r"table\.csv"):
        sources.open_source(write(folder, "image,caption\nphotos/a.png,grün", "latin1"))


def test_a_picture_that_disappears_is_a_bad_record(folder):
    source = sources.open_source(write(folder, TABLE))
    (folder / "photos" / "b.png").write_bytes(b"no picture")
    with pytest.raises(schema.BadRecordError, match=r"table\.csv:2"):
        transforms.load_image(source[0], 8)


def test_it_trains_and_mixes_like_any_source(folder, tokenizer):
    spec = write(folder, TABLE)
    mixed = sources.open_mixture((spec, "shapes:quickstart"), (1.0, 1.0))
    settings = {"image_px": 8, "text_context": 12, "global_batch_size": 4, "seed": 0}
    batch = next(streams.make_batches(mixed, tokenizer, **settings))
    assert batch["image"].shape == (4, 8, 8, 3)
    files = sources.open_source(spec).files()
    assert files is not None
    assert files[1:] == [folder / "photos" / "b.png", folder / "photos" / "a.png"]


def test_the_command_line_knows_the_kind(folder, capsys):
    spec = write(folder, TABLE)
    given = f"--config.data.sources={spec},shapes:full"
    assert config_flag.quote_sources([given]) == [
        f"--config.data.sources=('{spec}', 'shapes:full')"
    ]
    assert main.run(["data", "check", spec]) == 0
    assert "2 of 2 records can be used" in capsys.readouterr().out
