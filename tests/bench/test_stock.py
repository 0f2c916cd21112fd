"""Figures of the stock benchmark: what is asked, and that nothing is tried twice."""

from typing import cast

import pytest

from tests.bench import burst, figure, stock
from tests.testbed import cluster


def test_every_figure_has_its_entry_among_the_bounds() -> None:
    known = figure.bounds("stock")
    names = [name for name, _ in stock.measurements(stock.Bench())]
    assert len(names) == len(set(names)) == 22
    assert all(name in known or name.split(" @")[0] in known for name in names)
    assert known["fleet ready @ 500 nodes"].value == 30 and known["fleet ready @ 5000 nodes"].value == 240


def test_a_failure_is_told_again_without_another_try() -> None:
    tried = []

    def fail() -> int:
        tried.append(1)
        raise burst.Unbound("3 of 500 pods")

    answers: dict[str, int | Exception] = {}
    for _ in range(2):
        with pytest.raises(burst.Unbound, match="3 of 500 pods"):
            stock.once(answers, "claims", fail)
    assert tried == [1]
    assert stock.once(answers, "no claims", lambda: 7) == stock.once(answers, "no claims", fail) == 7


def test_the_median_of_three_bursts_with_their_spread() -> None:
    made = stock.Bench()
    made.ready["f500"] = (cast(cluster.Cluster, None), 1.0)  # the bursts are there already
    made.taken["500 nodes, claims"] = [burst.Burst(s, 1.0, (s / 2, s), s + 1, 2 * s) for s in (4.0, 1.0, 2.0)]
    assert made.rate(stock.FLEETS[0], "claims") == (1.0, "0.5 to 2 in 3 runs, load 2 to 5")
    assert made.wait(stock.FLEETS[0], "claims", 0.99) == (2.0, "1 to 4 in 3 runs, load 2 to 5")
    assert made.processor(stock.FLEETS[0], "claims") == (2000.0, "1e+03 to 4e+03 in 3 runs, load 2 to 5")
    kept = made.as_json()["500 nodes, claims"]
    assert [run["bound"] for run in kept] == [4.0, 1.0, 2.0]
