"""Tables for people, in kubectl's manner: no frames, and plain whole lines where the output is no terminal."""

import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN = 1 << 16
"""Columns where nobody looks: nothing is wrapped or cut."""

STYLES = {
    "Running": "green",
    "Waiting": "yellow",
    "Incomplete": "yellow",
    "Allocating": "cyan",
    "Reserved": "cyan",
    "Rejected": "red",
}


@dataclass(frozen=True, slots=True)
class Paper:
    """What is written on.

    Attributes
    ----------
    rich : bool
        A terminal, with colours and a width.
    """

    out: TextIO
    rich: bool

    @classmethod
    def standard(cls) -> "Paper":
        """Return standard output; plain where it goes to a file or a pipe."""
        return cls(sys.stdout, sys.stdout.isatty())

    def line(self, text: str = "", style: str = "") -> None:
        """Write a line."""
        self._print(Text(clean(text), style=style))

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[object]], last_wraps: bool = True) -> None:
        """Write a table; numbers are put to the right, the last column may be wrapped on a terminal."""
        found = [[_cell(one) for one in row] for row in rows]
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_edge=False, header_style="bold")
        for at, head in enumerate(heads):
            numbers = bool(found) and all(row[at].plain.replace(".", "").isdecimal() for row in found)
            wraps = self.rich and last_wraps and at == len(heads) - 1
            table.add_column(head, justify="right" if numbers else "left", no_wrap=not wraps, overflow="fold")
        for row in found:
            table.add_row(*row)
        self._print(table)

    def _print(self, what: Text | Table) -> None:
        if self.rich:
            Console(file=self.out, highlight=False).print(what, soft_wrap=isinstance(what, Text))
            return
        text = io.StringIO()
        Console(file=text, width=PLAIN, no_color=True, highlight=False, force_terminal=False).print(what)
        self.out.writelines(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def clean(text: str) -> str:
    """Return a text without characters that would steer a terminal."""
    return "".join(one if one.isprintable() else " " if one in "\n\t" else "?" for one in text)


def _cell(value: object) -> Text:
    text = clean(str(value))
    return Text(text, style=STYLES.get(text, ""))
