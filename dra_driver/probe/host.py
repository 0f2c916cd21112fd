"""All hardware of a node: its GPUs through NVML where there are any, beside the accelerators that sysfs shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dra_driver import host_files, mig
from dra_driver.probe import interface, nvml, pci, roots, sysfs

LIBRARY = "libnvidia-ml.so.1"
NVIDIA, DISPLAY = 0x10DE, 0x03
"""Vendor, and the first byte of the class, of GPUs in sysfs."""


class HostProbe(nvml.NvmlProbe):
    """GPUs and accelerators; everything but discovery is about the GPUs alone."""

    def __init__(self, root: roots.Root, node_name: str, known: pci.Mapped, library: Path | None = None) -> None:
        super().__init__(root, node_name, library)
        self._known = known

    def discover(self) -> interface.Discovered:
        """Return the GPUs that answer, and the accelerators."""
        found = super().discover()
        others = pci.accelerators(self._root, self._known)
        return replace(found, topology=replace(found.topology, accelerators=others)) if others else found


def probe(
    root: roots.Root,
    node_name: str,
    library: Path | None = None,
    mapping: Path | None = None,
    driver_root: str = "/",
) -> interface.Probe:
    """Return the probe for the hardware of this node.

    Without a `library` it is looked for below the root of the GPU driver, then by the loader. NVML may be missing only
    where no NVIDIA GPU is plugged in: else the GPUs would vanish from the cluster without a word.

    Raises
    ------
    HardwareError, OSError
        NVML can't be used, and there is an NVIDIA GPU, or no accelerator to publish instead.
    ValueError
        The mapping is malformed.
    """
    known = pci.mapping(mapping or pci.MAPPING)
    try:
        return HostProbe(root, node_name, known, library or found_library(root, driver_root))
    except (mig.HardwareError, OSError) as error:
        if gpus(root) or not pci.accelerators(root, known):
            kind = type(error) if isinstance(error, mig.HardwareError) else mig.HardwareError
            raise kind(f"{error}; {_remedy(root)}") from error
    return pci.PciProbe(root, node_name, known)


def found_library(root: roots.Root, driver_root: str = "/") -> Path | None:
    """Return NVML below the root of the GPU driver, wherever its distribution puts libraries; None where it is not."""
    driver = roots.Root(root.at(driver_root))
    for folder in (*host_files.LIBRARY_FOLDERS, "lib64"):
        found = driver.inside(driver.at(folder, LIBRARY))
        if found.exists():
            return found
    return None


def gpus(root: roots.Root) -> list[str]:
    """Return the PCI addresses of NVIDIA GPUs, whether a driver serves them or not."""
    found = []
    for bus_id in roots.names(root.at("sys/bus/pci/devices")):
        own = sysfs.function(root, bus_id)
        if roots.number(own / "vendor") == NVIDIA and roots.number(own / "class") >> 16 == DISPLAY:
            found.append(bus_id)
    return found


def _remedy(root: roots.Root) -> str:
    there = gpus(root)
    if there:
        many = f" and {len(there) - 1} more" if len(there) > 1 else ""
        return f"an NVIDIA GPU is at {there[0]}{many}: install or repair its driver, or name the library with --library"
    return f"and {root.at('sys/bus/pci/devices')} has no accelerator of the mapping: there is nothing to publish"
