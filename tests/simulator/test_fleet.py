"""Fleets from documents, node lists and presets; every refusal names line and field."""

from pathlib import Path

import pytest

from scheduler import document
from scheduler.model import fabric
from simulator.fleet import build, load, presets, spec

DATA = Path(__file__).parents[1] / "data"

HEAD = "apiVersion: muster.dev/v1alpha1\nkind: Fleet\nmetadata: {name: f}\nspec:\n"


def of(text: str) -> fabric.Fabric:
    return build.fleet(document.parse("fleet.yaml", HEAD + text, spec.FleetError))


def test_a_document_builds_domains_of_unequal_depth() -> None:
    fleet = load.read(str(DATA / "fleet.yaml"))
    assert fleet.levels == ("cluster", "zone", "rack", "node")
    assert fleet.children("east") == ["east/rack-0", "east/rack-1", "east/nvl"]
    assert fleet.children("east/rack-1") == ["east-rack-1-node-0", "east-rack-1-node-1"]
    assert fleet.children("west") == ["desk", "cut"]
    assert len(fleet.children("east/nvl")) == 18
    assert fleet.children("east/nvl")[3] == "tray-03"


def test_machines_keep_kind_labels_and_mig_mode() -> None:
    nodes = {machine.name: machine for machine in load.read(str(DATA / "fleet.yaml")).nodes()}
    assert nodes["desk"].machine == "workstation"
    assert (nodes["desk"].cpu_milli, nodes["desk"].memory_mib, len(nodes["desk"].gpus)) == (32_000, 131_072, 2)
    assert nodes["desk"].labels == (("owner", "ada"),)
    assert [gpu.index for gpu in nodes["cut"].gpus if gpu.mig_enabled] == [0, 7]


def test_trays_of_one_rack_share_one_nvlink_fabric() -> None:
    fleet = load.read(str(DATA / "fleet.yaml"))
    assert [len(members) for members in fleet.nvlink_domains().values()] == [18]
    trays = "{machine: gb200-nvl72, count: 3}"
    two = of(f"  levels: [rack]\n  domains:\n    - {{name: nvl, level: rack, count: 2, nodes: [{trays}]}}\n")
    assert [len(members) for members in two.nvlink_domains().values()] == [3, 3]


def test_domains_may_name_their_parents_in_any_order() -> None:
    fleet = load.read(str(DATA / "fleet_graph.yaml"))
    assert fleet.path("n1") == ("cluster", "z1", "b1", "r1", "n1")
    assert fleet.path("n2") == ("cluster", "z1", "r2", "n2")


def test_nodes_may_name_their_path() -> None:
    fleet = of(
        "  levels: [block, rack]\n  nodes:\n"
        "    - {machine: hgx-h100, name: a, path: [b0, r0]}\n"
        '    - {machine: hgx-h100, name: b, path: ["", r0]}\n'
        "    - {machine: hgx-h100, name: c, count: 2, path: [b0, r0]}\n"
        "    - {machine: l40s-8, name: d}\n"
    )
    assert fleet.path("a") == ("cluster", "b0", "b0/r0", "a")
    assert fleet.path("b") == ("cluster", "r0", "b")
    assert fleet.children("b0/r0") == ["a", "c-0", "c-1"]
    assert fleet.path("d") == ("cluster", "d")


@pytest.mark.parametrize(
    ("name", "nodes", "gpus", "machines"), [("demo", 48, 280, 5), ("80x8", 80, 640, 1), ("5000x8", 5000, 40_000, 1)]
)
def test_presets_have_the_promised_machines(name: str, nodes: int, gpus: int, machines: int) -> None:
    fleet = list(load.preset(name).nodes())
    assert len(fleet) == nodes
    assert sum(len(machine.gpus) for machine in fleet) == gpus
    assert len({machine.machine for machine in fleet}) == machines


def test_the_demo_has_a_whole_nvl72_rack() -> None:
    assert [len(members) for members in load.preset("demo").nvlink_domains().values()] == [18]


def test_presets_can_be_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_text(presets.DEMO)
    assert [m.name for m in load.read(str(path)).nodes()] == [m.name for m in load.read("demo").nodes()]


CASES = [
    # text after the head, which has four lines; line, field, words
    ("  levels: [rack]\n", 4, "spec", "the fleet has no nodes"),
    ("  racks: 3\n", 5, "spec.racks", "unknown field"),
    ("  nodes: [{machine: hgx-h200x}]\n", 5, "spec.nodes[0].machine", "unknown machine, got 'hgx-h200x'"),
    ("  nodes:\n    - {machine: hgx-h100, count: -1}\n", 6, "spec.nodes[0].count", "greater than or equal to 1"),
    ("  nodes:\n    - {machine: hgx-h100, count: 1e9}\n", 6, "spec.nodes[0].count", "valid integer"),
    ("  nodes:\n    - {machine: hgx-h100, count: 999999999}\n", 6, "spec.nodes[0].count", "less than or equal"),
    (
        "  nodes:\n    - {machine: hgx-h100, name: a}\n    - {machine: hgx-h100, name: a}\n",
        7,
        "spec.nodes[1].name",
        "two nodes or domains have this name, got 'a'",
    ),
    ("  levels: [rack, rack]\n  nodes: [{machine: l40s-8}]\n", 5, "spec.levels[1]", "two levels have this name"),
    ("  levels: [node]\n  nodes: [{machine: l40s-8}]\n", 5, "spec.levels[0]", "always there"),
    (
        (
            "  levels: [block, rack]\n  domains:\n    - name: r\n      level: rack\n      domains:\n"
            "        - {name: b, level: block}\n"
        ),
        10,
        "spec.domains[0].domains[0].level",
        "level block is not finer than level rack of r",
    ),
    ("  domains:\n    - {name: r, level: rack}\n", 6, "spec.domains[0].level", "unknown level, got 'rack'"),
    (
        "  levels: [rack]\n  domains: [{name: r, level: rack}, {name: r, level: rack}]\n",
        6,
        "spec.domains[1].name",
        "two domains have this name",
    ),
    (
        (
            "  levels: [a, b, c]\n  graph:\n    - {name: x, level: a, parent: z}\n    - {name: y, level: b, parent: x}\n"
            "    - name: z\n      level: c\n      parent: y\n"
        ),
        7,
        "spec.graph[0].parent",
        "a cycle: x > y > z > x",
    ),
    ("  levels: [a]\n  graph:\n    - {name: x, level: a, parent: x}\n", 7, "spec.graph[0].parent", "a cycle: x > x"),
    ("  levels: [a]\n  graph:\n    - {name: x, level: a, parent: y}\n", 7, "spec.graph[0].parent", "no such domain"),
    (
        "  levels: [a]\n  graph:\n    - {name: x, level: a}\n    - {name: x, level: a}\n",
        8,
        "spec.graph[1].name",
        "two domains have this name",
    ),
    (
        "  levels: [a]\n  graph: [{name: x, level: a}]\n  domains: [{name: y, level: a}]\n",
        6,
        "spec.graph",
        "domains are given twice",
    ),
    ("  levels: [a]\n  nodes: [{machine: l40s-8, domain: q}]\n", 6, "spec.nodes[0].domain", "no such domain"),
    ("  levels: [a]\n  nodes: [{machine: l40s-8, path: [x, y]}]\n", 6, "spec.nodes[0].path", "2 domains, there are 1"),
    (
        "  levels: [a, b]\n  nodes: [{machine: l40s-8, path: [x, '']}, {machine: l40s-8, path: ['', x]}]\n",
        6,
        "spec.nodes[1].path",
        "is of level a elsewhere",
    ),
    ("  nodes: [{machine: l40s-8, migGpus: [0]}]\n", 5, "spec.nodes[0].migGpus[0]", "has no MIG"),
    ("  nodes: [{machine: hgx-h100-4, migGpus: [4]}]\n", 5, "spec.nodes[0].migGpus[0]", "no such GPU"),
    ("  nodes: [{machine: gb200-nvl72, count: 19}]\n", 5, "spec.nodes[0]", "more than 18 trays"),
    ("  machines: {m: {gpus: 3}}\n  nodes: [{machine: m}]\n", 5, "spec.machines.m", "needs their model"),
    ("  nodes: [{machine: l40s-8, name: ' '}]\n", 5, "spec.nodes[0].name", "got ' '"),
    ("  nodes: &n [*n]\n", 5, "", "an alias that contains itself"),
    ("  nodes: [{machine: l40s-8}]\n---\nkind: Fleet\n", 6, "", "not valid YAML"),
    ("  nodes: [{machine: l40s-8}]\n  nodes: []\n", 6, "spec.nodes", "the key occurs twice"),
    ("\t- x\n", 5, "", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "line", "field", "words"), CASES, ids=range(len(CASES)))
def test_wrong_documents_are_told_with_line_and_field(text: str, line: int, field: str, words: str) -> None:
    with pytest.raises(spec.FleetError) as caught:
        of(text)
    assert words in str(caught.value)
    assert caught.value.line == line
    assert not field or caught.value.field == field
    assert str(caught.value).startswith("fleet.yaml, line")


def test_other_kinds_and_empty_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    for text, words in (
        ("", "empty"),
        ("kind: Fleet\n", "missing"),
        ("- 1\n", "valid dictionary"),
        ("a: b: c", "YAML"),
    ):
        path.write_text(text)
        with pytest.raises(spec.FleetError, match=words):
            load.read(str(path))
    path.write_bytes(b"kind: \xff\n")
    with pytest.raises(spec.FleetError, match="UTF-8"):
        load.read(str(path))
    with pytest.raises(spec.FleetError, match=r"cannot be read.*presets are demo"):
        load.read(str(tmp_path / "demmo"))


def test_an_alias_bomb_is_refused_and_not_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_VALUES", 20_000)
    rows = "".join(f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    with pytest.raises(spec.FleetError, match="too many values"):
        of("  a0: &a0 [1]\n" + rows)


def test_node_lists_become_one_domain_or_racks() -> None:
    path = str(DATA / "openb_nodes.csv")
    flat, racks = load.read(path), load.read(path, rack_nodes=2)
    assert [(m.name, len(m.gpus), m.cpu_milli) for m in flat.nodes()] == [
        ("node-0", 2, 64_000),
        ("node-1", 8, 96_000),
        ("node-2", 0, 32_000),
    ]
    assert racks.path("node-2") == ("cluster", "rack-1", "node-2")


@pytest.mark.parametrize(
    ("row", "line", "field"),
    [
        ("n,1000,1000,17,G2", 2, "gpu"),
        ("n,1000,1000,-1,G2", 2, "gpu"),
        ("n,1000,1000,2,", 2, "model"),
        ("n,1,1,1,G2\nn,1,1,1,G2", 3, "sn"),
        ("n,1,1,1", 2, ""),
    ],
)
def test_wrong_node_lists_are_told_with_line_and_field(tmp_path: Path, row: str, line: int, field: str) -> None:
    path = tmp_path / "nodes.csv"
    path.write_text(f"sn,cpu_milli,memory_mib,gpu,model\n{row}\n")
    with pytest.raises(spec.FleetError) as caught:
        load.read(str(path))
    assert (caught.value.line, caught.value.field) == (line, field)


def test_the_openb_fleet_has_its_published_size(traces: Path) -> None:
    fleet = list(load.read(str(traces / "openb" / "openb_node_list_gpu_node.csv")).nodes())
    assert len(fleet) == 1213
    assert sum(len(machine.gpus) for machine in fleet) == 6212
    assert sum(machine.cpu_milli for machine in fleet) == 107_018_000
    assert sum(machine.memory_mib for machine in fleet) == 503_828_480
