"""The inside of a node as a networkx graph, and what only a graph can tell: pairs and the order for first fit.

The graph is for people, tests and exports; placement reads the tables of ``scheduler.snapshot.shapes``.
"""

import functools
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise, permutations

import networkx as nx

from scheduler.model import device, distance, node

HOST = "host"
"""Vertex above devices whose NUMA node is unknown."""

CLOSENESS_WEIGHT = {apart: 6 - apart for apart in distance.Distance}
"""Below any NVLink: decides between GPUs of equal links."""

LINK_WEIGHT = 1000

BLOCK = 4
"""GPUs that are ordered among each other by trying all orders."""

Weights = dict[tuple[int, int], int]
"""How much two GPUs belong together, lower index first."""


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


def pairs(machine: node.NodeTopology) -> tuple[tuple[int, int], ...]:
    """Match the linked GPUs two by two: most links first, then nearest on PCIe, then neighbours by index.

    A bridge is its own pair; behind NVSwitches the pairs are neighbours on PCIe. GPUs without NVLink are in no pair.
    """
    wires: nx.Graph[int] = nx.Graph()
    for link in machine.nvlinks:
        near = CLOSENESS_WEIGHT[distance.between(machine.gpus[link.a], machine.gpus[link.b])]
        weight = (link.links * LINK_WEIGHT + near * 10) * 100 - (link.b - link.a) ** 2 // 4
        wires.add_edge(link.a, link.b, weight=weight)
    matching = nx.max_weight_matching(wires, maxcardinality=True)
    return tuple(sorted((min(a, b), max(a, b)) for a, b in matching))


def first_fit_order(machine: node.NodeTopology) -> tuple[int, ...]:
    """Order the GPUs so that whoever takes the first k free ones gets k that are well joined.

    Notes
    -----
    Halves the node again and again so that the links inside the halves are worth most: aligned blocks of 4 and
    8 in the result are quads and islands. Then the GPUs inside the blocks are put so that neighbours in the list are
    joined best, so that what is left between others' GPUs is well joined too; on a DGX-1V the list goes once round the
    ring of double links. kube-scheduler's allocator takes devices in list order.
    """
    gpus = len(machine.gpus)
    return _order(gpus, tuple(_weight(machine, a, b) for a, b in combinations(range(gpus), 2)))


@functools.lru_cache(maxsize=64)
def _order(gpus: int, weights: tuple[int, ...]) -> tuple[int, ...]:
    """Order GPUs by the weights of their pairs; kept, since 16 GPUs cost 0.1 s and are published at every change."""
    weight = dict(zip(combinations(range(gpus), 2), weights, strict=True))
    return _chain(weight, list(_blocks(weight, tuple(range(gpus)))))


def _blocks(weight: Weights, gpus: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield blocks of up to four GPUs by recursive bisection; the half with the lowest GPU comes first."""
    if len(gpus) <= BLOCK:
        yield from (gpus,) if gpus else ()
        return
    half = (len(gpus) + 1) // 2
    candidates = (
        combinations(gpus, half) if len(gpus) % 2 else ((gpus[0], *c) for c in combinations(gpus[1:], half - 1))
    )
    first = max(candidates, key=lambda c: _inside(weight, c) + _inside(weight, _rest(gpus, c)))
    yield from _blocks(weight, first)
    yield from _blocks(weight, _rest(gpus, first))


def _chain(weight: Weights, blocks: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Order the GPUs inside the blocks so that the sum over neighbours is largest; of equals the first by number.

    Only the last GPU of a block matters to what follows, so one best beginning for each last GPU is kept.
    """
    best: list[tuple[int, ...]] = [()]
    for block in blocks:
        ends: dict[int, tuple[int, ...]] = {}
        for tail in permutations(block):
            longer = min((begin + tail for begin in best), key=lambda chain: _rank(weight, chain))
            ends[tail[-1]] = min(longer, ends.get(tail[-1], longer), key=lambda chain: _rank(weight, chain))
        best = list(ends.values())
    return min(best, key=lambda chain: _rank(weight, chain))


def _rank(weight: Weights, chain: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return -sum(weight[min(pair), max(pair)] for pair in pairwise(chain)), chain


def _weight(machine: node.NodeTopology, a: int, b: int) -> int:
    """Return how much two GPUs belong together."""
    links = next((link.links for link in machine.nvlinks if (link.a, link.b) == (a, b)), 0)
    return links * LINK_WEIGHT + CLOSENESS_WEIGHT[distance.between(machine.gpus[a], machine.gpus[b])]


def _inside(weight: Weights, gpus: tuple[int, ...]) -> int:
    return sum(weight[pair] for pair in combinations(gpus, 2))


def _rest(gpus: tuple[int, ...], taken: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(g for g in gpus if g not in taken)


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
