"""Fabric files, and what is wrong with bad ones."""

from pathlib import Path

import pytest

from scheduler import policies
from scheduler.kube import fabric_file, fleet
from scheduler.model import machines
from tests.kube import fleets

GOOD = """
levels: [block, rack]
nodes:
  n1: [b0, r0]
  n2: [b0, ""]
  elsewhere: [b1, r0]
"""


def test_a_fabric_file_gives_levels_and_domains(tmp_path: Path) -> None:
    file = tmp_path / "fabric.yaml"
    file.write_text(GOOD)
    paths = fabric_file.read(file)
    found = fleets.told(*(machines.build("hgx-h100", f"n{i}") for i in (1, 2, 3)), options=fleet.Options(paths=paths))
    tree = found.compile(policies.load("muster")).topology.tree
    assert tree.levels == ("cluster", "block", "rack", "node")
    assert tree.names == ("cluster", "b0", "b0/r0", "n1", "n2", "n3")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("levels: [a]\nnodes:\n  n: [x, y]\n", r"line 3, field nodes.n: 2 domains for 1 levels"),
        ("levels: [a, a]\nnodes: {}\n", r"line 1, field levels\[1\]: levels need names that differ"),
        ("levels: [node]\nnodes: {}\n", "levels need names"),
        ("levels: []\nnodes: {}\n", "levels"),
        ("levels: [a]\n", "nodes"),
        ("levels: [a]\nnodes: {n: x}\n", "nodes.n"),
        ("levels: [a]\nnodes: {}\nmore: 1\n", "more"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_files_name_line_and_field(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "fabric.yaml"
    file.write_text(text)
    with pytest.raises(fabric_file.FabricFileError, match=problem):
        fabric_file.read(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(fabric_file.FabricFileError, match="none"):
        fabric_file.read(tmp_path / "none")
