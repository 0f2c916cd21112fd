"""Real machines with their true link matrices, by kind: for simulated fleets, tests and fakes.

CPU and memory are those of the vendor's own system or instance: hardware threads and all of the memory, less nothing
for the operating system.

References
----------
NVIDIA DGX-1, DGX-2, DGX A100, DGX H100/H200 and DGX B200 user guides (NVLink and NVSwitch counts, CPU, memory, NICs);
NVIDIA NVLink and NVSwitch product pages (links per GPU); AWS EC2 P4d instance page; NVIDIA GB200 NVL72 reference
architecture (18 compute trays of four GPUs in one NVLink domain). Link speeds are what ``nvidia-smi nvlink -s`` reports.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from itertools import combinations

from scheduler.model import device, gpu_models, layouts, node

NVLINK_GBPS = {"Volta": 25.0, "Ampere": 25.0, "Hopper": 26.562, "Blackwell": 53.125}
"""GB/s of one link and direction."""

TRAYS_PER_RACK = 18
"""Compute trays of one NVL72 rack."""

TWO_SOCKETS = ((10, 21), (21, 10))
"""SLIT matrix of a machine with one NUMA node per socket."""

FOUR_PER_SOCKET = tuple(tuple(10 if a == b else 12 if a // 4 == b // 4 else 32 for b in range(8)) for a in range(8))
"""SLIT matrix of two EPYC sockets with four NUMA nodes each."""

GIB = 1024

Links = Iterable[tuple[int, int, int]]


def build(kind: str, name: str) -> node.NodeTopology:
    """Return a machine of a kind, as a node called `name`.

    Raises
    ------
    KeyError
        `kind` is none of `KINDS`.

    Examples
    --------
    >>> machine = build("dgx-1v", "node-0")
    >>> len(machine.gpus), len(machine.nics), machine.link_counts()[0][3]
    (8, 4, 2)
    """
    if kind not in KINDS:
        raise KeyError(f"no machine {kind!r}; there are {', '.join(KINDS)}")
    return KINDS[kind](kind, name)


def plain(
    name: str, gpus: int, model: device.GpuModel | str, cpu_milli: int, memory_mib: int, machine: str = ""
) -> node.NodeTopology:
    """Return a node with GPUs about whose wiring nothing is known, as in published traces.

    Parameters
    ----------
    model : GpuModel or str
        A name that is no known product gives a model of that name without MIG.
    """
    product = gpu_models.named(model) if isinstance(model, str) else model
    return node.NodeTopology(
        name=name,
        machine=machine or f"plain-{gpus}x{product.name}" if gpus else machine or "plain-cpu",
        cpu_milli=cpu_milli,
        memory_mib=memory_mib,
        gpus=tuple(device.Gpu(index, product, uuid=f"{name}/{index}") for index in range(gpus)),
    )


def nvl72(rack: str, cluster_uuid: str, clique: int = 0) -> tuple[node.NodeTopology, ...]:
    """Return the 18 trays of a GB200 NVL72 rack, which share one NVLink domain.

    Parameters
    ----------
    cluster_uuid, clique
        Identity of the NVLink fabric as NVML reports it; with the clique they make `Gpu.fabric_id` and the node label.
    """
    fabric_id = f"{cluster_uuid}.{clique}"
    return tuple(_tray("gb200-nvl72", f"{rack}-tray-{i:02d}", fabric_id) for i in range(TRAYS_PER_RACK))


def assume(machine: node.NodeTopology) -> node.NodeTopology:
    """Give a node of unknown wiring the NVLinks of the known machine with the same GPUs, if there is just one such wiring.

    For slices of drivers that do not publish NVLinks. GPUs are matched by position. Nodes that have links, and nodes
    like no known machine, are returned as they are.
    """
    models = [gpu.model.name for gpu in machine.gpus]
    known = [make(kind, machine.name) for kind, make in KINDS.items()]
    twins = [twin for twin in known if [gpu.model.name for gpu in twin.gpus] == models]
    if machine.nvlinks or not twins or len({twin.nvlinks for twin in twins}) > 1:
        return machine
    return replace(machine, nvlinks=twins[0].nvlinks, nvswitches=twins[0].nvswitches)


def _mesh(gpus: int, links: int) -> Links:
    """Return the same number of links between any two GPUs."""
    return ((a, b, links) for a, b in combinations(range(gpus), 2))


def _machine(
    kind: str,
    name: str,
    model: device.GpuModel,
    layout: str,
    *,
    links: Links,
    nvswitches: int = 0,
    cpus: int,
    memory_gib: int,
    distances: tuple[tuple[int, ...], ...] = TWO_SOCKETS,
    sockets: tuple[int, ...] = (0, 1),
    fabric_id: str = "",
    addressing: str = "None",
) -> node.NodeTopology:
    """Put a machine together from its layout and its links."""
    gpus, nics = _devices(layout, model)
    return node.NodeTopology(
        name=name,
        machine=kind,
        cpu_milli=cpus * 1000,
        memory_mib=memory_gib * GIB,
        gpus=tuple(
            replace(gpu, uuid=f"GPU-{name}-{gpu.index}", fabric_id=fabric_id, addressing_mode=addressing)
            for gpu in gpus
        ),
        nics=nics,
        nvlinks=_nvlinks(tuple(links), NVLINK_GBPS.get(model.architecture, 0.0)),
        nvswitches=nvswitches,
        numa_distances=distances,
        sockets=sockets,
        labels=(("nvidia.com/gpu.clique", fabric_id),) if fabric_id else (),
    )


@cache
def _devices(layout: str, model: device.GpuModel) -> tuple[tuple[device.Gpu, ...], tuple[device.Nic, ...]]:
    """Read a layout."""
    gpus: list[device.Gpu] = []
    nics: list[device.Nic] = []
    for line in layout.split("\n"):
        match line.split():
            case ["gpu", bus, switch, root, numa]:
                gpus.append(device.Gpu(len(gpus), model, "", bus, switch.strip("-"), root, int(numa)))
            case ["nic", nic, gbps, bus, switch, root, numa]:
                nics.append(device.Nic(len(nics), nic, int(gbps), bus, switch.strip("-"), root, int(numa)))
    return tuple(gpus), tuple(nics)


@cache
def _nvlinks(links: tuple[tuple[int, int, int], ...], gbps: float) -> tuple[node.NvLink, ...]:
    return tuple(node.NvLink(a, b, count, gbps) for a, b, count in links)


def _dgx_1v(kind: str, name: str) -> node.NodeTopology:
    """Two Xeon E5-2698 v4; hybrid cube mesh."""
    links = layouts.DGX_1V_LINKS
    return _machine(kind, name, gpu_models.V100_SXM2_32, layouts.DGX_1V, links=links, cpus=80, memory_gib=512)


def _dgx_2(kind: str, name: str) -> node.NodeTopology:
    """Two Xeon Platinum 8168; all to all through twelve NVSwitches."""
    mesh = _mesh(16, 6)
    model = gpu_models.V100_SXM3_32
    return _machine(kind, name, model, layouts.DGX_2, links=mesh, nvswitches=12, cpus=96, memory_gib=1536)


def _dgx_a100(kind: str, name: str) -> node.NodeTopology:
    """Two EPYC 7742 with four NUMA nodes each; six NVSwitches."""
    return _machine(
        kind,
        name,
        gpu_models.A100_SXM4_80,
        layouts.DGX_A100,
        links=_mesh(8, 12),
        nvswitches=6,
        cpus=256,
        memory_gib=2048,
        distances=FOUR_PER_SOCKET,
        sockets=(0, 0, 0, 0, 1, 1, 1, 1),
    )


def _hgx(model: device.GpuModel, nvswitches: int) -> Callable[[str, str], node.NodeTopology]:
    """Two Xeon 8480C or 8570 with eight GPUs on an HGX board."""

    def make(kind: str, name: str) -> node.NodeTopology:
        mesh = _mesh(8, 18)
        return _machine(kind, name, model, layouts.HGX_8, links=mesh, nvswitches=nvswitches, cpus=224, memory_gib=2048)

    return make


def _hgx_h100_4(kind: str, name: str) -> node.NodeTopology:
    """Four GPUs with six direct links between any two, no switch; two NUMA nodes per socket."""
    distances = tuple(tuple(10 if a == b else 12 if a // 2 == b // 2 else 32 for b in range(4)) for a in range(4))
    return _machine(
        kind,
        name,
        gpu_models.H100_SXM5_80,
        layouts.HGX_H100_4,
        links=_mesh(4, 6),
        cpus=128,
        memory_gib=1024,
        distances=distances,
        sockets=(0, 0, 1, 1),
    )


def _pcie_pairs(model: device.GpuModel, pairs: tuple[tuple[int, int], ...]) -> Callable[[str, str], node.NodeTopology]:
    """Four PCIe cards, two and two joined by NVLink bridges of twelve links."""

    def make(kind: str, name: str) -> node.NodeTopology:
        links = tuple((a, b, 12) for a, b in pairs)
        return _machine(kind, name, model, layouts.PCIE_4, links=links, cpus=128, memory_gib=1024)

    return make


def _l40s(kind: str, name: str) -> node.NodeTopology:
    """Eight PCIe cards without NVLink, two per switch."""
    return _machine(kind, name, gpu_models.L40S, layouts.L40S_8, links=(), cpus=128, memory_gib=1024)


def _p4d(kind: str, name: str) -> node.NodeTopology:
    """AWS p4d.24xlarge: 96 vCPU, 1152 GiB, one EFA for two GPUs."""
    mesh = _mesh(8, 12)
    return _machine(
        kind, name, gpu_models.A100_SXM4_40, layouts.P4D, links=mesh, nvswitches=6, cpus=96, memory_gib=1152
    )


def _tray(kind: str, name: str, fabric_id: str = "00000000-0000-0000-0000-000000000000.0") -> node.NodeTopology:
    """Compute tray of an NVL72 rack: two Grace CPUs with 72 cores and 480 GB each; the NVSwitches sit in other trays."""
    return _machine(
        kind,
        name,
        gpu_models.GB200_186,
        layouts.GB200_TRAY,
        links=_mesh(4, 18),
        cpus=144,
        memory_gib=894,
        distances=((10, 40), (40, 10)),
        fabric_id=fabric_id,
        addressing="ATS",
    )


KINDS: dict[str, Callable[[str, str], node.NodeTopology]] = {
    "dgx-1v": _dgx_1v,
    "dgx-2": _dgx_2,
    "dgx-a100": _dgx_a100,
    "hgx-h100": _hgx(gpu_models.H100_SXM5_80, 4),
    "hgx-h200": _hgx(gpu_models.H200_SXM_141, 4),
    "hgx-b200": _hgx(gpu_models.B200_SXM_180, 2),
    "hgx-h100-4": _hgx_h100_4,
    "a100-pcie-pairs": _pcie_pairs(gpu_models.A100_PCIE_80, ((0, 1), (2, 3))),
    "a100-pcie-pairs-crossed": _pcie_pairs(gpu_models.A100_PCIE_80, ((0, 2), (1, 3))),
    "h100-pcie-pairs": _pcie_pairs(gpu_models.H100_PCIE_80, ((0, 1), (2, 3))),
    "l40s-8": _l40s,
    "aws-p4d": _p4d,
    "gb200-nvl72": _tray,
}
"""Maker of every kind: takes the kind and the name of the node."""
