"""One machine: its devices and how they are wired."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.model import device


@dataclass(frozen=True, slots=True)
class NvLink:
    """NVLinks between GPUs `a` and `b`, directly or through NVSwitches.

    `links` is the number of links usable between the two, `gbps` the GB/s of one link and direction.
    """

    a: int
    b: int
    links: int
    gbps: float


@dataclass(frozen=True, slots=True)
class NodeTopology:
    """Devices, links and NUMA layout of one node.

    Attributes
    ----------
    name : str
        Node name; the ResourceSlice pool has the same name.
    machine : str
        Kind of machine, for example ``"hgx-h100"``. Nodes of one kind with equal wiring share their shape tables.
    nvswitches : int
        NVSwitches inside the node; 0 when links are direct or absent.
    numa_distances : tuple of tuple of int
        SLIT matrix, ``numa_distances[i][j]``; empty when unknown.
    labels : tuple of (str, str)
        Kubernetes labels that placement reads, sorted by key.
    max_pods : int
    """

    name: str
    machine: str = ""
    cpu_milli: int = 0
    memory_mib: int = 0
    gpus: tuple[device.Gpu, ...] = ()
    nics: tuple[device.Nic, ...] = ()
    accelerators: tuple[device.Accelerator, ...] = ()
    nvlinks: tuple[NvLink, ...] = ()
    nvswitches: int = 0
    numa_distances: tuple[tuple[int, ...], ...] = ()
    sockets: tuple[int, ...] = field(default=())
    labels: tuple[tuple[str, str], ...] = ()
    max_pods: int = 1001

    def link_counts(self) -> NDArray[np.int64]:
        """Return the symmetric matrix of NVLink counts, shape (G, G)."""
        counts = np.zeros((len(self.gpus), len(self.gpus)), dtype=np.int64)
        for link in self.nvlinks:
            counts[link.a, link.b] = counts[link.b, link.a] = link.links
        return counts

    def link_gbps(self) -> NDArray[np.float64]:
        """Return NVLink bandwidth between each pair of GPUs, GB/s per direction, 0 where there is none, shape (G, G)."""
        gbps = np.zeros((len(self.gpus), len(self.gpus)), dtype=np.float64)
        for link in self.nvlinks:
            gbps[link.a, link.b] = gbps[link.b, link.a] = link.links * link.gbps
        return gbps

    def numa_neighbours(self, a: int, b: int) -> bool:
        """Tell whether two different NUMA nodes are as near as any: on one socket, or at the least SLIT distance."""
        if max(a, b) < len(self.sockets):
            return self.sockets[a] == self.sockets[b]
        if max(a, b) >= len(self.numa_distances):
            return False
        row = self.numa_distances[a]
        return row[b] == min(far for other, far in enumerate(row) if other != a)
