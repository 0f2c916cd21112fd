"""Other PCI accelerators (FPGA, TPU and so on) from sysfs, named by a small mapping in YAML."""

from __future__ import annotations

from pathlib import Path

import yaml

from dra_driver.probe import roots, sysfs
from scheduler.model import device

MAPPING = Path(__file__).with_name("pci.yaml")


def mapping(path: Path = MAPPING) -> dict[str, tuple[str, str]]:
    """Return kind and product by ``vendor:device``."""
    found = yaml.safe_load(roots.text(path)) or {}
    try:
        return {str(key).lower(): (str(entry["kind"]), str(entry["model"])) for key, entry in found.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: each entry must be 'vendor:device': {{kind: ..., model: ...}}") from error


def accelerators(root: roots.Root, known: dict[str, tuple[str, str]]) -> tuple[device.Accelerator, ...]:
    """Return the physical functions that the mapping knows, by address."""
    found: list[device.Accelerator] = []
    for bus_id in roots.names(root.at("sys/bus/pci/devices")):
        own = sysfs.function(root, bus_id)
        key = f"{max(0, roots.number(own / 'vendor')):04x}:{max(0, roots.number(own / 'device')):04x}"
        if key in known and not (own / "physfn").exists():
            at, (kind, model) = sysfs.place(root, bus_id), known[key]
            found.append(device.Accelerator(len(found), kind, model, bus_id, at.switch, at.root, at.numa))
    return tuple(found)
