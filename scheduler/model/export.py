"""Graphs of nodes and fabrics as DOT and JSON, for people and for other programs."""

import json
from typing import Any

import networkx as nx

from scheduler.model import fabric, node, wires

SHAPES = {"gpu": "box", "nic": "cds", "accelerator": "box", "nvswitch": "hexagon", "numa": "house", "node": "box"}
"""Graphviz shapes by kind of vertex; all others are ellipses."""


def node_dot(machine: node.NodeTopology) -> str:
    """Return the wiring of a node in DOT, the language of Graphviz."""
    return _dot(wires.graph(machine), machine.name)


def node_json(machine: node.NodeTopology) -> str:
    """Return the wiring of a node as JSON: ``{"nodes": [{"id", "kind", ...}], "links": [{"source", "target", ...}]}``."""
    return _json(wires.graph(machine))


def fabric_dot(source: fabric.Fabric) -> str:
    """Return the tree of domains in DOT, with the GPUs of every machine."""
    return _dot(_summary(source), "fabric")


def fabric_json(source: fabric.Fabric) -> str:
    """Return the tree of domains as JSON; machines are named by kind and number of GPUs."""
    return _json(_summary(source))


def _summary(source: fabric.Fabric) -> "nx.DiGraph[str]":
    """Replace the machines by what a reader wants to know of them."""
    tree: nx.DiGraph[str] = nx.DiGraph()
    for vertex, data in source.graph.nodes(data=True):
        tree.add_node(vertex, kind=data["level"], **_facts(data.get("topology")))
    tree.add_edges_from(source.graph.edges)
    return tree


def _facts(machine: node.NodeTopology | None) -> dict[str, Any]:
    if machine is None:
        return {}
    models = sorted({gpu.model.name for gpu in machine.gpus})
    return {"machine": machine.machine, "gpus": len(machine.gpus), "models": " ".join(models)}


def _json(graph: "nx.Graph[str]") -> str:
    """Return a graph in the node-link form, vertices and edges in their order."""
    data = nx.node_link_data(graph, edges="links")
    return json.dumps({"nodes": data["nodes"], "links": data["links"]}, indent=1)


def _dot(graph: "nx.Graph[str]", name: str) -> str:
    """Return a graph in DOT."""
    arrow = "->" if graph.is_directed() else "--"
    lines = [f"{'digraph' if graph.is_directed() else 'graph'} {_quote(name)} {{"]
    for vertex, data in graph.nodes(data=True):
        label = "\\n".join(str(part) for part in (vertex, data.get("machine"), _count(data)) if part)
        lines.append(f"  {_quote(vertex)} [label={_quote(label)}, shape={SHAPES.get(data['kind'], 'ellipse')}];")
    for a, b, data in graph.edges(data=True):
        lines.append(f"  {_quote(a)} {arrow} {_quote(b)}{_edge_label(data)};")
    return "\n".join([*lines, "}"]) + "\n"


def _count(data: dict[str, Any]) -> str:
    return f"{data['gpus']} x {data['models']}" if data.get("gpus") else ""


def _edge_label(data: dict[str, Any]) -> str:
    """Label NVLinks with their number and NUMA edges with their distance."""
    if data.get("kind") == "nvlink":
        return f' [label="NV{data["links"]}", penwidth=2]'
    if data.get("kind") == "numa":
        return f' [label="{data["distance"]}", style=dashed]'
    return ""


def _quote(text: str) -> str:
    """Quote a DOT identifier; backslashes stay, as ``\\n`` breaks lines in labels."""
    return '"' + text.replace('"', '\\"') + '"'
