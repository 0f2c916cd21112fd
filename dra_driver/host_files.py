"""Files of the GPU driver on the host that a container needs: device nodes, libraries, programs, sockets.

The driver may see the host's root at another place than the host does; paths in CDI files are the host's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dra_driver import edits

CONTROL_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
LIBRARY_FOLDERS = (
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64/vdpau",
    "usr/lib/x86_64-linux-gnu/vdpau",
)
PROGRAMS = (
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-imex-ctl",
)
CLASSES = {
    "infiniband_verbs": "infiniband",
    "accel": "accel",
    "vfio-dev": "vfio/devices",
    "drm": "dri",
    "neuron_device": "",
    "tenstorrent": "tenstorrent",
    "xdma": "",
}
"""Kinds of character devices of PCI functions that containers get: folder in sysfs, folder in ``/dev``.

The kernel's own ``DEVNAME`` goes before the folder. Of `drm` only render nodes are given: the others set screen modes.
"""
COMPANIONS = {"infiniband/": "infiniband/rdma_cm", "dri/": "kfd"}
"""A node that belongs to no function, and what of a function needs it."""
SOCKETS = ("run/nvidia-persistenced/socket", "run/nvidia-fabricmanager/socket")
HOOK_PROGRAM = "usr/bin/nvidia-cdi-hook"

_DEVNAME = re.compile(r"^DEVNAME=(\S+)$", re.MULTILINE)
_INFORMATION = re.compile(r"^Device Minor:\s*(\d+)\s*$", re.MULTILINE)
_ACCESS = re.compile(r"^DeviceFileMinor:\s*(\d+)\s*$", re.MULTILINE)
_MAJOR = re.compile(r"^\s*(\d+)\s+nvidia-caps\s*$", re.MULTILINE)


class HostFileError(LookupError):
    """The host lacks a file without which a device cannot be used; the message names both."""


@dataclass(frozen=True, slots=True)
class HostFiles:
    """The host's files as the driver sees them.

    Attributes
    ----------
    root : Path
        Where the driver sees the root of the host.
    host_root : str
        What the host calls that place: ``/`` in a container that mounts the host's root, `root` itself in a test tree.
    driver_root : str
        Where the user-space driver is, from the root of the host: ``/`` or ``/run/nvidia/driver``.
    """

    root: Path
    host_root: str = "/"
    driver_root: str = "/"

    def on_host(self, path: str) -> str:
        """Return a path below the root as the host calls it."""
        return str(Path(self.host_root) / path.lstrip("/"))

    def node(self, path: str) -> edits.DeviceNode:
        """Return the edit that puts a node of the host's ``/dev`` at the same place in the container."""
        return edits.DeviceNode(path, self.on_host(path))

    def gpu_nodes(self, minor: int) -> tuple[edits.DeviceNode, ...]:
        """Return the nodes of a whole GPU."""
        path = f"/dev/nvidia{minor}"
        if not (self.root / path.lstrip("/")).exists():
            raise HostFileError(f"{self.root}{path} is missing; the GPU with minor number {minor} has no device node")
        return (self.node(path),)

    def mig_nodes(self, minor: int, gpu_instance: int, compute_instance: int) -> tuple[edits.DeviceNode, ...]:
        """Return the nodes of a MIG device: its GPU and the two capabilities, which need not exist on the host."""
        major = self._caps_major()
        folder = self.root / f"proc/driver/nvidia/capabilities/gpu{minor}/mig/gi{gpu_instance}"
        return (
            *self.gpu_nodes(minor),
            _capability(folder / "access", major),
            _capability(folder / f"ci{compute_instance}" / "access", major),
        )

    def function_nodes(self, pci_bus_id: str) -> tuple[edits.DeviceNode, ...]:
        """Return the nodes of a NIC or another accelerator: those that the kernel made for its PCI function."""
        function = self.root / "sys/bus/pci/devices" / pci_bus_id
        made = [_device_name(path, folder) for kind, folder in CLASSES.items() for path in _children(function / kind)]
        names = [name for name in made if _safe(name) and (self.root / "dev" / name).exists()]
        needed = [name for start, name in COMPANIONS.items() if any(one.startswith(start) for one in names)]
        names += [name for name in needed if (self.root / "dev" / name).exists()]
        return tuple(self.node(f"/dev/{name}") for name in names)

    def accelerator_nodes(self, pci_bus_id: str) -> tuple[edits.DeviceNode, ...]:
        """Return the nodes of an accelerator.

        Raises
        ------
        HostFileError
            It has none: its kernel driver is not loaded, or makes devices of a class that we do not know.
        """
        found = self.function_nodes(pci_bus_id)
        if not found:
            raise HostFileError(
                f"accelerator {pci_bus_id} has no device node of the classes {', '.join(CLASSES)} below {self.root}dev;"
                " load its kernel driver, or bind it to vfio-pci"
            )
        return found

    def _caps_major(self) -> int:
        found = _MAJOR.search((self.root / "proc/devices").read_text())
        if found is None:
            raise HostFileError(
                f"{self.root}/proc/devices has no nvidia-caps; the GPU driver does not support MIG here"
            )
        return int(found[1])

    def minor(self, pci_bus_id: str) -> int:
        """Return the minor number of a GPU."""
        path = self.root / f"proc/driver/nvidia/gpus/{pci_bus_id}/information"
        try:
            found = _INFORMATION.search(path.read_text())
        except FileNotFoundError:
            found = None
        if found is None:
            raise HostFileError(f"{path} names no minor number; the GPU driver does not know {pci_bus_id}")
        return int(found[1])

    def common(self, driver_version: str) -> edits.Edits:
        """Return what every container with a GPU needs, as far as the host has it."""
        nodes = tuple(self.node(f"/dev/{name}") for name in CONTROL_NODES if (self.root / "dev" / name).exists())
        mounts = (*self._libraries(driver_version), *self._programs(), *self._sockets())
        # `void` keeps the older runtime hook of the vendor from adding all GPUs.
        return edits.Edits(("NVIDIA_VISIBLE_DEVICES=void",), nodes, mounts, tuple(self._hooks(driver_version)))

    @property
    def _driver(self) -> Path:
        return self.root / self.driver_root.lstrip("/")

    def _mount(self, path: Path, container_path: str) -> edits.Mount:
        return edits.Mount(self.on_host(str(path.relative_to(self.root))), container_path)

    def _libraries(self, version: str) -> Iterator[edits.Mount]:
        if not version:
            return
        for folder in LIBRARY_FOLDERS:
            for path in sorted((self._driver / folder).glob(f"*.so.{version}")):
                yield self._mount(path, f"/{folder}/{path.name}")

    def _programs(self) -> Iterator[edits.Mount]:
        for name in PROGRAMS:
            path = self._driver / "usr/bin" / name
            if path.exists():
                yield self._mount(path, f"/usr/bin/{name}")

    def _sockets(self) -> Iterator[edits.Mount]:
        for name in SOCKETS:
            path = self.root / name
            if path.exists():
                yield edits.Mount(self.on_host(name), f"/{name}", (*edits.READ_ONLY, "noexec"))

    def _hooks(self, version: str) -> Iterator[edits.Hook]:
        """Yield the hooks that make the libraries known in the container; without the program there are none."""
        folders = sorted({str(Path(mount.container_path).parent) for mount in self._libraries(version)})
        if not folders or not (self.root / HOOK_PROGRAM).exists():
            return
        program = self.on_host(HOOK_PROGRAM)
        links = tuple(f"--link=libcuda.so.1::{folder}/libcuda.so" for folder in folders if "vdpau" not in folder)
        yield edits.Hook("createContainer", program, ("nvidia-cdi-hook", "create-symlinks", *links))
        caches = tuple(f"--folder={folder}" for folder in folders)
        yield edits.Hook("createContainer", program, ("nvidia-cdi-hook", "update-ldcache", *caches))


def _children(folder: Path) -> list[Path]:
    """Return the devices of a class below a function."""
    found = sorted(folder.glob("*"))
    return [path for path in found if path.name.startswith("renderD")] if folder.name == "drm" else found


def _device_name(path: Path, folder: str) -> str:
    """Return the name of a device below ``/dev``: what the kernel says, else folder and name."""
    try:
        found = _DEVNAME.search((path / "uevent").read_text())
    except OSError:
        found = None
    return found[1] if found else f"{folder}/{path.name.replace('!', '/')}".lstrip("/")


def _safe(name: str) -> bool:
    """Return whether a name stays below ``/dev``."""
    return not name.startswith("/") and ".." not in name.split("/")


def _capability(path: Path, major: int) -> edits.DeviceNode:
    """Read which capability node stands for a MIG instance."""
    try:
        found = _ACCESS.search(path.read_text())
    except FileNotFoundError:
        found = None
    if found is None:
        raise HostFileError(f"{path} names no DeviceFileMinor; the MIG instance has no capability node")
    minor = int(found[1])
    return edits.DeviceNode(f"/dev/nvidia-caps/nvidia-cap{minor}", "", major, minor)
