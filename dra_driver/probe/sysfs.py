"""PCIe, NUMA, NICs and disks of a node from the host's sysfs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dra_driver.probe import interface, roots
from scheduler.model import attributes, device

ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
DIGEST = 12
HOST_BRIDGE = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a PCI function is plugged in.

    Attributes
    ----------
    switch : str
        Upstream ports of the switches above it, from the root downwards, joined by ``/``; a digest stands for the end
        of one that is too long for an attribute.
    """

    switch: str = ""
    root: str = ""
    numa: int = -1


def address(bus_id: str) -> str:
    """Return a PCI address as sysfs writes it.

    Examples
    --------
    >>> address("00000000:1B:00.0")
    '0000:1b:00.0'
    """
    domain, _, rest = bus_id.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def function(root: roots.Root, bus_id: str) -> Path:
    """Return the link of a PCI function."""
    return root.at("sys/bus/pci/devices", bus_id)


def place(root: roots.Root, bus_id: str) -> Place:
    """Return where a PCI function is plugged in; an unknown place where sysfs does not have it.

    Notes
    -----
    Between host bridge and function there are the root port and then two ports of each switch, upstream and
    downstream. The upstream port stands for its switch.
    """
    link = function(root, bus_id)
    if not link.exists():
        return Place()
    parts = root.real(link).parts
    at = next((i for i, part in enumerate(parts) if HOST_BRIDGE.fullmatch(part)), None)
    if at is None:
        return Place(numa=roots.number(link / "numa_node"))
    chain = [part for part in parts[at + 1 : -1] if ADDRESS.fullmatch(part)]
    return Place(_path(chain[1::2]), parts[at], roots.number(link / "numa_node"))


def _path(ports: list[str]) -> str:
    """Return the path of some switches. Where it is too long for an attribute, a digest stands for its end.

    What is told by a path, same switch and same uppermost switch, stays so.
    """
    whole = "/".join(ports)
    if len(whole) <= attributes.MAX_TEXT:
        return whole
    kept = whole[: attributes.MAX_TEXT - DIGEST].rpartition("/")[0]
    return f"{kept}/{hashlib.sha256(whole.encode()).hexdigest()[:DIGEST]}"


def numa_distances(root: roots.Root) -> tuple[tuple[int, ...], ...]:
    """Return the SLIT matrix of the NUMA nodes with processors; () where it is unknown or has holes.

    Coherent GPUs add NUMA nodes of memory alone after those with processors; they are no places to run.
    """
    folder = root.at("sys/devices/system/node")
    nodes = [name for name in roots.names(folder) if re.fullmatch(r"node\d+", name)]
    nodes = [name for name in nodes if roots.text(folder / name / "cpulist")]
    if nodes != [f"node{i}" for i in range(len(nodes))]:
        return ()
    rows = [tuple(map(int, roots.text(folder / name / "distance").split()))[: len(nodes)] for name in nodes]
    return tuple(rows) if all(len(row) == len(nodes) for row in rows) else ()


def sockets(root: roots.Root, nodes: int) -> tuple[int, ...]:
    """Return the socket of each NUMA node; () when unknown."""
    found = []
    for node in range(nodes):
        cpus = roots.members(roots.text(root.at(f"sys/devices/system/node/node{node}/cpulist")))
        package = root.at(f"sys/devices/system/cpu/cpu{cpus[0]}/topology/physical_package_id") if cpus else None
        found.append(roots.number(package) if package else -1)
    return () if -1 in found else tuple(found)


def cpus(root: roots.Root) -> int:
    """Return the number of hardware threads that are online."""
    return len(roots.members(roots.text(root.at("sys/devices/system/cpu/online"))))


def memory_mib(root: roots.Root) -> int:
    """Return the memory of the host."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", roots.text(root.at("proc/meminfo")), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def nics(root: roots.Root) -> tuple[device.Nic, ...]:
    """Return the NICs: those with RDMA first, then those that have only network interfaces."""
    found: list[device.Nic] = []
    taken: set[str] = set()
    for kind in ("infiniband", "net"):
        for name in roots.names(root.at("sys/class", kind)):
            bus_id = _physical(root, root.at("sys/class", kind, name, "device"))
            if not bus_id or bus_id in taken:
                continue
            taken.add(bus_id)
            at, rdma = place(root, bus_id), kind == "infiniband"
            found.append(
                device.Nic(len(found), name, _gbps(root, kind, name), bus_id, at.switch, at.root, at.numa, rdma)
            )
    return tuple(found)


def _physical(root: roots.Root, link: Path) -> str:
    """Return the PCI address behind a link; "" for virtual functions and for what is no PCI function."""
    bus_id = root.real(link).name if link.exists() else ""
    if not ADDRESS.fullmatch(bus_id) or (function(root, bus_id) / "physfn").exists():
        return ""
    return bus_id


def _gbps(root: roots.Root, kind: str, name: str) -> int:
    """Return the line rate; 0 when unknown, as while a link is down."""
    if kind == "net":
        return max(0, roots.number(root.at("sys/class/net", name, "speed"))) // 1000
    rates = [
        roots.text(root.at("sys/class/infiniband", name, "ports", port, "rate"))
        for port in roots.names(root.at("sys/class/infiniband", name, "ports"))
    ]
    found = [re.match(r"(\d+)(?:\.\d+)? Gb/sec", rate) for rate in rates]
    return max((int(match[1]) for match in found if match), default=0)


def nic_facts(root: roots.Root, nic: device.Nic) -> interface.NicFacts:
    """Return interfaces and SR-IOV functions of a NIC."""
    own = function(root, nic.pci_bus_id)
    links = [own / name for name in roots.names(own) if re.fullmatch(r"virtfn\d+", name)]
    return interface.NicFacts(
        nic.name,
        tuple(roots.names(own / "net")),
        roots.number(own / "sriov_totalvfs", 0),
        tuple(root.real(link).name for link in links),
    )


def nvmes(root: roots.Root) -> Iterator[interface.Nvme]:
    """Yield the NVMe controllers on PCI."""
    for name in roots.names(root.at("sys/class/nvme")):
        bus_id = _physical(root, root.at("sys/class/nvme", name, "device"))
        if bus_id:
            at = place(root, bus_id)
            yield interface.Nvme(name, bus_id, at.switch, at.root, at.numa)
