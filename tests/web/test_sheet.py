"""What is put together from pieces decodes to the same as what is encoded plainly."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given as over
from hypothesis import strategies as st

from scheduler.web import extender, sheet, wire

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
NAMES |= st.sampled_from(["n-0", "n-1", ",", '"', "\\", '",', "\n"])
FLEETS = st.lists(NAMES, unique=True, max_size=8)


@st.composite
def asked(draw: st.DrawFn) -> tuple[sheet.Sheet, list[str]]:
    """Draw a fleet and names that are asked about: some of it, some of none, some twice."""
    fleet, others = draw(FLEETS), draw(FLEETS)
    return sheet.Sheet(fleet), draw(st.lists(st.sampled_from([*fleet, *others, "n"]), max_size=12))


@over(asked(), st.data(), st.integers(0, 3))
def test_filter(asking: tuple[sheet.Sheet, list[str]], data: st.DataObject, passing: int) -> None:
    known, names = asking
    found = data.draw(st.lists(st.integers(extender.FITS, 2), min_size=len(names), max_size=len(names)))
    causes = np.array([found[names.index(name)] for name in names], dtype=np.int64)  # one cause for each node
    sentences = ('no "room"', "down\n", "full")
    plain = extender.Verdict(names, causes, sentences, passing)
    quick = extender.Verdict(names, causes, sentences, passing, known.quoted(names, known.rows(names)))
    assert json.loads(quick.encoded()) == json.loads(plain.encoded())
    told = json.loads(quick.encoded())
    assert [*told["NodeNames"]] == plain.feasible and told["FailedNodes"] == plain.failed
    assert told["FailedAndUnresolvableNodes"] == plain.hopeless
    assert {*told["NodeNames"], *told["FailedNodes"], *told["FailedAndUnresolvableNodes"]} == set(names)


@over(asked(), st.data(), st.sampled_from([1, 10, 121]))
def test_prioritize(asking: tuple[sheet.Sheet, list[str]], data: st.DataObject, step: int) -> None:
    known, names = asking
    most = len(known.names)
    found = data.draw(st.lists(st.integers(0, most), min_size=len(names), max_size=len(names)))
    places = np.array(found, dtype=np.int64)
    plain = extender.Ranks(names, places).encoded(step)
    quick = extender.Ranks(names, places, known.rows(names), known).encoded(step)
    assert json.loads(quick) == json.loads(plain)
    assert json.loads(quick) == [
        {"Host": name, "Score": step * place} for name, place in zip(names, found, strict=True)
    ]


def test_names_are_found_whoever_made_them() -> None:
    known = sheet.Sheet(["n-0", "n-1"])
    assert known.rows(["n-1", "x", "n-0", "n-1"]).tolist() == [1, sheet.UNKNOWN, 0, 1]
    assert known.row("n-1") == 1 and known.row("x") == sheet.UNKNOWN
    assert wire.encode(["n-1", "x"]) == b"[" + b",".join(known.quoted(["n-1", "x"], known.rows(["n-1", "x"]))) + b"]"
