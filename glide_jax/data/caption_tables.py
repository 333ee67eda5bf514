"""Reads tables of captions: metadata.jsonl, metadata.csv, and Parquet files.

Each row contains a picture and its caption, or a list of captions. Several rows of
one picture are several captions.
"""

from __future__ import annotations

import collections
import csv
import json
import pathlib
from collections.abc import Iterable, Iterator

from glide_jax.data import caption_text
from glide_jax.errors import UserError
from glide_jax.runtime import csv_files

_NAMES = ("metadata.jsonl", "metadata.csv")
# Columns of an unused table that a message lists.
NAMED = 8
# The reason for skipping a table; `read` adds reasons that list the columns.
NOT_SELECTED = "table beside the selected caption files"
Row = tuple[object, object]
Table = dict[str, tuple[str, ...]]


def is_table(name: str) -> bool:
    """Whether a file name is that of a table of captions."""
    base = name.rpartition("/")[2].lower()
    return base in _NAMES or base.endswith(".parquet")


class _NoColumnsError(Exception):
    """The table lacks the column of names or that of captions.

    Attributes:
      columns: the columns of the table.
    """

    def __init__(self, columns: Iterable[str]) -> None:
        super().__init__()
        self.columns = list(columns)


def read(
    path: pathlib.Path,
    id_column: str,
    caption_column: str = "",
    skipped: collections.Counter[str] | None = None,
) -> Table | None:
    """Reads the captions by the value of `id_column`; None if a column is missing.

    Args:
      path: a file for which `is_table` holds.
      id_column: names the picture, e.g. "file_name".
      caption_column: the column of captions; "": the first of
        `caption_text.DEFAULT_COLUMNS` that the table has.
      skipped: counts the unused table, or its unused rows, by reason.

    Raises:
      UserError: the file cannot be read, or is not a table of its format.
    """
    columns = (caption_column,) if caption_column else caption_text.DEFAULT_COLUMNS
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    read_rows = readers[path.suffix.lower()]
    table: Table = {}
    skipped = collections.Counter() if skipped is None else skipped
    try:
        for name, value in read_rows(path, id_column, columns):
            if not isinstance(name, str):
                skipped[_nameless(id_column, name)] += 1
                continue
            texts = filter(None, caption_text.from_value(value))
            table[name] = (*table.get(name, ()), *texts)
    except _NoColumnsError as error:
        skipped[_unused(id_column, columns, error.columns)] += 1
        return None
    except (OSError, ValueError, csv.Error, RecursionError) as fault:
        # UnicodeDecodeError and pyarrow's ArrowInvalid are ValueErrors.
        detail = (str(fault).strip() or type(fault).__name__).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as a table ({detail}); repair or remove it"
        ) from fault
    return table


def _unused(id_column: str, columns: tuple[str, ...], found: list[str]) -> str:
    more = ", ..." if len(found) > NAMED else ""
    return (
        f"table without the columns {id_column} and {' or '.join(columns)}, only "
        f"{', '.join(found[:NAMED]) or 'none'}{more}"
    )


def _nameless(id_column: str, value: object) -> str:
    if value is None:
        return f"table row without {id_column}"
    return f"table row whose {id_column} has type {type(value).__name__}, not text"


def _jsonl_rows(
    path: pathlib.Path, id_column: str, columns: tuple[str, ...]
) -> Iterator[Row]:
    has_columns, names = False, {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as fault:
                raise ValueError(f"line {number} is not JSON") from fault
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            column = _find(columns, row)
            has_columns = has_columns or (id_column in row and column is not None)
            names |= dict.fromkeys(row) if len(names) <= NAMED else {}
            yield row.get(id_column), row.get(column)
    if not has_columns:
        raise _NoColumnsError(names)


def _csv_rows(
    path: pathlib.Path, id_column: str, columns: tuple[str, ...]
) -> Iterator[Row]:
    with path.open(encoding=csv_files.encoding(path), newline="") as file:
        delimiter, _ = csv_files.find_separator(file)
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        column = _find(columns, reader.fieldnames)
        if id_column not in reader.fieldnames or column is None:
            raise _NoColumnsError(reader.fieldnames)
        yield from ((row[id_column], row[column]) for row in reader)


def _parquet_rows(
    path: pathlib.Path, id_column: str, columns: tuple[str, ...]
) -> Iterator[Row]:
    # Imported on use, since the import is slow.
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        column = _find(columns, names)
        if id_column not in names or column is None:
            raise _NoColumnsError(names)
        wanted = [id_column, column]
        # A pool of threads does not pay for two columns.
        for batch in file.iter_batches(columns=wanted, use_threads=False):
            held = batch.to_pydict()
            yield from zip(held[id_column], held[column], strict=True)


def _find(columns: tuple[str, ...], names) -> str | None:
    return next((column for column in columns if column in names), None)
