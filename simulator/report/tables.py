"""Sheets as rich tables for a terminal, quiet enough to be read at 80 columns."""

import textwrap
from collections.abc import Iterable

from rich import box, console, table, text

from simulator.report import sheet


def render(source: sheet.Sheet) -> table.Table:
    """Return the sheet as a rich table; cells are taken as plain text, never as markup."""
    grid = table.Table(
        title=text.Text(source.title, style="bold"),
        title_justify="left",
        caption=text.Text(source.note, style="dim") if source.note else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="dim",
    )
    for number, column in enumerate(source.columns):
        fixed = column.figures or number == 0
        grid.add_column(
            text.Text(_head(column.name) if column.figures else column.name),
            justify="right" if column.figures else "left",
            no_wrap=fixed,
            min_width=min(10, _widest(source, number)) if number == 0 else None,
            overflow="ellipsis" if fixed else "fold",
        )
    best = set(source.best)
    for r, row in enumerate(source.rows):
        grid.add_row(*(text.Text(cell, style="bold green" if (r, c) in best else "") for c, cell in enumerate(row)))
    return grid


def show(terminal: console.Console, sheets: Iterable[sheet.Sheet]) -> None:
    """Print the sheets that have rows, one blank line between them."""
    for each in sheets:
        if each.rows:
            terminal.print(render(each))


def _head(name: str) -> str:
    """Break long headings of narrow columns after hyphens and at spaces."""
    return "\n".join(textwrap.wrap(name, 10, break_long_words=False))


def _widest(source: sheet.Sheet, column: int) -> int:
    return max((len(row[column]) for row in source.rows), default=0)
