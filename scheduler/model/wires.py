"""The inside of a node as a networkx graph.

The graph is for people, tests and exports; placement reads the tables of ``scheduler.snapshot.shapes``.
"""

from collections.abc import Iterator
from itertools import pairwise

import networkx as nx

from scheduler.model import device, distance, node

HOST = "host"
"""Vertex above devices whose NUMA node is unknown."""


def graph(machine: node.NodeTopology) -> "nx.Graph[str]":
    """Return the wiring of a node as a graph.

    Returns
    -------
    networkx.Graph
        Vertices have an attribute ``kind``: ``gpu``, ``nic``, ``accelerator``, ``pcie-switch``, ``pcie-root``,
        ``numa``, ``nvswitch`` or ``host``. Edges have an attribute ``kind``: ``nvlink`` (with ``links`` and ``gbps`` of
        one link), ``pcie`` or ``numa`` (with the SLIT ``distance``).

    Notes
    -----
    Behind NVSwitches each GPU is joined to the switches and not to its peers. Where there are more switches than
    links per GPU, as in DGX-2, the GPUs and switches fall into boards whose switches are joined one to one.
    """
    wires: nx.Graph[str] = nx.Graph(name=machine.name)
    for numa, row in enumerate(machine.numa_distances):
        wires.add_node(f"numa-{numa}", kind="numa")
        wires.add_edges_from((f"numa-{numa}", f"numa-{b}", {"kind": "numa", "distance": row[b]}) for b in range(numa))
    for vertex, kind, place in _devices(machine):
        wires.add_node(vertex, kind=kind)
        _plug(wires, vertex, place)
    if machine.nvswitches and machine.nvlinks:
        _join_switches(wires, machine)
    else:
        for link in machine.nvlinks:
            wires.add_edge(_gpu(link.a), _gpu(link.b), kind="nvlink", links=link.links, gbps=link.gbps)
    return wires


def _gpu(index: int) -> str:
    return f"gpu-{index}"


def _devices(machine: node.NodeTopology) -> Iterator[tuple[str, str, device.Gpu | device.Nic | device.Accelerator]]:
    """Yield vertex, kind and device of everything that is plugged in."""
    for gpu in machine.gpus:
        yield _gpu(gpu.index), "gpu", gpu
    for nic in machine.nics:
        yield f"nic-{nic.index}", "nic", nic
    for accelerator in machine.accelerators:
        yield f"accelerator-{accelerator.index}", "accelerator", accelerator


def _plug(wires: "nx.Graph[str]", vertex: str, place: distance.Position) -> None:
    """Join a device to its switches, host bridge and NUMA node."""
    chain = [(vertex, "")]
    parts = place.pcie_switch.split("/") if place.pcie_switch else []
    for depth in range(len(parts), 0, -1):
        chain.append((f"switch {place.pcie_root} {'/'.join(parts[:depth])}", "pcie-switch"))
    if place.pcie_root:
        chain.append((f"root {place.pcie_root}", "pcie-root"))
    chain.append((f"numa-{place.numa}", "numa") if place.numa >= 0 else (HOST, "host"))
    for (below, _), (above, kind) in pairwise(chain):
        wires.add_node(above, kind=kind)
        wires.add_edge(below, above, kind="pcie")


def _join_switches(wires: "nx.Graph[str]", machine: node.NodeTopology) -> None:
    """Join GPUs to NVSwitches, links dealt out evenly; boards of switches among each other."""
    linked = sorted({gpu for link in machine.nvlinks for gpu in (link.a, link.b)})
    gbps = machine.nvlinks[0].gbps
    ports = max(link.links for link in machine.nvlinks)
    boards = max(1, machine.nvswitches // ports)
    per_board = machine.nvswitches // boards
    for switch in range(machine.nvswitches):
        wires.add_node(f"nvswitch-{switch}", kind="nvswitch")
    for position, gpu in enumerate(linked):
        board = position * boards // len(linked)
        for i in range(per_board):
            links = ports // per_board + (i < ports % per_board)
            if links:
                wires.add_edge(_gpu(gpu), f"nvswitch-{board * per_board + i}", kind="nvlink", links=links, gbps=gbps)
    for switch in range(per_board, boards * per_board):
        trunk = len(linked) // boards
        wires.add_edge(f"nvswitch-{switch - per_board}", f"nvswitch-{switch}", kind="nvlink", links=trunk, gbps=gbps)
