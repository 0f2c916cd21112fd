"""The bench frame: a missing part or a missed bound is told, never hidden and never a crash."""

import pytest

from tests.bench import core, driver, figure, openb


def absent() -> float:
    raise figure.Missing("no trace")


def test_a_part_that_is_missing_makes_one_figure_not_ok() -> None:
    name = "snapshot copy, 5000 x 8"
    first, second = figure.take("core", [(name, absent), (name, lambda: (3.0, "note"))])
    assert (first.value, first.ok) == (None, False)
    assert "no trace" in first.note
    assert (second.value, second.ok, second.note) == (3.0, True, "note")
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


def test_every_figure_of_the_benchmarks_has_a_bound_in_the_file() -> None:
    bench = openb.Bench(None, quick=True)
    sections = {"core": core.measurements(None), "openb": openb.measurements(bench), "driver": driver.measurements()}
    for section, measurements in sections.items():
        for name, _ in measurements:
            (taken,) = figure.take(section, [(name, lambda: 1.0)])
            assert taken.bound.unit
