"""How far apart two devices of a node sit on PCIe and NUMA, in the classes that ``nvidia-smi topo -m`` prints.

Only positions are compared here; NVLinks are no part of it.
"""

from enum import IntEnum
from typing import Protocol


class Distance(IntEnum):
    """Nearest first, so that ``min`` picks the nearest."""

    PIX = 1
    """Behind one PCIe switch."""
    PXB = 2
    """Several PCIe switches, no host bridge."""
    PHB = 3
    """Across one PCIe host bridge."""
    NODE = 4
    """Across host bridges of one NUMA node."""
    SYS = 5
    """Across NUMA nodes."""


class Position(Protocol):
    """A device that knows where it is plugged in.

    Attributes
    ----------
    pcie_switch : str
        Path of switches from the root downwards, joined by ``/``; "" without a switch.
    pcie_root : str
        Host bridge, for example ``"pci0000:10"``; "" when unknown.
    numa : int
        -1 when unknown.
    """

    @property
    def pcie_switch(self) -> str: ...

    @property
    def pcie_root(self) -> str: ...

    @property
    def numa(self) -> int: ...


def between(a: Position, b: Position) -> Distance:
    """Return the distance class of two devices.

    Notes
    -----
    Two devices of unknown NUMA node count as NODE: kernels report -1 for every device of a machine with one memory
    node. Where only one is unknown, the pessimistic SYS holds.

    Examples
    --------
    >>> from scheduler.model import device
    >>> nic = device.Nic(0, "mlx5_0", 200, pcie_switch="plx0/1", pcie_root="pci0000:10", numa=3)
    >>> near = device.Nic(1, "mlx5_1", 200, pcie_switch="plx0/2", pcie_root="pci0000:10", numa=3)
    >>> far = device.Nic(2, "mlx5_2", 200, pcie_switch="plx0/1", pcie_root="pci0000:40", numa=5)
    >>> between(nic, near).name, between(nic, far).name
    ('PXB', 'SYS')
    """
    if a.pcie_root == b.pcie_root and (a.pcie_root or a.pcie_switch):
        if a.pcie_switch and a.pcie_switch == b.pcie_switch:
            return Distance.PIX
        if a.pcie_switch and a.pcie_switch.partition("/")[0] == b.pcie_switch.partition("/")[0]:
            return Distance.PXB
        if a.pcie_root:
            return Distance.PHB
    return Distance.NODE if a.numa == b.numa else Distance.SYS
