"""Writes the /sys, /proc and /dev of a machine of the model below a folder."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from dra_driver.probe import pci
from scheduler.model import device, node
from tests.hardware import machine as hardware

Device = device.Gpu | device.Nic | device.Accelerator
CODES = {
    (product.kind, product.model): tuple(f"0x{part}" for part in key.split(":"))
    for key, product in pci.mapping().items()
}
"""Vendor and device of an accelerator."""

BOOT_ID = "6f1c4f4e-52b7-4f0e-9a0c-1d2f3a4b5c6d"
LIBRARIES = tuple(f"usr/lib/x86_64-linux-gnu/{name}.so.{hardware.DRIVER}" for name in ("libcuda", "libnvidia-ml"))
PROGRAM, SOCKET, HOOK = "usr/bin/nvidia-smi", "run/nvidia-persistenced/socket", "usr/bin/nvidia-cdi-hook"
UVM, CAPS = 235, 238
"""Major numbers."""
HOOKED = "hooked.log"
"""What the hook was told, a line for each run."""


def render(
    machine: node.NodeTopology,
    root: Path,
    *,
    virtual_functions: int = 4,
    minors: Sequence[int] = range(node.MAX_GPUS),
) -> None:
    """Write everything; device nodes are real where the user is root, and their numbers by GPU are `minors`."""
    (root / "sys/bus/pci/devices").mkdir(parents=True)
    bridges = _Bridges(root)
    for item in (*machine.gpus, *machine.nics, *machine.accelerators):
        if item.pci_bus_id:
            _function(root, bridges, item, machine)
    for card in machine.accelerators:
        _card(root, card)
    for nic in machine.nics:
        _nic(root, nic, virtual_functions)
    if machine.gpus:
        _nvme(root, bridges, machine)
    _host(root, machine)
    _driver(root, machine, minors)


class _Bridges:
    """Makes the bridges above devices, with addresses that nothing else has."""

    def __init__(self, root: Path) -> None:
        self.root, self._paths, self._next = root, {}, 0

    def above(self, item: Device) -> Path:
        """Return the folder of the port that a device hangs on: a root port, then two ports for each switch."""
        here = self.root / "sys/devices" / item.pcie_root
        parts = item.pcie_switch.split("/") if item.pcie_switch else []
        if not parts:
            return self._port(here, f"{item.pcie_root}/{item.pci_bus_id}", item)
        for depth in range(len(parts)):
            key = f"{item.pcie_root}/{'/'.join(parts[: depth + 1])}"
            here = self._port(self._port(here, f"{key} above", item), f"{key} switch", item)
        return self._port(here, f"{item.pci_bus_id} below", item)

    def _port(self, parent: Path, key: str, item: Device) -> Path:
        if key not in self._paths:
            self._next += 1
            address = f"{item.pci_bus_id[:4]}:fe:{self._next // 8:02x}.{self._next % 8}"
            self._paths[key] = parent / address
            _plain(self.root, self._paths[key], "0x060400", "0x1000", "0xc030", item.numa, "")
        return self._paths[key]


def _plain(root: Path, folder: Path, kind: str, vendor: str, model: str, numa: int, cpus: str) -> None:
    folder.mkdir(parents=True)
    files = {"class": kind, "vendor": vendor, "device": model, "numa_node": str(numa), "local_cpulist": cpus}
    for name, text in files.items():
        (folder / name).write_text(text + "\n")
    (root / "sys/bus/pci/devices" / folder.name).symlink_to(os.path.relpath(folder, root / "sys/bus/pci/devices"))


def _function(root: Path, bridges: _Bridges, item: Device, machine: node.NodeTopology) -> None:
    folder = bridges.above(item) / item.pci_bus_id
    match item:
        case device.Gpu():
            codes = ("0x030200", "0x10de", "0x2330")
        case device.Nic():
            codes = ("0x020700", "0x15b3", "0x1021")
        case device.Accelerator():
            codes = ("0x120000", *CODES[item.kind, item.model])
    _plain(root, folder, *codes, item.numa, _cpus(machine, item.numa))


def _card(root: Path, card: device.Accelerator) -> None:
    """Make the character device of an accelerator as a driver of the kernel's `accel` class does."""
    folder = (root / "sys/bus/pci/devices" / card.pci_bus_id).resolve() / f"accel/accel{card.index}"
    folder.mkdir(parents=True)
    (folder / "uevent").write_text(f"MAJOR=261\nMINOR={card.index}\nDEVNAME=accel/accel{card.index}\n")
    node_file(root / f"dev/accel/accel{card.index}", 261, card.index)


def _nic(root: Path, nic: device.Nic, functions: int) -> None:
    own = (root / "sys/bus/pci/devices" / nic.pci_bus_id).resolve()
    (own / "sriov_totalvfs").write_text("16\n")
    (own / "sriov_numvfs").write_text(f"{functions}\n")
    for number in range(functions):
        address = f"{nic.pci_bus_id[:8]}{0x10 + number // 8:02x}.{number % 8}"
        folder = own.parent / address
        _plain(root, folder, "0x020700", "0x15b3", "0x101e", nic.numa, "")
        (own / f"virtfn{number}").symlink_to(f"../{address}")
        (folder / "physfn").symlink_to(f"../{nic.pci_bus_id}")
    for kind, name in (("net", f"eth{nic.index}"), ("infiniband", nic.name)):
        if kind == "infiniband" and not nic.rdma:
            continue
        name = name if nic.rdma else nic.name
        folder = own / kind / name
        folder.mkdir(parents=True)
        (folder / "device").symlink_to("../..")
        classes = root / "sys/class" / kind
        classes.mkdir(parents=True, exist_ok=True)
        (classes / name).symlink_to(os.path.relpath(folder, classes))
        if kind == "net":
            (folder / "speed").write_text(f"{nic.gbps * 1000}\n")
        else:
            (folder / "ports/1").mkdir(parents=True)
            (folder / "ports/1/rate").write_text(f"{nic.gbps} Gb/sec (4X)\n")


def _nvme(root: Path, bridges: _Bridges, machine: node.NodeTopology) -> None:
    first = machine.gpus[0]
    address = f"{first.pci_bus_id[:4]}:fd:00.0"
    disk = device.Accelerator(0, "nvme", "nvme", address, "", first.pcie_root, first.numa)
    folder = bridges.above(disk) / address
    _plain(root, folder, "0x010802", "0x144d", "0xa824", first.numa, "")
    (folder / "nvme/nvme0").mkdir(parents=True)
    classes = root / "sys/class/nvme"
    classes.mkdir(parents=True)
    (classes / "nvme0").symlink_to(os.path.relpath(folder / "nvme/nvme0", classes))
    (folder / "nvme/nvme0/device").symlink_to("../..")


def _span(machine: node.NodeTopology, numa: int) -> range:
    each = machine.cpu_milli // 1000 // max(1, len(machine.numa_distances))
    return range(numa * each, numa * each + each)


def _cpus(machine: node.NodeTopology, numa: int) -> str:
    span = _span(machine, numa)
    return f"{span[0]}-{span[-1]}" if span and numa >= 0 else ""


def _host(root: Path, machine: node.NodeTopology) -> None:
    for numa, row in enumerate(machine.numa_distances):
        folder = root / f"sys/devices/system/node/node{numa}"
        folder.mkdir(parents=True)
        (folder / "distance").write_text(" ".join(map(str, row)) + "\n")
        (folder / "cpulist").write_text(_cpus(machine, numa) + "\n")
        for cpu in _span(machine, numa):
            place = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
            place.mkdir(parents=True)
            (place / "physical_package_id").write_text(f"{machine.sockets[numa] if machine.sockets else -1}\n")
    (root / "sys/devices/system/cpu").mkdir(parents=True, exist_ok=True)
    (root / "sys/devices/system/cpu/online").write_text(f"0-{machine.cpu_milli // 1000 - 1}\n")
    (root / "proc/sys/kernel/random").mkdir(parents=True)
    (root / "proc/sys/kernel/random/boot_id").write_text(BOOT_ID + "\n")
    (root / "proc/meminfo").write_text(f"MemTotal:       {machine.memory_mib * 1024} kB\nMemFree: 1 kB\n")
    (root / "proc/devices").write_text(
        f"Character devices:\n  1 mem\n195 nvidia\n{CAPS} nvidia-caps\n\nBlock devices:\n"
    )


def _driver(root: Path, machine: node.NodeTopology, minors: Sequence[int]) -> None:
    folder = root / "proc/driver/nvidia"
    (folder / "capabilities/mig").mkdir(parents=True)
    (folder / "version").write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {hardware.DRIVER}\n")
    _capability(folder / "capabilities/mig/config", 1)
    _capability(folder / "capabilities/mig/monitor", 2)
    node_file(root / "dev/nvidiactl", 195, 255)
    node_file(root / "dev/nvidia-uvm", UVM, 0)
    node_file(root / "dev/nvidia-uvm-tools", UVM, 1)
    _user_space(root)
    for gpu in machine.gpus:
        number = minors[gpu.index]
        own = folder / "gpus" / gpu.pci_bus_id
        own.mkdir(parents=True)
        (own / "information").write_text(
            f"Model: \t\t {gpu.model.name}\nGPU UUID: \t {gpu.uuid}\nBus Location: \t {gpu.pci_bus_id}\n"
            f"Device Minor: \t {number}\n"
        )
        node_file(root / f"dev/nvidia{number}", 195, number)
        for instance in range(1, 15) if gpu.model.mig else ():
            place = folder / f"capabilities/gpu{number}/mig/gi{instance}"
            (place / "ci0").mkdir(parents=True)
            minor = capability(number, instance)
            _capability(place / "access", minor)
            _capability(place / "ci0/access", minor + 1)


def capability(gpu: int, instance: int) -> int:
    """Return the minor number of an instance's capability, for a GPU by its own minor; that of its compute instance follows."""
    return 3 + gpu * 136 + instance * 9


def _user_space(root: Path) -> None:
    """Write libraries, a program, a socket and the hook of the GPU driver."""
    for name in (*LIBRARIES, PROGRAM, SOCKET):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name}\n")
    (root / HOOK).write_text(f'#!/bin/sh\necho "$@" >> "{root.resolve() / HOOKED}"\n')
    (root / HOOK).chmod(0o755)


def _capability(path: Path, minor: int) -> None:
    path.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")


def node_file(path: Path, major: int, minor: int) -> None:
    """Make a character device; a plain file where that is not allowed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
    except PermissionError:
        path.touch()
