"""One machine: its devices and how they are wired, as values."""

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.model import admission, device, distance

MAX_GPUS = 16
"""GPUs of a node: node shapes tabulate 2**G sets."""

MAX_NICS = 32
"""NICs of a node: free NICs are a 32-bit mask."""


@dataclass(frozen=True, slots=True, order=True)
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
    gpus, nics, accelerators : tuple
        The index of every device is its position here.
    nvlinks : tuple of NvLink
        One entry for each linked pair; kept sorted, the lower GPU first.
    nvswitches : int
        NVSwitches inside the node; 0 when links are direct or absent, or the switches are elsewhere in the rack.
    numa_distances : tuple of tuple of int
        SLIT matrix, ``numa_distances[i][j]``; empty when unknown.
    sockets : tuple of int
        Socket of each NUMA node; empty when unknown.
    labels : tuple of (str, str)
        Kubernetes labels that placement reads, sorted by key.
    max_pods : int
    driver_version, cuda_version : str
        Of the GPUs' driver, as strict semantic versions; "" when unknown.
    taints : tuple of Taint
        Those that keep off pods that do not tolerate them, sorted.

    Raises
    ------
    ValueError
        The parts contradict each other; the message names the node and the field.
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
    sockets: tuple[int, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    max_pods: int = 1001
    driver_version: str = ""
    cuda_version: str = ""
    taints: tuple[admission.Taint, ...] = ()

    def __post_init__(self) -> None:
        turned = (link if link.a <= link.b else NvLink(link.b, link.a, link.links, link.gbps) for link in self.nvlinks)
        object.__setattr__(self, "nvlinks", tuple(sorted(turned)))
        object.__setattr__(self, "labels", tuple(sorted(self.labels)))
        object.__setattr__(self, "taints", tuple(sorted(self.taints)))
        for problem in _problems(self):
            raise ValueError(f"node {self.name!r}: {problem}")

    def link_counts(self) -> tuple[tuple[int, ...], ...]:
        """Return the number of NVLinks between each pair of GPUs, a row for each GPU."""
        counts = [[0] * len(self.gpus) for _ in self.gpus]
        for link in self.nvlinks:
            counts[link.a][link.b] = counts[link.b][link.a] = link.links
        return tuple(map(tuple, counts))

    def link_gbps(self) -> tuple[tuple[float, ...], ...]:
        """Return NVLink bandwidth between each pair of GPUs, GB/s per direction, 0 where there is none."""
        gbps = [[0.0] * len(self.gpus) for _ in self.gpus]
        for link in self.nvlinks:
            gbps[link.a][link.b] = gbps[link.b][link.a] = link.links * link.gbps
        return tuple(map(tuple, gbps))

    def islands(self) -> tuple[tuple[int, ...], ...]:
        """Return the NVLink islands: GPUs that reach each other over NVLinks, lowest GPU first; lone GPUs are none.

        Examples
        --------
        >>> gpus = tuple(device.Gpu(i, device.GpuModel("A100", "Ampere", 81920)) for i in range(4))
        >>> NodeTopology("n", gpus=gpus, nvlinks=(NvLink(0, 2, 12, 25.0), NvLink(1, 3, 12, 25.0))).islands()
        ((0, 2), (1, 3))
        """
        island = list(range(len(self.gpus)))
        for link in self.nvlinks:
            old, new = sorted((island[link.a], island[link.b]), reverse=True)
            island = [new if i == old else i for i in island]
        groups = [tuple(g for g, i in enumerate(island) if i == lowest) for lowest in sorted(set(island))]
        return tuple(group for group in groups if len(group) > 1)

    def gpu_nic_distance(self, gpu: int, nic: int) -> distance.Distance:
        """Return the distance class of a GPU and a NIC."""
        return distance.between(self.gpus[gpu], self.nics[nic])

    def nearest_nic(self, gpu: int) -> int | None:
        """Return the NIC nearest to a GPU, or None without NICs.

        Of equally near ones it is the NIC that the GPU's turn among its equals gives, so that GPUs share evenly.
        """
        if not self.nics:
            return None
        apart = [self.gpu_nic_distance(gpu, nic) for nic in range(len(self.nics))]
        near = [nic for nic, far in enumerate(apart) if far == min(apart)]
        rivals = [g for g in range(gpu) if min(self.gpu_nic_distance(g, nic) for nic in near) == min(apart)]
        return near[len(rivals) % len(near)]

    def numa_neighbours(self, a: int, b: int) -> bool:
        """Tell whether two different NUMA nodes are as near as any: on one socket, or at the least SLIT distance."""
        if max(a, b) < len(self.sockets):
            return self.sockets[a] == self.sockets[b]
        return self._is_nearest(a, b) or self._is_nearest(b, a)

    def _is_nearest(self, a: int, b: int) -> bool:
        """Tell whether no NUMA node is nearer to a than b by SLIT distance; firmware may not be symmetric about it."""
        if max(a, b) >= len(self.numa_distances):
            return False
        row = self.numa_distances[a]
        return row[b] == min(far for other, far in enumerate(row) if other != a)


def _problems(node: NodeTopology) -> Iterable[str]:
    """Yield what is wrong with a node, one sentence each."""
    if not node.name:
        yield "the name is empty"
    for field in ("cpu_milli", "memory_mib", "nvswitches", "max_pods"):
        if getattr(node, field) < 0:
            yield f"{field} must not be negative, got {getattr(node, field)}"
    if len(node.gpus) > MAX_GPUS:
        yield f"gpus: {len(node.gpus)} GPUs, at most {MAX_GPUS} are supported"
    if len(node.nics) > MAX_NICS:
        yield f"nics: {len(node.nics)} NICs, at most {MAX_NICS} are supported"
    for field in ("gpus", "nics", "accelerators"):
        indices = [d.index for d in getattr(node, field)]
        if indices != list(range(len(indices))):
            yield f"{field}: indices must be 0..{len(indices) - 1} in order, got {indices}"
    names = [gpu.name for gpu in node.gpus]
    if len(set(names)) != len(names):
        yield f"gpus: two are called {next(name for name in names if names.count(name) > 1)}"
    for field in ("nics", "accelerators"):
        if len({d.device_name for d in getattr(node, field)}) != len(getattr(node, field)):
            yield f"{field}: two have one name"
    models = {
        id(gpu.model): gpu.model for gpu in node.gpus
    }.values()  # fewer than GPUs, and hashing a MIG table is slow
    if len({model.name for model in models}) != len(set(models)):
        yield "gpus: two models of one name differ"
    if len({key for key, _ in node.labels}) != len(node.labels):
        yield "labels: a key occurs twice"
    yield from _link_problems(node)
    yield from _numa_problems(node)


def _link_problems(node: NodeTopology) -> Iterable[str]:
    """Yield what is wrong with the NVLinks."""
    pairs = [(link.a, link.b) for link in node.nvlinks]
    if len(set(pairs)) != len(pairs):
        yield "nvlinks: a pair of GPUs occurs twice"
    for link in node.nvlinks:
        if not 0 <= link.a < link.b < len(node.gpus):
            yield f"nvlinks: {link.a}-{link.b} does not join two of the {len(node.gpus)} GPUs"
        if link.links < 1 or link.gbps <= 0:
            yield f"nvlinks: {link.a}-{link.b}: links and gbps must be positive"


def _numa_problems(node: NodeTopology) -> Iterable[str]:
    """Yield what is wrong with the NUMA layout."""
    size = len(node.numa_distances)
    if any(len(row) != size for row in node.numa_distances):
        yield f"numa_distances: not a square matrix of {size} rows"
    if node.sockets and size and len(node.sockets) != size:
        yield f"sockets: {len(node.sockets)} entries for {size} NUMA nodes"
