"""One self-contained HTML file: no script, no outside resource, light or dark as the reader's system asks.

Everything that came from a trace or a fleet passes through `html.escape` here: job, tenant and node names are not
ours. Drawings are finished SVG from `plots` and `fleetmap`, which escape their own text.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

from simulator.report import sheet

WIDE_COLUMNS, WIDE_WORDS = 7, 36
"""Tables of more columns, or with longer words, take the whole width of the page."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure at the top of the page."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A finished SVG with its caption; `wide` takes the whole width."""

    title: str
    svg: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """A paragraph; `warning` makes it stand out."""

    text: str
    warning: bool = False


Block = Drawing | Words | sheet.Sheet


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with what stands under it."""

    heading: str
    blocks: tuple[Block, ...]


def write(title: str, subtitle: str, tiles: Sequence[Tile], sections: Iterable[Section]) -> str:
    """Return the whole page."""
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    body = "".join(_section(section) for section in sections if section.blocks)
    cards = "".join(
        f"<div><dt>{html.escape(t.label)}</dt><dd>{html.escape(t.value)}</dd><p>{html.escape(t.detail)}</p></div>"
        for t in tiles
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style></head>\n<body><main>"
        f"<header><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p></header>"
        f'<dl class="tiles">{cards}</dl>\n{body}</main></body></html>\n'
    )


def _section(section: Section) -> str:
    blocks = "".join(_block(block) for block in section.blocks)
    return f'<section><h2>{html.escape(section.heading)}</h2><div class="blocks">{blocks}</div></section>\n'


def _block(block: Block) -> str:
    match block:
        case Drawing():
            wide = ' class="wide"' if block.wide else ""
            caption = f"<p>{html.escape(block.caption)}</p>" if block.caption else ""
            return f"<figure{wide}><figcaption>{html.escape(block.title)}</figcaption>{block.svg}{caption}</figure>"
        case Words():
            return f'<p class="{"warning" if block.warning else "words"}">{html.escape(block.text)}</p>'
        case sheet.Sheet():
            return _table(block)


def _table(source: sheet.Sheet) -> str:
    """Return a table; figures are right-aligned by class, so that the page needs no inline style."""
    kinds = ["num" if column.figures else "txt" for column in source.columns]
    best = set(source.best)
    head = "".join(f'<th class="{k}">{html.escape(c.name)}</th>' for k, c in zip(kinds, source.columns, strict=True))
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kinds[c]}{" best" if (r, c) in best else ""}">{html.escape(cell)}</td>'
            for c, cell in enumerate(row)
        )
        + "</tr>"
        for r, row in enumerate(source.rows)
    )
    note = f"<p>{html.escape(source.note)}</p>" if source.note else ""
    wide = " wide" if len(source.columns) > WIDE_COLUMNS or _longest(source) > WIDE_WORDS else ""
    return (
        f'<div class="table{wide}"><h3>{html.escape(source.title)}</h3><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}</div>"
    )


def _longest(source: sheet.Sheet) -> int:
    """Return the length of the longest cell that wraps, first column aside."""
    words = [c for c, column in enumerate(source.columns) if c and not column.figures]
    return max((len(row[c]) for row in source.rows for c in words), default=0)
