"""Predicted bandwidth, checked by hand on machines whose links are known."""

from collections.abc import Mapping

import numpy as np
import pytest

from scheduler.model import machines
from scheduler.placement import bandwidth, devices, policy
from scheduler.snapshot import state, topology
from tests.placement import fleets

NDR400 = 400 * 125
"""MB/s of one 400 Gb/s NIC; the slot of a Hopper GPU carries 48,000."""


def predict(fleet: topology.Topology, masks: Mapping[str, int], tiers: bandwidth.Tiers = bandwidth.DEFAULT) -> int:
    """Predict one gang from GPU masks by node."""
    rows = sorted(fleet.row[name] for name in masks)
    used = [masks[fleet.nodes[row].name] for row in rows]
    start = np.zeros(1, dtype=np.int64)
    nodes, gpus = np.array(rows, dtype=np.int64), np.array(used, dtype=np.int64)
    return int(bandwidth.predict(fleet, "best-subset", tiers, nodes, gpus, start)[0])


@pytest.fixture(scope="module")
def hopper() -> topology.Topology:
    built = {f"n{i}": machines.build("hgx-h100", f"n{i}") for i in range(8)}
    return fleets.fleet({f"n{i}": (f"b{i // 4}", f"r{i // 2}") for i in range(8)}, built)


def test_one_node_runs_at_its_ring(hopper: topology.Topology) -> None:
    assert predict(hopper, {"n0": 0xFF}) == hopper.shapes[0].bandwidth(0xFF) == 478_116
    assert predict(hopper, {"n0": 0b1}) == 0


def test_nodes_are_limited_by_their_nics_and_the_node_with_fewest(hopper: topology.Topology) -> None:
    assert predict(hopper, {"n0": 0xFF, "n1": 0xFF}) == 8 * min(NDR400, 48_000)
    assert predict(hopper, {"n0": 0xFF, "n1": 0b1}) == 48_000
    assert predict(hopper, {"n0": 0b11, "n1": 0b11}) == 96_000


def test_oversubscription_is_that_of_the_highest_tier_crossed(hopper: topology.Topology) -> None:
    tiers = bandwidth.Tiers((("rack", 1000), ("block", 2000), ("cluster", 8000)))
    near, middle, far = ({"n0": 0xFF, other: 0xFF} for other in ("n1", "n3", "n7"))
    speeds = [predict(hopper, gang, tiers) for gang in (near, middle, far)]
    assert speeds == [384_000, 192_000, 48_000]


def test_default_tiers_go_by_the_height_above_the_nodes(hopper: topology.Topology) -> None:
    assert bandwidth.DEFAULT.factors(hopper.tree).tolist() == [2000, 1000, 1000, 1000]
    with pytest.raises(ValueError, match="rack"):
        bandwidth.Tiers((("rack", 0),))


def test_a_rack_of_one_nvlink_fabric_is_one_large_node() -> None:
    built = {m.name: m for rack in ("a", "b") for m in machines.nvl72(rack, f"uuid-{rack}")}
    fleet = fleets.fleet({name: ("b", name.split("-")[0]) for name in built}, built)
    pair = fleet.shapes[0].bandwidth(0b11)
    inside = {f"a-tray-{i:02d}": 0b1111 for i in range(18)}
    assert predict(fleet, inside) == pair
    assert predict(fleet, {"a-tray-00": 0b1, "a-tray-05": 0b1}) == pair
    across = inside | {"b-tray-00": 0b1111}
    assert predict(fleet, across) == min(pair, fleet.shapes[0].nic_bandwidth(0b1111))
    balanced = {f"{rack}-tray-{i:02d}": 0b1111 for rack in "ab" for i in range(4)}
    assert predict(fleet, balanced) == min(pair, 4 * fleet.shapes[0].nic_bandwidth(0b1111))


def test_machines_that_list_no_nics_reach_others_over_the_host_network() -> None:
    built = {f"n{i}": machines.plain(f"n{i}", 2, "T4", 8000, 8000) for i in range(2)}
    fleet = fleets.fleet(dict.fromkeys(built, ("b", "r")), built)
    assert predict(fleet, {"n0": 0b11, "n1": 0b11}) == bandwidth.HOST_NETWORK_MB_S


def test_many_gangs_at_once_are_the_gangs_one_by_one(hopper: topology.Topology) -> None:
    gangs = [{"n0": 0xFF}, {"n1": 0b11, "n2": 0b1}, {"n3": 0}, {"n0": 0xF, "n4": 0xF0, "n7": 0}]
    nodes = np.array([hopper.row[n] for g in gangs for n in g], dtype=np.int64)
    masks = np.array([m for g in gangs for m in g.values()], dtype=np.int64)
    starts = np.array([0, 1, 3, 4], dtype=np.int64)
    together = bandwidth.predict(hopper, "best-subset", bandwidth.DEFAULT, nodes, masks, starts).tolist()
    assert together == [predict(hopper, g) for g in gangs]


@pytest.mark.parametrize("kind", ["hgx-h100", "dgx-1v", "dgx-2", "a100-pcie-pairs"])
@pytest.mark.parametrize("rule", ["best-subset", "first-fit"])
def test_unions_are_what_the_devices_will_be(kind: str, rule: policy.DeviceRule) -> None:
    fleet = fleets.fleet({"n": ("", "")}, {"n": machines.build(kind, "n")})
    snapshot = state.empty(fleet)
    snapshot.take(state.Grant(0, 0b101, 1000))
    eligible = np.array([0xFFFF], dtype=np.uint32)
    free = int(snapshot.free_mask[0])
    for gpus in range(1, free.bit_count() + 1):
        nodes, used = np.zeros(1, dtype=np.int64), np.array([gpus], dtype=np.int64)
        mask = int(bandwidth.unions(snapshot, rule, eligible, nodes, used)[0])
        cut = devices.cut(fleet.shapes[0], 1, gpus, free, rule)
        assert mask == sum(part for part, _ in cut)
