"""Best subsets of GPUs agree with brute force over permutations, and with what is known of real machines."""

import time
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import device, machines, node
from scheduler.snapshot import rings, shapes, subsets, wiring
from tests.model import strategies


def shape_of(machine: node.NodeTopology) -> shapes.NodeShape:
    ((shape,), _) = shapes.classify((machine,))
    return shape


def known(kind: str) -> shapes.NodeShape:
    return shape_of(machines.build(kind, "n"))


def members(mask: int) -> tuple[int, ...]:
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)


def mask_of(*gpus: int) -> int:
    return sum(1 << gpu for gpu in gpus)


# The oracle: plain enumeration, written from the definition.


def edges_of(ring: tuple[int, ...], edge: wiring.Matrix) -> list[int]:
    if len(ring) == 2:
        return [edge[ring[0]][ring[1]]]
    return [edge[a][b] for a, b in zip(ring, (*ring[1:], ring[0]), strict=True)]


def slow_bandwidth(gpus: tuple[int, ...], edge: wiring.Matrix) -> int:
    if len(gpus) < 2:
        return 0
    return max(min(edges_of((gpus[0], *rest), edge)) for rest in permutations(gpus[1:]))


def slow_points(gpus: tuple[int, ...], wires: wiring.Wiring) -> int:
    near = sum(wires.nic_closeness[g] for g in gpus) if wires.nic_closeness else 0
    return near + sum(wires.closeness[a][b] for a, b in combinations(gpus, 2))


def slow_quality(gpus: tuple[int, ...], wires: wiring.Wiring) -> tuple[int, int, int]:
    links = sum(wires.nvlink_mbps[a][b] for a, b in combinations(gpus, 2))
    return slow_bandwidth(gpus, wires.edge_mbps), links, slow_points(gpus, wires)


def slow_promise(gpus: tuple[int, ...], wires: wiring.Wiring) -> tuple[int, int]:
    best = [max(slow_quality(c, wires) for c in combinations(gpus, k)) for k in range(len(gpus) + 1)]
    return sum(q[0] for q in best), sum(q[2] for q in best)


def slow_best(k: int, free: tuple[int, ...], wires: wiring.Wiring) -> int:
    def key(chosen: tuple[int, ...]) -> tuple[object, ...]:
        left = tuple(g for g in free if g not in chosen)
        return slow_quality(chosen, wires), slow_promise(left, wires), -mask_of(*chosen)

    return mask_of(*max(combinations(free, k), key=key))


@settings(max_examples=40, deadline=None)
@given(strategies.topologies(max_gpus=6))
def test_bandwidth_of_every_subset_is_that_of_the_best_permutation(machine: node.NodeTopology) -> None:
    shape = shape_of(machine)
    wires = shape.tables.wires
    for mask in range(1 << shape.gpus):
        assert shape.bandwidth(mask) == slow_bandwidth(members(mask), wires.edge_mbps)


@settings(max_examples=40, deadline=None)
@given(strategies.topologies(max_gpus=6))
def test_rings_have_the_bandwidth_that_is_promised(machine: node.NodeTopology) -> None:
    shape = shape_of(machine)
    edge = shape.tables.wires.edge_mbps
    for mask in range(1 << shape.gpus):
        ring = shape.ring(mask)
        assert sorted(ring) == list(members(mask))
        assert ring[:1] == members(mask)[:1]
        if len(ring) > 1:
            assert min(edges_of(ring, edge)) == shape.bandwidth(mask)
        if len(ring) > 3:
            assert ring[1] < ring[-1]
            others = ((ring[0], *rest) for rest in permutations(members(mask)[1:]))
            best = max(sum(edges_of(o, edge)) for o in others if min(edges_of(o, edge)) == shape.bandwidth(mask))
            assert sum(edges_of(ring, edge)) == best


@settings(max_examples=15, deadline=None)
@given(strategies.topologies(max_gpus=5))
def test_the_best_subset_is_that_of_plain_enumeration(machine: node.NodeTopology) -> None:
    shape = shape_of(machine)
    for free in range(1 << shape.gpus):
        for k in range(1, free.bit_count() + 1):
            assert shape.best(k, free) == slow_best(k, members(free), shape.tables.wires)


@settings(max_examples=25, deadline=None)
@given(strategies.topologies(max_gpus=7), st.data())
def test_the_search_of_large_nodes_agrees_with_the_table_of_small_ones(
    machine: node.NodeTopology, data: st.DataObject
) -> None:
    shape = shape_of(machine)
    free = data.draw(st.integers(0, (1 << shape.gpus) - 1))
    for k in range(1, free.bit_count() + 1):
        assert shape.tables._search(k, free) == shape.best(k, free)


@settings(max_examples=25, deadline=None)
@given(strategies.topologies(max_gpus=8))
def test_tables_say_what_the_methods_say(machine: node.NodeTopology) -> None:
    shape = shape_of(machine)
    assert shape.best_table.shape == shape.peak_table.shape == (shape.gpus + 1, 1 << shape.gpus)
    for free in range(1 << shape.gpus):
        for k in range(shape.gpus + 1):
            best = shape.best(k, free)
            assert best == shape.best_table[k, free]
            assert best & ~free == 0
            possible = k <= free.bit_count()
            assert best.bit_count() == (k if possible else 0)
            assert shape.peak_table[k, free] == (shape.bandwidth(best) if possible else -1)


# Known truths


def test_the_cube_mesh_rings_run_over_double_links() -> None:
    shape = known("dgx-1v")
    counts = shape.machine.link_counts()
    ring = shape.ring(0xFF)
    assert shape.bandwidth(0xFF) == 50_000
    assert all(counts[a][b] == 2 for a, b in zip(ring, (*ring[1:], ring[0]), strict=True))
    assert shape.bandwidth(0b1111) == 25_000
    a, b = members(shape.best(2, 0xFF))
    assert counts[a][b] == 2
    assert shape.best(4, 0xFF) == 0b1111
    assert shape.bandwidth(mask_of(0, 5)) == 6_000, "no link: PCIe across sockets"


@pytest.mark.parametrize(
    ("kind", "bandwidth"), [("dgx-a100", 300_000), ("hgx-h100", 478_116), ("hgx-b200", 956_250), ("dgx-2", 150_000)]
)
def test_behind_nvswitches_every_subset_has_the_same_bandwidth(kind: str, bandwidth: int) -> None:
    shape = known(kind)
    sizes = rings.popcounts(shape.gpus)
    assert set(shape.bandwidth_table[sizes > 1].tolist()) == {bandwidth}


def test_behind_nvswitches_pcie_and_numa_decide() -> None:
    assert known("dgx-a100").best(2, 0xFF) == 0b11
    assert known("dgx-a100").best(4, 0xFF) == 0b1111
    assert known("hgx-h100").best(4, 0b1111_1110) == 0b1111_0000
    assert known("dgx-2").best(8, 0xFFFF) in (0x00FF, 0xFF00)


def test_bridged_cards_come_in_pairs_whatever_their_index() -> None:
    assert known("a100-pcie-pairs").best(2, 0b1111) == 0b0011
    crossed = known("a100-pcie-pairs-crossed")
    assert crossed.best(2, 0b1111) == 0b0101
    assert crossed.best(2, 0b1011) == 0b1010
    assert crossed.ring(0b1111) == (0, 1, 3, 2), "over both bridges"


def test_a_single_gpu_does_not_break_a_pair_or_an_island() -> None:
    assert known("a100-pcie-pairs").best(1, 0b0111) == 0b0100
    assert known("a100-pcie-pairs-crossed").best(1, 0b0111) == 0b0010
    assert known("hgx-h100").best(1, 0b1111_0111) in (0b001, 0b010, 0b100)


def test_plain_nodes_give_the_lowest_gpus() -> None:
    shape = shape_of(machines.plain("n", 8, "G2", 1000, 1024))
    assert [shape.best(k, 0xFF) for k in range(9)] == [(1 << k) - 1 for k in range(9)]
    assert shape.best(2, 0b1010_1000) == 0b10_1000


def test_nics_are_the_nearest_free_ones() -> None:
    shape = known("dgx-1v")
    assert shape.nics(mask_of(0, 4), 2, 0b1111) == 0b0101
    assert shape.nics(mask_of(0), 1, 0b1110) == 0b0010, "the next on the same root"
    assert shape.nics(mask_of(6), 2, 0b1111) == 0b1100
    assert shape.nics(mask_of(6), 5, 0b1111) == 0
    assert shape.nics(0, 1, 0b1000) == 0b1000
    assert known("hgx-h100").nics(0xFF, 8, 0xFF) == 0xFF


@given(strategies.topologies(max_gpus=4), st.data())
def test_nics_are_as_many_as_asked_and_free(machine: node.NodeTopology, data: st.DataObject) -> None:
    shape = shape_of(machine)
    free = data.draw(st.integers(0, (1 << len(machine.nics)) - 1))
    mask = data.draw(st.integers(0, (1 << shape.gpus) - 1))
    for count in range(len(machine.nics) + 2):
        chosen = shape.nics(mask, count, free)
        assert chosen & ~free == 0
        assert chosen.bit_count() == (count if count <= free.bit_count() else 0)
    if mask.bit_count() == 1 and free:
        gpu = mask.bit_length() - 1
        distances = {nic: machine.gpu_nic_distance(gpu, nic) for nic in members(free)}
        assert distances[members(shape.nics(mask, 1, free))[0]] == min(distances.values())


def test_nic_bandwidth_is_that_of_the_nearest_nics_and_no_more_than_the_slots_carry() -> None:
    assert known("hgx-h100").nic_bandwidth(0xFF) == 8 * 48_000, "400 Gb/s are 50 GB/s, the slot carries 48"
    assert known("dgx-1v").nic_bandwidth(0b11) == 12_500, "two GPUs share one NIC"
    assert known("dgx-1v").nic_bandwidth(0b101) == 24_000
    assert known("dgx-a100").nic_bandwidth(0b1) == 24_000, "two NICs of 25, one slot of 24"
    assert known("dgx-a100").nic_bandwidth(0) == 0
    assert shape_of(machines.plain("n", 2, "G2", 1, 1)).nic_bandwidth(0b11) == 0


def test_nics_without_rdma_carry_nothing_where_others_have_it() -> None:
    base = machines.build("dgx-1v", "n")
    storage = replace(base, nics=(replace(base.nics[0], rdma=False), *base.nics[1:]))
    assert shape_of(storage).nic_bandwidth(0b1) == 12_000, "the next NIC of the socket, through the slot"
    assert shape_of(storage).nic_bandwidth(0b11) == 12_500
    ethernet = replace(base, nics=tuple(replace(nic, rdma=False) for nic in base.nics))
    assert shape_of(ethernet).nic_bandwidth(0b11) == 12_500


@given(strategies.topologies(max_gpus=6))
def test_alignment_is_per_mille(machine: node.NodeTopology) -> None:
    shape = shape_of(machine)
    assert all(0 <= shape.alignment(mask) <= 1000 for mask in range(1 << shape.gpus))


def test_alignment_falls_with_distance() -> None:
    shape = known("dgx-1v")
    same_switch, same_root, across = (shape.alignment(mask_of(0, g)) for g in (1, 2, 4))
    assert same_switch == 1000 > same_root > across


# Classes


def test_names_and_capacities_do_not_make_a_shape_but_wiring_and_modes_do() -> None:
    base = machines.build("dgx-1v", "a")
    same = replace(machines.build("dgx-1v", "b"), cpu_milli=1, memory_mib=1, labels=(("x", "y"),))
    moved = replace(
        base,
        gpus=tuple(replace(g, pci_bus_id="", pcie_root=f"z{g.pcie_root}", uuid="") for g in base.gpus),
        nics=tuple(replace(n, pcie_root=f"z{n.pcie_root}") for n in base.nics),
    )
    cut = replace(base, gpus=tuple(replace(g, mig_enabled=True) for g in base.gpus))
    unlinked = replace(base, nvlinks=base.nvlinks[1:])
    far = replace(base, nics=base.nics[:3])
    other = replace(base, gpus=tuple(replace(g, model=device.GpuModel("P100", "Pascal", 16384)) for g in base.gpus))
    near = replace(base, numa_distances=((10, 11), (11, 10)))
    one_socket = replace(base, sockets=(0, 0))
    found, rows = shapes.classify((base, same, moved, cut, unlinked, far, other, near, one_socket))
    assert rows.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6]
    assert [shape.gpus for shape in found] == [8] * 7


def test_a_moved_switch_makes_a_shape() -> None:
    base = machines.build("dgx-1v", "a")
    moved = replace(base, gpus=(replace(base.gpus[0], pcie_switch="plx1"), *base.gpus[1:]))
    assert len(shapes.classify((base, moved))[0]) == 2


def test_shapes_of_equal_wiring_share_their_tables() -> None:
    assert known("hgx-h100").tables is known("hgx-h200").tables


def test_nodes_without_gpus_have_a_shape() -> None:
    shape = shape_of(node.NodeTopology("n"))
    assert (shape.gpus, shape.bandwidth(0), shape.ring(0), shape.best(1, 0)) == (0, 0, (), 0)
    assert shape.best_table.tolist() == [[0]]


def test_an_empty_fleet_has_no_shapes() -> None:
    found, rows = shapes.classify(())
    assert found == () and rows.dtype == np.int32 and rows.tolist() == []


def test_tables_of_eight_gpus_take_milliseconds() -> None:
    best = min(_seconds_to_build(machines.build("dgx-1v", "n")) for _ in range(5))
    assert best < 0.02


def _seconds_to_build(machine: node.NodeTopology) -> float:
    start = time.perf_counter()
    tables = subsets.Subsets(wiring.wiring(machine))
    assert tables.best_of(2, 0xFF)
    return time.perf_counter() - start


def test_no_dense_table_is_built_for_sixteen_gpus() -> None:
    with pytest.raises(ValueError, match="no dense table for 16 GPUs, only up to 8"):
        _ = known("dgx-2").best_table
