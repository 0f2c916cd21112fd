"""What a trace file holds, as bytes and as text: bounded in size, whole, and in the one encoding that we read."""

import gzip
import hashlib
import io
import zlib
from pathlib import Path

from simulator.trace import job

MAX_BYTES = 2 << 30
"""Larger files are refused before they are read."""

GZIP_MAGIC = b"\x1f\x8b"


def read(path: Path) -> bytes:
    """Read a whole file of bounded size, inflated if it is a gzip file."""
    file = str(path)
    try:
        if path.is_dir():
            raise job.TraceError("this is a folder", file=file, remedy="name one trace file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            remedy = "split it, or convert it to Parquet"
            raise job.TraceError(f"{size} bytes, at most {MAX_BYTES} are read", file=file, remedy=remedy)
        data = path.read_bytes()
    except OSError as error:
        raise job.TraceError(f"cannot be read ({error.strerror or error})", file=file) from error
    if data.startswith(GZIP_MAGIC):
        data = _inflated(file, data)
    if not data.strip():
        raise job.TraceError("the file is empty", file=file)
    return data


def sha256(data: bytes) -> str:
    """Return the hash by which reports name a trace."""
    return hashlib.sha256(data).hexdigest()


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
    return of_bytes(str(path), read_bytes(path))


def of_bytes(file: str, data: bytes) -> Table:
    """Make a table of a file's content."""
    if data.startswith(PARQUET_MAGIC) or file.endswith(".parquet"):
        return _parquet(file, data)
    return _csv(file, data)


def _whole(cells: pl.Series) -> pl.Series:
    """Read whole numbers that a table program wrote as ``8.0``; anything else is null."""
    floats = cells.cast(pl.Float64, strict=False)
    return floats.set(floats != floats.floor(), None).cast(pl.Int64, strict=False)


def text(file: str, data: bytes) -> str:
    """Decode UTF-8 with or without a byte order mark; line ends become newlines."""
    remedy = "save the file as UTF-8"
    for mark in (b"\xff\xfe", b"\xfe\xff"):
        if data.startswith(mark):
            raise job.TraceError("the text is UTF-16", file=file, remedy=remedy)
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise job.TraceError("a NUL byte: this is no text", file=file, line=line, remedy=remedy)
    try:
        words = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise job.TraceError("bytes that are not UTF-8", file=file, line=line, remedy=remedy) from error
    return words.replace("\r\n", "\n") if "\r" in words else words


def _inflated(file: str, data: bytes) -> bytes:
    """Return the content of a gzip file, of bounded size: a small file can hold a very large one."""
    try:
        inflated = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise job.TraceError(f"truncated or damaged gzip ({error})", file=file, remedy="copy the file again") from error
    if len(inflated) > MAX_BYTES:
        raise job.TraceError(f"more than {MAX_BYTES} bytes when inflated", file=file)
    return inflated
