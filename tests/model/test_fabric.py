"""The fabric is one tree, says where it is not, and answers questions about domains."""

import json

import networkx as nx
import pytest
from hypothesis import given

from scheduler.model import device, export, fabric, machines, node
from tests.model import strategies


def two_blocks() -> fabric.Fabric:
    nodes = {f"n{i}": machines.plain(f"n{i}", 1, "T4", 1000, 1024) for i in range(4)}
    paths = {"n0": ("b0", "r0"), "n1": ("b0", "r1"), "n2": ("b1", "r0"), "n3": ("b1", "")}
    return fabric.from_paths(nodes, paths, ("block", "rack"))


def test_equal_rack_names_of_two_blocks_are_two_domains() -> None:
    source = two_blocks()
    assert source.domains("rack") == ["b0/r0", "b0/r1", "b1/r0"]
    assert source.path("n2") == ("cluster", "b1", "b1/r0", "n2")
    assert source.ancestor("n3", "rack") is None
    assert source.ancestor("n3", "block") == "b1"


def test_the_common_domain_is_the_finest_that_holds_all() -> None:
    source = two_blocks()
    assert source.common_domain(["n0", "n1"]) == "b0"
    assert source.common_domain(["n2", "n3"]) == "b1"
    assert source.common_domain(["n0", "n2"]) == "cluster"
    assert source.common_domain(["n1"]) == "n1"
    assert source.common_domain([]) == "cluster"


@given(strategies.fabrics())
def test_common_domain_agrees_with_networkx(source: fabric.Fabric) -> None:
    names = [machine.name for machine in source.nodes()]
    for a in names:
        for b in names:
            assert source.common_domain([a, b]) == nx.lowest_common_ancestor(source.graph, a, b)


def test_nvlink_domains_span_the_trays_of_a_rack() -> None:
    trays = machines.nvl72("r0", "7d3b5e6a", 1) + machines.nvl72("r1", "7d3b5e6a", 2)[:3]
    paths = {tray.name: (tray.name[:2],) for tray in trays}
    source = fabric.from_paths({tray.name: tray for tray in trays}, paths, ("rack",))
    domains = source.nvlink_domains()
    assert [len(members) for members in domains.values()] == [18, 3]
    assert set(domains) == {"7d3b5e6a.1", "7d3b5e6a.2"}
    assert dict(trays[0].labels)["nvidia.com/gpu.clique"] == "7d3b5e6a.1"


def plain(name: str, **fields: object) -> node.NodeTopology:
    return node.NodeTopology(name, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "paths", "message"),
    [
        ({"a": plain("a")}, {"a": ("x",)}, "path has 1 domains, levels are block, rack"),
        ({"a": plain("a")}, {"a": ("x", "y"), "b": ("x", "y")}, "node b: has a path but is no node"),
        ({"x": plain("x")}, {"x": ("x", "y")}, "node x: the name is already taken"),
        ({"a": plain("b")}, {}, "domain a: its machine is called b"),
        ({"cluster": plain("cluster")}, {}, "node cluster: the name is already taken"),
        ({"a": plain("a"), "x": plain("x")}, {"a": ("x", "y")}, "node x: the name is already taken"),
        (
            {"a": plain("a"), "b": plain("b")},
            {"a": ("", "x"), "b": ("x", "")},
            "domain x of level block already is one",
        ),
    ],
)
def test_contradictory_paths_are_refused_by_name(
    nodes: dict[str, node.NodeTopology], paths: dict[str, tuple[str, ...]], message: str
) -> None:
    with pytest.raises(fabric.FabricError, match=message):
        fabric.from_paths(nodes, paths, ("block", "rack"))


def test_a_gpu_in_two_nodes_is_refused() -> None:
    gpu = device.Gpu(0, device.GpuModel("T4", "Turing", 15360), uuid="GPU-1")
    nodes = {name: plain(name, gpus=(gpu,)) for name in ("a", "b")}
    with pytest.raises(fabric.FabricError, match="node b: GPU GPU-1 is also in node a"):
        fabric.from_paths(nodes, {}, ())


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("c", "r"), ("r", "c")], "cycle|parents"),
        ([("c", "r"), ("d", "r")], "domain r has 2 parents"),
        ([("c", "r"), ("d", "s")], "it has 2 roots: c, d"),
        ([("r", "c")], "not finer than that of its parent r"),
    ],
)
def test_what_is_no_tree_is_refused_with_the_reason(edges: list[tuple[str, str]], message: str) -> None:
    level = {"c": "cluster", "d": "cluster", "r": "rack", "s": "rack"}
    graph: nx.DiGraph[str] = nx.DiGraph(edges)
    nx.set_node_attributes(graph, level, "level")
    with pytest.raises(fabric.FabricError, match=message):
        fabric.Fabric(graph, ("cluster", "rack", "node"))


def test_levels_must_differ_and_end_in_nodes() -> None:
    with pytest.raises(fabric.FabricError, match="levels must differ and end in node, got cluster, rack, rack, node"):
        fabric.from_paths({"a": plain("a")}, {}, ("rack", "rack"))


def test_exports_hold_the_whole_tree() -> None:
    source = two_blocks()
    tree = json.loads(export.fabric_json(source))
    assert {v["id"]: v.get("gpus") for v in tree["nodes"]}["n0"] == 1
    assert len(tree["links"]) == source.graph.number_of_edges()
    assert export.fabric_dot(source).count(" -> ") == source.graph.number_of_edges()
