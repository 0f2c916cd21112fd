"""Strict tables from CSV and Parquet files: every bad cell is told with file, line, field and remedy.

Everything is read as text and converted here, because a reader that guesses types turns bad input into other numbers.
Nothing is returned from a file that is not good from its first byte to its last.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from simulator.trace import content, job

MAX_ROWS = 20_000_000

PARQUET_MAGIC = b"PAR1"

TRAILING_ROWS = "write one row per line, with as many fields as the header has"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Columns of text, with the line that every row came from.

    Attributes
    ----------
    file : str
        As the user named it.
    frame : polars.DataFrame
        Text columns; null where a cell is empty.
    first_line : int
        Line of row 0; 1 for Parquet, where rows are numbered instead.
    odd_lines : ndarray of int64 or None
        Line of each row, where lines and rows do not run in step.
    """

    file: str
    sha256: str
    frame: pl.DataFrame
    first_line: int = 2
    odd_lines: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return self.frame.height

    def line(self, row: int) -> int:
        """Return the line of a row."""
        return int(self.odd_lines[row]) if self.odd_lines is not None else row + self.first_line

    def error(self, row: int, field: str, problem: str, remedy: str = "") -> job.TraceError:
        """Return the error that a cell deserves."""
        value = self.frame[field][row] if field in self.frame.columns else None
        words = "" if value is None else str(value)
        return job.TraceError(problem, file=self.file, line=self.line(row), field=field, value=words, remedy=remedy)

    def need(self, required: Iterable[str], optional: Iterable[str] = ()) -> None:
        """Refuse missing and unknown columns.

        Raises
        ------
        TraceError
        """
        required, have = list(required), self.frame.columns
        known = {*required, *optional}
        for field in required:
            if field not in have:
                remedy = f"the header must name {', '.join(required)}"
                raise job.TraceError("this column is missing", file=self.file, line=1, field=field, remedy=remedy)
        for field in have:
            if field not in known:
                remedy = f"known columns are {', '.join(sorted(known))}"
                raise job.TraceError("unknown column", file=self.file, line=1, field=field, remedy=remedy)

    def has(self, field: str) -> bool:
        """Tell whether there is such a column."""
        return field in self.frame.columns

    def text(self, field: str, default: str | None = None) -> pl.Series:
        """Return a column of text; empty cells need a default."""
        column = self._cells(field, default is not None)
        return column if default is None else column.fill_null(default)

    def integers(self, field: str, low: int, high: int, default: int | None = None) -> NDArray[np.int64]:
        """Return a column of whole numbers within bounds, both inclusive."""
        cells = self._cells(field, default is not None)
        values = cells.cast(pl.Int64, strict=False)
        if values.null_count() > cells.null_count():
            values = values.fill_null(_whole(cells))
        bad = cells.is_not_null() & (values.is_null() | (values < low) | (values > high)).fill_null(True)
        self._refuse(field, bad, f"not a whole number from {low} to {high}")
        return (values if default is None else values.fill_null(default)).to_numpy()

    def numbers(self, field: str, low: float, high: float, default: float | None = None) -> NDArray[np.float64]:
        """Return a column of finite numbers within bounds, both inclusive."""
        cells = self._cells(field, default is not None)
        values = cells.cast(pl.Float64, strict=False)
        outside = values.is_null() | values.is_nan() | (values < low) | (values > high)
        self._refuse(field, cells.is_not_null() & outside.fill_null(True), f"not a number from {low:g} to {high:g}")
        return (values if default is None else values.fill_null(default)).to_numpy()

    def names(self, field: str) -> job.Texts:
        """Return a column of names, none of them empty, none twice."""
        names = np.array(self._cells(field, False).to_list(), dtype=job.TEXT)
        twice = job.first_duplicate(names)
        if twice >= 0:
            first = self.line(int(np.flatnonzero(names == names[twice])[0]))
            raise self.error(twice, field, f"the name was used on line {first}", "give every job its own name")
        return names

    def codes(self, field: str, default: str | None = None) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """Return the distinct texts of a column in order of appearance, and each row's index into them."""
        column = self.text(field, default)
        distinct = column.unique(maintain_order=True)
        rows = column.replace_strict(distinct, pl.Series(range(len(distinct)), dtype=pl.Int32), return_dtype=pl.Int32)
        return tuple(distinct.to_list()), rows.to_numpy()

    def groups(self, fields: list[str]) -> tuple[pl.DataFrame, NDArray[np.int32], NDArray[np.int64]]:
        """Return the distinct combinations of some columns, each row's combination, and the first row of each."""
        keys = self.frame.select(fields).with_row_index("first row")
        distinct = keys.unique(fields, keep="first", maintain_order=True).with_row_index("group")
        joined = keys.join(distinct.drop("first row"), on=fields, how="left", nulls_equal=True, maintain_order="left")
        return distinct, joined["group"].cast(pl.Int32).to_numpy(), distinct["first row"].cast(pl.Int64).to_numpy()

    def _cells(self, field: str, may_be_empty: bool) -> pl.Series:
        """Return a column, stripped; refuse empty cells unless they may be."""
        cells = self.frame[field]
        if not may_be_empty:
            self._refuse(field, cells.is_null(), "empty")
        return cells

    def _refuse(self, field: str, bad: pl.Series, problem: str) -> None:
        row = bad.arg_max()
        if row is not None and bad[row]:
            raise self.error(row, field, problem)


def read(path: Path) -> Table:
    """Read a CSV or Parquet file, whichever its first bytes say it is.

    Raises
    ------
    TraceError
        Unreadable, empty, too large, not UTF-8, truncated, or a row with too many or too few fields.
    """
    return of_bytes(str(path), content.read(path))


def of_bytes(file: str, data: bytes) -> Table:
    """Make a table of a file's content."""
    if data.startswith(PARQUET_MAGIC) or file.endswith(".parquet"):
        return _parquet(file, data)
    return _csv(file, data)


def _whole(cells: pl.Series) -> pl.Series:
    """Read whole numbers that a table program wrote as ``8.0``; anything else is null."""
    floats = cells.cast(pl.Float64, strict=False)
    return floats.set(floats != floats.floor(), None).cast(pl.Int64, strict=False)


def rows_of(
    file: str,
    digest: str,
    columns: Mapping[str, list[str | None]],
    first_line: int,
    odd_lines: NDArray[np.int64] | None = None,
) -> Table:
    """Make a table of columns that another reader has split."""
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    return Table(file, digest, frame, first_line, odd_lines)


def _csv(file: str, data: bytes) -> Table:
    words = content.text(file, data).rstrip("\n") + "\n"
    header = _header(file, words)
    odd_lines = None
    if '"' in words:
        odd_lines = _check_quoted(file, words, len(header))
    else:
        _check_plain(file, words, len(header))
    schema = dict.fromkeys(header, pl.String)
    try:
        frame = pl.read_csv(io.BytesIO(words.encode()), infer_schema=False, schema=schema)
    except pl.exceptions.PolarsError as error:
        raise job.TraceError(f"not a CSV table ({_first_line(error)})", file=file, remedy=TRAILING_ROWS) from error
    return Table(file, content.sha256(data), _tidy(frame, file), 2, odd_lines)


def _parquet(file: str, data: bytes) -> Table:
    if not (data.startswith(PARQUET_MAGIC) and data.endswith(PARQUET_MAGIC)) or len(data) < 12:
        raise job.TraceError("truncated Parquet: the footer is missing", file=file, remedy="copy the file again")
    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        # Polars panics on some flipped bits; a flipped length that no memory could hold still ends the process.
        problem = f"damaged Parquet ({_first_line(error)})"
        raise job.TraceError(problem, file=file, remedy="copy the file again") from error
    for field, kind in frame.schema.items():
        if not (kind.is_numeric() or kind in (pl.String, pl.Null, pl.Boolean) or isinstance(kind, pl.Categorical)):
            raise job.TraceError(f"a column of type {kind}", file=file, field=field, remedy="use text or numbers")
    return Table(file, content.sha256(data), _tidy(frame, file), 1)


def _tidy(frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """Strip blanks; empty cells become null."""
    if not frame.height:
        raise job.TraceError("the table has no rows", file=file)
    if frame.height > MAX_ROWS:
        raise job.TraceError(f"{frame.height} rows, at most {MAX_ROWS} are read", file=file)
    for index, field in enumerate(frame.columns):
        # Column by column: a copy of the whole frame would double the peak of a large file.
        cells = frame[field].cast(pl.String).str.strip_chars()
        frame.replace_column(index, cells.set(cells == "", None))
    return frame


def _header(file: str, words: str) -> list[str]:
    first = words[: words.index("\n")]
    header = [name.strip() for name in next(csv.reader([first]), [])]
    for name in header:
        if not name or header.count(name) > 1:
            problem = "two columns have this name" if name else "a column has no name"
            raise job.TraceError(problem, file=file, line=1, field=name)
    return header


def _check_plain(file: str, words: str, width: int) -> None:
    """Check the number of fields of every line of a file without quotes, by counting bytes."""
    codes = np.frombuffer(words.encode(), dtype=np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    commas = np.diff(np.searchsorted(np.flatnonzero(codes == ord(",")), ends), prepend=0)
    wrong = commas != width - 1
    blank = np.diff(ends, prepend=-1) == 1
    if (wrong | blank).any():
        row = int((wrong | blank).argmax())
        raise _ragged(file, row + 1, 0 if blank[row] else int(commas[row]) + 1, width)


def _check_quoted(file: str, words: str, width: int) -> NDArray[np.int64]:
    """Check the number of fields of every record of a file with quotes; return the line of each."""
    reader = csv.reader(io.StringIO(words), strict=True)
    lines, last = [], 0
    try:
        for record in reader:
            if len(record) != width:
                raise _ragged(file, last + 1, len(record), width)
            lines.append(last + 1)
            last = reader.line_num
    except csv.Error as error:
        raise job.TraceError(f"not a CSV row ({error})", file=file, line=last + 1, remedy=TRAILING_ROWS) from error
    return np.array(lines[1:], dtype=np.int64)


def _ragged(file: str, line: int, fields: int, width: int) -> job.TraceError:
    problem = f"{fields} fields, the header has {width}" if fields else "an empty line"
    return job.TraceError(problem, file=file, line=line, remedy=TRAILING_ROWS)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
