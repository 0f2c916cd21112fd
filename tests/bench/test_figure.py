"""The bench frame: a missing part or a missed bound is told, never hidden and never a crash."""

import pytest

from tests.bench import core, driver, figure, live, openb, stock


def absent() -> float:
    raise figure.Missing("no trace")


def test_a_part_that_is_missing_makes_one_figure_not_ok() -> None:
    name = "snapshot copy, 5000 x 8"
    first, second = figure.take("core", [(name, absent), (name, lambda: (3.0, "note"))])
    assert (first.value, first.ok) == (None, False)
    assert "no trace" in first.note
    assert (second.value, second.ok, second.note) == (3.0, None, "note")  # nothing was asked of it
    assert first.as_json() == {
        "figure": name,
        "value": None,
        "unit": "us",
        "bound": None,
        "ok": False,
        "note": first.note,
    }


@pytest.mark.parametrize(("value", "ok"), [(0.09, True), (0.1, True), (0.11, False), (float("nan"), False)])
def test_bounds_hold_up_to_their_value(value: float, ok: bool) -> None:
    (taken,) = figure.take("core", [("openb FGD run, warm", lambda: value)])
    assert taken.ok is ok


def test_better_is_more_than_as_good() -> None:
    known = {"speed": figure.Bound("times", more_than=1.4), "cut": figure.Bound("%", at_least=10.0)}
    told = [(name, figure.Figure(name, value, known[name])) for name, value in (("speed", 1.4), ("cut", 10.0))]
    assert [(one.ok, one.as_json()["bound"]) for _, one in told] == [(False, "> 1.4"), (True, "≥ 10")]
    assert figure.Figure("speed", 1.41, known["speed"]).ok is True
    assert figure.Figure("speed", None, known["speed"]).ok is False


def test_every_figure_of_the_benchmarks_has_a_bound_in_the_file() -> None:
    made = {"core": core.measurements(None), "openb": openb.measurements(openb.Bench(None, quick=True))}
    made |= {
        "live": live.measurements(live.Bench()),
        "driver": driver.measurements(),
        "stock": stock.measurements(stock.Bench()),
    }
    for section, measurements in made.items():
        for name, _ in measurements:
            (taken,) = figure.take(section, [(name, lambda: 1.0)])
            assert taken.bound.unit
