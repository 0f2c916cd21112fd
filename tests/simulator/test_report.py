"""Plots, tables and the page: deterministic, self-contained, and safe against hostile names."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich import console

from simulator.report import page, plots, sheet, tables, units, whole

HOSTILE = '<script>alert("x")</script>&[bold]'


class Reader(HTMLParser):
    """Collects tags, attributes and ids, and checks that elements close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"script in attribute {name}"
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src", "xlink:href"}:
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in {"meta", "link", "img", "br"}:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def curve(name: str, points: int = 50) -> plots.Curve:
    x = np.linspace(0.0, 9000.0, points)
    return plots.Curve(name, x, np.abs(np.sin(x / 700)))


def page_with(name: str) -> str:
    drawings = (
        page.Drawing(name, plots.over_time("use", [curve(name), curve("b")], "GPUs (%)")),
        page.Drawing(name, plots.distribution("wait", [curve(name)], "wait"), name, wide=True),
        page.Drawing(name, plots.bars("bars", [name, "8"], [(name, [1.0, float("nan")])], "GB/s")),
    )
    table = sheet.sheet(name, f"<{name.replace('|', '')}|jobs", [(name, "3")], name)
    return page.write(
        name, name, [page.Tile(name, name, name)], [page.Section(name, (*drawings, table, page.Words(name)))]
    )


def test_page_is_well_formed_and_asks_for_nothing_outside() -> None:
    text = page_with("cluster")
    reader = read(text)
    assert reader.tags.isdisjoint({"script", "link", "iframe", "img", "object", "embed"})
    assert all(link.startswith("#") for link in reader.links)
    assert not re.search(r"url\((?!#)", text)
    assert len(reader.ids) == len(set(reader.ids)), "two drawings share an id"
    assert all(link[1:] in reader.ids for link in reader.links)


def test_page_escapes_every_name() -> None:
    text = page_with(HOSTILE)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "script" not in read(text).tags


def test_page_is_the_same_bytes_every_time() -> None:
    assert page_with("a") == page_with("a")
    assert not re.search(r"20\d\d-\d\d-\d\d", page_with("a")), "a date of making would change the bytes"


def test_thinned_curves_keep_ends_and_peaks() -> None:
    x = np.arange(100_000, dtype=np.float64)
    y = np.zeros_like(x)
    y[54_321] = 9.0
    kept_x, kept_y = plots.thin(x, y)
    assert kept_x.size <= 3 * plots.STEPS
    assert kept_y.max() == 9.0
    assert (kept_x[0], kept_x[-1]) == (x[0], x[-1])
    assert (np.diff(kept_x) > 0).all()


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal_and_take_names_as_text(width: int) -> None:
    stream = io.StringIO()
    rows = [("[bold]job[/bold]", "12", "3.5 min", "why " * 30)]
    tables.show(console.Console(file=stream, width=width), [sheet.sheet("T", "<job|GPUs|wait|<reason", rows)])
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "[bold]job[/bold]" in stream.getvalue(), "rich markup in a name was taken as markup"


def test_a_row_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        sheet.sheet("T", "a|b", [("1",)])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.25, "0.2 s"),
        (42, "42 s"),
        (89, "89 s"),
        (119, "2.0 min"),
        (210, "3.5 min"),
        (7200, "2 h"),
        (23400, "6.5 h"),
        (181440, "2.1 d"),
    ],
)
def test_durations_are_short_words(seconds: float, words: str) -> None:
    assert units.duration(seconds) == words


def stop_half_way(target: Path) -> None:
    with whole.replacing(target) as partial:
        partial.write_text("half")
        raise RuntimeError("stop")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result.json"
    whole.write_text(target, "first")
    with pytest.raises(RuntimeError, match="stop"):
        stop_half_way(target)
    assert target.read_text() == "first"
    assert [p.name for p in target.parent.iterdir()] == ["result.json"]
