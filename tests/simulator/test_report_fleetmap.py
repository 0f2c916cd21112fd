"""The picture of a fleet: every GPU once, in the colour of its state, at any size."""

import re

import pytest

from scheduler.model import fabric, machines
from scheduler.snapshot import state, topology
from simulator.report import fleetmap


def fleet(nodes: int = 4, name: str = "rack") -> state.Snapshot:
    made = {f"n{i}": machines.build("hgx-h100", f"n{i}") for i in range(nodes)}
    paths = {node: (f"{name}-{i // 2}",) for i, node in enumerate(made)}
    return state.empty(topology.compile_topology(fabric.from_paths(made, paths, ("rack",))))


def cells(svg: str) -> dict[str, int]:
    """Count the cells of every class."""
    paths = re.findall(r'<path class="([\w-]+)" d="([^"]*)"', svg)
    counts: dict[str, int] = {}
    for name, drawn in paths:
        counts[name] = counts.get(name, 0) + drawn.count("M")
    return counts


def test_every_gpu_is_drawn_once_in_its_state() -> None:
    snapshot = fleet()
    snapshot.take(state.Grant(0, 0b1111, state.FULL))
    snapshot.take(state.Grant(1, 0b1, 300))
    snapshot.set_gpu_failed(2, 7, True)
    snapshot.set_up(3, False)
    assert cells(fleetmap.draw(snapshot)) == {"g-free": 18, "g-shared": 1, "g-busy": 4, "g-failed": 9}


def test_a_large_fleet_is_drawn_node_by_node() -> None:
    snapshot = fleet()
    snapshot.take(state.Grant(0, 0xFF, state.FULL))
    snapshot.take(state.Grant(1, 0b1, state.FULL))
    snapshot.take(state.Grant(2, 0b1111111, state.FULL))
    assert cells(fleetmap.draw(snapshot, limit=31)) == {"g-busy": 1, "g-low": 1, "g-high": 1, "g-free": 1}


@pytest.mark.parametrize("name", ["<b>&amp;", 'a"onload="x'])
def test_names_of_domains_are_escaped(name: str) -> None:
    svg = fleetmap.draw(fleet(name=name))
    assert "<b>" not in svg
    assert 'onload="' not in svg


def test_racks_stay_within_the_picture() -> None:
    svg = fleetmap.draw(fleet(200))
    height = int(re.search(r'viewBox="0 0 \d+ (\d+)"', svg).group(1))  # type: ignore[union-attr]
    for x, y, w, h in re.findall(r'<rect class="rack" x="([\d.]+)" y="([\d.]+)" width="(\d+)" height="(\d+)"', svg):
        assert float(x) + int(w) <= fleetmap.WIDTH + 1
        assert float(y) + int(h) <= height + 1
