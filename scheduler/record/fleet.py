"""A compiled fleet as bytes, and back: what a decision log needs to decide again."""

import hashlib
from dataclasses import dataclass

import msgspec
import networkx as nx

from scheduler.model import fabric, node
from scheduler.snapshot import topology


@dataclass(frozen=True, slots=True)
class _Document:
    """The tree in preorder and the machines in rank order."""

    levels: tuple[str, ...]
    names: tuple[str, ...]
    level: tuple[int, ...]
    parent: tuple[int, ...]
    nodes: tuple[node.NodeTopology, ...]
    tie: tuple[int, ...]


def dump(fleet: topology.Topology) -> bytes:
    """Return a fleet as JSON; equal fleets give equal bytes."""
    tree = fleet.tree
    return msgspec.json.encode(
        _Document(
            tree.levels,
            tree.names,
            tuple(tree.level.tolist()),
            tuple(tree.parent.tolist()),
            fleet.nodes,
            tuple(fleet.tie.tolist()),
        )
    )


def load(data: bytes) -> topology.Topology:
    """Compile the fleet that `dump` wrote.

    Raises
    ------
    ValueError
        No such document, or a tree that contradicts itself.
    """
    told = msgspec.json.decode(data, type=_Document)
    graph: nx.DiGraph[str] = nx.DiGraph()
    machines = {machine.name: machine for machine in told.nodes}
    for name, level, parent in zip(told.names, told.level, told.parent, strict=True):
        is_node = level == len(told.levels) - 1
        graph.add_node(name, level=told.levels[level], **({"topology": machines[name]} if is_node else {}))
        if parent >= 0:
            graph.add_edge(told.names[parent], name)
    return topology.compile_topology(fabric.Fabric(graph, told.levels), tie=told.tie)


def digest(data: bytes) -> str:
    """Return the name of a fleet in decision logs."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
