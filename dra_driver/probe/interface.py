"""The narrow interface between the driver and the hardware of its node, and the values that cross it.

All calls block and belong in threads. A probe raises `mig.HardwareError`, whose message names device, call and reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dra_driver import mig
from scheduler.model import node


class SessionEnded(mig.HardwareError):
    """The way to the hardware is gone for as long as the process lives; only a new process finds another."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What a GPU tells about itself beyond its place in the topology.

    Attributes
    ----------
    minor : int
        Number of its device node; -1 when unknown.
    product : str
        As the vendor's library reports it.
    mig_pending : bool
        MIG mode after the next reset.
    """

    uuid: str
    minor: int = -1
    serial: str = ""
    product: str = ""
    mig_pending: bool = False


@dataclass(frozen=True, slots=True)
class NicFacts:
    """SR-IOV functions and network interfaces of a NIC; `functions` are PCI addresses."""

    name: str
    interfaces: tuple[str, ...] = ()
    total_functions: int = 0
    functions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Nvme:
    """A local NVMe controller and where it is plugged in."""

    name: str
    pci_bus_id: str
    pcie_switch: str
    pcie_root: str
    numa: int


@dataclass(frozen=True, slots=True)
class Discovered:
    """What a node has at one time.

    Attributes
    ----------
    driver_release : str
        The driver's own spelling, for example ``"580.65.06"``: names of library files have it.
    gpus, nics : mapping
        By UUID and by name.
    unlinked : tuple of str
        GPUs, by UUID, whose NVLinks could not be read.
    problems : tuple of str
        What could not be read, one sentence each; the devices concerned are left out or incomplete.
    """

    topology: node.NodeTopology
    driver_release: str = ""
    gpus: Mapping[str, GpuFacts] = field(default_factory=dict)
    nics: Mapping[str, NicFacts] = field(default_factory=dict)
    nvmes: tuple[Nvme, ...] = ()
    unlinked: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """News from the hardware.

    Attributes
    ----------
    kind : str
        ``xid``, ``ecc-double-bit``, ``ecc-single-bit``, ``mig-config``, ``recovery-action``, ``unavailable`` or another
        word for a bit of the library.
    data : int
        The XID, or what else the kind carries.
    gpu_instance : int
        -1 for the whole GPU.
    """

    gpu_uuid: str
    kind: str
    data: int = 0
    gpu_instance: int = -1


@dataclass(frozen=True, slots=True)
class Reading:
    """Health and use of one GPU at one time; None where the GPU does not tell.

    Attributes
    ----------
    lost : bool
        The GPU fell off the bus; nothing else is known then.
    failing : mapping of call to reason
        Calls that failed in an unexpected way.
    remap_pending, remap_failed : bool or None
        Row remapping that waits for a reset; one for which there were no spare rows.
    recovery_action : int or None
        0 none, 1 GPU reset, 2 node reboot, 3 drain P2P, 4 drain and reset, then as NVML numbers them.
    links_down : tuple of int
        NVLinks that exist and are not active.
    fabric_state : int or None
        0 unsupported, 1 not started, 2 in progress, 3 completed.
    fabric_health : int or None
        1 healthy, 2 unhealthy, 3 limited.
    processes : tuple of (pid, bytes, GPU instance or -1)
    parts : tuple of (GPU instance, bytes used, bytes in all)
        Memory of each MIG device.
    pcie_tx, pcie_rx : int or None
        KiB per second over the last 20 ms; `pcie_tx_bytes` and `pcie_rx_bytes` count since the driver was loaded.
    nvlink_kib : int or None
        Data, without the protocol's own, that went over all NVLinks in both directions since the driver was loaded;
        `nvlink_at_us` is when that was so, in microseconds since 1970.
    vgpu_licensed : bool or None
        False too where no licence is asked for; None also where licences are, but none of vGPU.
    """

    gpu_uuid: str
    lost: bool = False
    failing: Mapping[str, str] = field(default_factory=dict)
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    remap_corrected: int | None = None
    remap_uncorrected: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    retired_pages_pending: bool | None = None
    recovery_action: int | None = None
    links_down: tuple[int, ...] = ()
    fabric_state: int | None = None
    fabric_status: int | None = None
    fabric_health: int | None = None
    fabric_mask: int | None = None
    clock_reasons: int | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    utilization: int | None = None
    memory_utilization: int | None = None
    power_mw: int | None = None
    temperature: int | None = None
    processes: tuple[tuple[int, int, int], ...] = ()
    parts: tuple[tuple[int, int, int], ...] = ()
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    memory_temperature: int | None = None
    energy_mj: int | None = None
    pcie_replays: int | None = None
    pcie_tx: int | None = None
    pcie_rx: int | None = None
    pcie_tx_bytes: int | None = None
    pcie_rx_bytes: int | None = None
    encoder_utilization: int | None = None
    decoder_utilization: int | None = None
    nvlink_kib: int | None = None
    nvlink_at_us: int = 0
    vgpu_licensed: bool | None = None


class Probe(mig.Hardware, Protocol):
    """One kind of hardware on a node; the MIG calls come from `mig.Hardware`."""

    def discover(self) -> Discovered:
        """Return the devices of the node and how they are wired."""

    def reading(self, gpu_uuid: str) -> Reading:
        """Return health and use of a GPU; a lost GPU is a reading, not an error."""

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """Return what has happened, at the latest after `timeout_s` with nothing."""

    def close(self) -> None:
        """Let go of the hardware; calls after it fail."""
