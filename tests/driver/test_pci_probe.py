"""Accelerators of other makers are found in sysfs."""

from dataclasses import replace
from pathlib import Path

from dra_driver.probe import pci, roots
from scheduler.model import device, machines
from tests.hardware import sysfs


def test_finds_what_the_mapping_knows(tmp_path: Path) -> None:
    card = device.Accelerator(0, "fpga", "Alveo-U280", "0000:e2:00.0", "", "pci0000:e0", 1)
    sysfs.render(replace(machines.build("l40s-8", "node-a"), accelerators=(card,)), tmp_path)
    assert pci.accelerators(roots.Root(tmp_path), pci.mapping()) == (card,)
    assert pci.accelerators(roots.Root(tmp_path), {}) == ()
