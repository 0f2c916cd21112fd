"""Nodes refuse contradictions and answer questions about their wiring."""

import networkx as nx
import pytest
from hypothesis import given

from scheduler.model import device, distance, export, machines, node, order, wires
from tests.model import strategies

MODEL = device.GpuModel("A100", "Ampere", 81920)


def gpus(count: int) -> tuple[device.Gpu, ...]:
    return tuple(device.Gpu(i, MODEL) for i in range(count))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "the name is empty"),
        ({"cpu_milli": -1}, "cpu_milli must not be negative, got -1"),
        ({"gpus": gpus(17)}, "17 GPUs, at most 16"),
        ({"gpus": gpus(2)[1:]}, r"gpus: indices must be 0..0 in order, got \[1\]"),
        ({"nvlinks": (node.NvLink(0, 2, 1, 25.0),)}, "0-2 does not join two of the 2 GPUs"),
        ({"nvlinks": (node.NvLink(1, 1, 1, 25.0),)}, "1-1 does not join"),
        ({"nvlinks": (node.NvLink(0, 1, 1, 25.0), node.NvLink(1, 0, 2, 25.0))}, "a pair of GPUs occurs twice"),
        ({"nvlinks": (node.NvLink(0, 1, 0, 25.0),)}, "links and gbps must be positive"),
        ({"numa_distances": ((10, 21), (21,))}, "not a square matrix of 2 rows"),
        ({"numa_distances": ((10,),), "sockets": (0, 1)}, "2 entries for 1 NUMA nodes"),
        ({"labels": (("a", "1"), ("a", "2"))}, "a key occurs twice"),
        ({"gpus": (device.Gpu(0, MODEL, device_name="x"), device.Gpu(1, MODEL, device_name="x"))}, "two are called x"),
        (
            {"gpus": (device.Gpu(0, MODEL), device.Gpu(1, device.GpuModel("A100", "", 1)))},
            "two models of one name differ",
        ),
    ],
)
def test_contradictions_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        node.NodeTopology(**({"name": "n", "gpus": gpus(2)} | fields))  # type: ignore[arg-type]


def test_links_are_kept_sorted_with_the_lower_gpu_first() -> None:
    machine = node.NodeTopology("n", gpus=gpus(3), nvlinks=(node.NvLink(2, 1, 4, 25.0), node.NvLink(1, 0, 2, 25.0)))
    assert [(link.a, link.b) for link in machine.nvlinks] == [(0, 1), (1, 2)]
    assert machine.link_counts() == ((0, 2, 0), (2, 0, 4), (0, 4, 0))
    assert machine.link_gbps()[2][1] == 100.0


@given(strategies.topologies(max_gpus=16))
def test_islands_are_the_connected_components_of_the_links(machine: node.NodeTopology) -> None:
    oracle = nx.Graph((link.a, link.b) for link in machine.nvlinks)
    assert set(machine.islands()) == {tuple(sorted(c)) for c in nx.connected_components(oracle)}


@given(strategies.topologies())
def test_pairs_match_each_gpu_at_most_once_and_only_over_links(machine: node.NodeTopology) -> None:
    pairs = order.pairs(machine)
    members = [gpu for pair in pairs for gpu in pair]
    counts = machine.link_counts()
    assert len(set(members)) == len(members)
    assert all(counts[a][b] > 0 for a, b in pairs)


@given(strategies.topologies(max_gpus=16))
def test_pairs_are_as_many_and_as_good_as_an_exact_matching_makes_them(machine: node.NodeTopology) -> None:
    def worth(a: int, b: int) -> int:
        (links,) = (link.links for link in machine.nvlinks if (link.a, link.b) == (a, b))
        near = order.CLOSENESS_WEIGHT[distance.between(machine.gpus[a], machine.gpus[b])]
        return (links * order.LINK_WEIGHT + near * 10) * 100 - (b - a) ** 2 // 4

    oracle: nx.Graph[int] = nx.Graph()
    oracle.add_weighted_edges_from((link.a, link.b, worth(link.a, link.b)) for link in machine.nvlinks)
    best = [(min(pair), max(pair)) for pair in nx.max_weight_matching(oracle, maxcardinality=True)]
    found = order.pairs(machine)
    assert len(found) == len(best)
    assert sum(worth(a, b) for a, b in found) == sum(worth(a, b) for a, b in best)


def test_as_many_gpus_as_possible_are_in_pairs_rather_than_few_over_many_links() -> None:
    gpus = tuple(device.Gpu(i, device.GpuModel("A100", "Ampere", 81920)) for i in range(4))
    links = (node.NvLink(0, 1, 1, 25.0), node.NvLink(1, 2, 4, 25.0), node.NvLink(2, 3, 1, 25.0))
    assert order.pairs(node.NodeTopology("n", gpus=gpus, nvlinks=links)) == ((0, 1), (2, 3))


def test_bridges_are_pairs_and_cube_mesh_pairs_are_double_links() -> None:
    assert order.pairs(machines.build("a100-pcie-pairs-crossed", "n")) == ((0, 2), (1, 3))
    dgx = machines.build("dgx-1v", "n")
    assert all(dgx.link_counts()[a][b] == 2 for a, b in order.pairs(dgx))
    assert len(order.pairs(dgx)) == 4


@given(strategies.topologies(max_gpus=10))
def test_first_fit_order_is_a_permutation(machine: node.NodeTopology) -> None:
    assert sorted(order.first_fit(machine)) == list(range(len(machine.gpus)))


def test_first_fit_order_keeps_bridges_and_quads_together() -> None:
    listed = order.first_fit(machines.build("a100-pcie-pairs-crossed", "n"))
    assert {frozenset(listed[:2]), frozenset(listed[2:])} == {frozenset({0, 2}), frozenset({1, 3})}
    assert set(order.first_fit(machines.build("dgx-1v", "n"))[:4]) == {0, 1, 2, 3}


def test_first_fit_order_of_a_cube_mesh_goes_once_round_its_double_links() -> None:
    machine = machines.build("dgx-1v", "n")
    listed = order.first_fit(machine)
    links = machine.link_counts()
    assert [links[a][b] for a, b in zip(listed, (*listed[1:], listed[0]), strict=True)] == [2] * 8


def test_distance_classes_follow_switches_roots_and_numa_nodes() -> None:
    a100 = machines.build("dgx-a100", "n")
    assert a100.gpu_nic_distance(0, 0) is distance.Distance.PXB
    assert a100.gpu_nic_distance(0, 2) is distance.Distance.SYS
    dgx2 = machines.build("dgx-2", "n")
    near = [dgx2.gpu_nic_distance(0, nic).name for nic in range(8)]
    assert near == ["PIX", "PXB", "NODE", "NODE", "SYS", "SYS", "SYS", "SYS"]
    assert machines.build("gb200-nvl72", "n").gpu_nic_distance(0, 0) is distance.Distance.NODE


@given(strategies.topologies())
def test_distance_is_symmetric(machine: node.NodeTopology) -> None:
    places: list[distance.Position] = [*machine.gpus, *machine.nics, *machine.accelerators]
    assert all(distance.between(a, b) is distance.between(b, a) for a in places for b in places)


def test_nearest_nics_are_shared_evenly() -> None:
    assert [machines.build("dgx-a100", "n").nearest_nic(g) for g in range(8)] == list(range(8))
    assert [machines.build("dgx-1v", "n").nearest_nic(g) for g in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_graph_of_a_dgx_2_joins_two_boards_of_six_switches() -> None:
    wiring = wires.graph(machines.build("dgx-2", "n"))
    links = nx.Graph((a, b) for a, b, d in wiring.edges(data=True) if d["kind"] == "nvlink")
    assert links.degree("gpu-0") == 6
    assert links.degree("nvswitch-0") == 8 + 1
    assert nx.shortest_path_length(links, "gpu-0", "gpu-7") == 2
    assert nx.shortest_path_length(links, "gpu-0", "gpu-8") == 3
    trunk = wiring.edges["nvswitch-0", "nvswitch-6"]["links"]
    assert trunk == 8


@pytest.mark.parametrize("kind", machines.KINDS)
def test_every_gpu_reaches_its_links_in_the_graph(kind: str) -> None:
    machine = machines.build(kind, "n")
    wiring = wires.graph(machine)
    assert nx.is_connected(wiring)
    for gpu in range(len(machine.gpus)):
        edges = wiring.edges(f"gpu-{gpu}", data=True)
        links = sum(d["links"] for _, _, d in edges if d["kind"] == "nvlink")
        expected = machine.link_counts()[gpu]
        assert links == (max(expected) if machine.nvswitches else sum(expected))


def test_exports_name_every_vertex_and_edge() -> None:
    machine = machines.build("a100-pcie-pairs", 'odd "name"')
    dot = export.node_dot(machine)
    assert dot.startswith('graph "odd \\"name\\"" {')
    assert '"gpu-0" -- "gpu-1" [label="NV12", penwidth=2];' in dot
    wiring = wires.graph(machine)
    assert dot.count(" -- ") == wiring.number_of_edges()
    assert export.node_json(machine).count('"source"') == wiring.number_of_edges()
