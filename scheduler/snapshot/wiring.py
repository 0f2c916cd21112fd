"""What distinguishes one kind of machine from another: the wiring of a node without its names.

Two nodes of equal wiring share one set of tables. Names, uuids, labels, bus ids and the capacities of CPU and memory
are no part of it; the identities of PCIe switches and roots count only as far as they are shared between devices.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.model import device, distance, node

PCIE_MBPS = {"Kepler": 12_000, "Maxwell": 12_000, "Pascal": 12_000, "Volta": 12_000, "Turing": 12_000}
PCIE_MBPS |= {"Ampere": 24_000, "Ada Lovelace": 24_000, "Hopper": 48_000, "Blackwell": 48_000, "Rubin": 96_000}
"""Usable MB/s of the GPU's x16 slot. NCCL takes 12 GB/s for generation 3 (PCI_BW in its topo.h); each generation
doubles it. Ampere and Ada are generation 4, Hopper and Blackwell 5."""

UNKNOWN_PCIE_MBPS = 12_000
"""For architectures that are not in the table: the slowest."""

EDGE_PERCENT = {
    distance.Distance.PIX: 100,
    distance.Distance.PXB: 95,
    distance.Distance.PHB: 80,
    distance.Distance.NODE: 70,
    distance.Distance.SYS: 50,
}
"""Share of the slot that is left to two GPUs by their distance: assumptions, except that SYS meets the socket links
in NCCL's topo.h (6-10 GB/s on machines with PCIe 3, 22 GB/s on Sapphire Rapids with PCIe 5) and PHB its overhead of a
fifth for peer traffic through an Intel host bridge. Only the order matters to the choice of GPUs; the figures enter
predicted bandwidths of machines without NVLink."""

CLOSENESS = {
    distance.Distance.PIX: 10,
    distance.Distance.PXB: 9,
    distance.Distance.PHB: 8,
    distance.Distance.NODE: 6,
    distance.Distance.SYS: 0,
}
"""Points for alignment."""

SAME_SOCKET = 4
"""Points for two NUMA nodes that are nearest neighbours (by SLIT distance, or on one socket)."""

FULL_CLOSENESS = CLOSENESS[distance.Distance.PIX]

Matrix = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Wiring:
    """The numbers from which the tables of a shape are computed; hashable, the key of their cache.

    Attributes
    ----------
    edge_mbps : Matrix
        Bandwidth between two GPUs: NVLinks, or else PCIe by distance, shape (G, G), 0 on the diagonal.
    nvlink_mbps : Matrix
        NVLinks alone.
    closeness : Matrix
        Alignment points of two GPUs.
    nic_distance : Matrix
        `Distance` of GPU and NIC, shape (G, K).
    nic_closeness : tuple of int, length G
        Alignment points of a GPU and its nearest NIC; () for machines without NICs.
    nic_mbps : tuple of int, length K
        Line rate; 0 for NICs without RDMA where others have it.
    slot_mbps : tuple of int, length G
        PCIe bandwidth of each GPU, the most that a NIC can feed it.
    """

    edge_mbps: Matrix
    nvlink_mbps: Matrix
    closeness: Matrix
    nic_distance: Matrix
    nic_closeness: tuple[int, ...]
    nic_mbps: tuple[int, ...]
    slot_mbps: tuple[int, ...]


def wiring(machine: node.NodeTopology) -> Wiring:
    """Return the wiring of a machine."""
    gpus, nics = machine.gpus, machine.nics
    nvlink = tuple(tuple(round(gbps * 1000) for gbps in row) for row in machine.link_gbps())
    slots = tuple(PCIE_MBPS.get(gpu.model.architecture, UNKNOWN_PCIE_MBPS) for gpu in gpus)
    apart = [[distance.between(a, b) for b in gpus] for a in gpus]
    edges = tuple(
        tuple(
            0 if a == b else nvlink[a][b] or min(slots[a], slots[b]) * EDGE_PERCENT[apart[a][b]] // 100
            for b in range(len(gpus))
        )
        for a in range(len(gpus))
    )
    return Wiring(
        edge_mbps=edges,
        nvlink_mbps=nvlink,
        closeness=tuple(tuple(_points(machine, a, b) for b in gpus) for a in gpus),
        nic_distance=tuple(tuple(int(distance.between(gpu, nic)) for nic in nics) for gpu in gpus),
        nic_closeness=tuple(max(_points(machine, gpu, nic) for nic in nics) for gpu in gpus) if nics else (),
        nic_mbps=_nic_mbps(nics),
        slot_mbps=slots,
    )


def _points(machine: node.NodeTopology, a: distance.Position, b: distance.Position) -> int:
    """Return the alignment points of two devices."""
    apart = distance.between(a, b)
    if apart is not distance.Distance.SYS or min(a.numa, b.numa) < 0:
        return CLOSENESS[apart]
    return SAME_SOCKET if machine.numa_neighbours(a.numa, b.numa) else CLOSENESS[apart]


def _nic_mbps(nics: tuple[device.Nic, ...]) -> tuple[int, ...]:
    """Return what each NIC carries for collectives: RDMA functions alone where there are any."""
    rdma = any(nic.rdma for nic in nics)
    return tuple(nic.gbps * 125 if nic.rdma or not rdma else 0 for nic in nics)


def identity(machine: node.NodeTopology) -> tuple[object, ...]:
    """Return a hashable value that is equal exactly for machines of one shape."""
    places = _numbers(d for group in (machine.gpus, machine.nics) for d in group)
    gpus = tuple((g.model, g.numa, g.mig_enabled, g.shareable) for g in machine.gpus)
    nics = tuple((nic.gbps, nic.numa, nic.rdma) for nic in machine.nics)
    links = tuple(sorted((min(x.a, x.b), max(x.a, x.b), x.links, x.gbps) for x in machine.nvlinks))
    return gpus, nics, places, links, machine.nvswitches, machine.numa_distances, machine.sockets


def _numbers(devices: Iterable[distance.Position]) -> tuple[object, ...]:
    """Replace the names of switches and roots by the order in which they first appear."""
    seen: dict[tuple[str, str], int] = {}
    places: list[tuple[int, ...]] = []
    for d in devices:
        parts = d.pcie_switch.split("/") if d.pcie_switch else []
        names = [(d.pcie_root, "/".join(parts[: i + 1])) for i in range(len(parts))]
        root = seen.setdefault((d.pcie_root, ""), len(seen)) if d.pcie_root else -1
        places.append((root, *(seen.setdefault(name, len(seen)) for name in names)))
    return tuple(places)
