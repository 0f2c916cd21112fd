"""A table as a value: terminals, the HTML page and tests show the same rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Column:
    """A column; figures stand right-aligned, words left-aligned and may wrap."""

    name: str
    figures: bool = True


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rows of finished words under a title.

    Attributes
    ----------
    note : str
        One sentence on how to read the table, "" for none.
    best : tuple of (int, int)
        Cells ``(row, column)`` to make stand out.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    best: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"table {self.title!r}: a row has {len(wrong[0])} cells for {len(self.columns)} columns")

    def titled(self, title: str) -> "Sheet":
        """Return the same table under another title."""
        return replace(self, title=title)


def sheet(title: str, names: str, rows: Sequence[tuple[str, ...]], note: str = "") -> Sheet:
    """Build a sheet from column names joined by ``|``; a leading ``<`` marks a column of words."""
    columns = tuple(Column(name.removeprefix("<"), not name.startswith("<")) for name in names.split("|"))
    return Sheet(title, columns, tuple(rows), note)
