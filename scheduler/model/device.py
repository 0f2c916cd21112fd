"""Devices of a node: GPU models with their MIG tables, GPUs, NICs and other accelerators."""

from dataclasses import dataclass

WHOLE_GPU_MILLI = 1000
"""A whole GPU in milli-shares; shared GPUs are requested in this unit."""


@dataclass(frozen=True, slots=True)
class MigProfile:
    """One MIG partition shape of a GPU model.

    Attributes
    ----------
    name : str
        As users write it, for example ``"1g.10gb"``.
    profile_id : int
        GPU-instance profile id as NVML numbers it.
    compute : int
        Compute slices that one instance uses.
    memory_slices : int
        Memory slices that one instance uses: the width of its placement.
    starts : tuple of int
        Memory slices at which an instance may start.
    max_instances : int
        Instances that fit on one otherwise empty GPU.
    memory_mib : int
    """

    name: str
    profile_id: int
    compute: int
    memory_slices: int
    starts: tuple[int, ...]
    max_instances: int
    memory_mib: int

    def mask(self, start: int) -> int:
        """Return the memory slices that an instance at `start` occupies, as a bit mask."""
        return ((1 << self.memory_slices) - 1) << start


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A GPU product: memory, architecture and the MIG partitions that it can be cut into.

    Attributes
    ----------
    name : str
        What requests name, for example ``"H100-SXM5-80GB"``.
    memory_mib : int
    compute_slices : int
        MIG compute budget (7 on datacentre parts, 4 on A30-class); 0 without MIG.
    mig : tuple of MigProfile
        Empty when the model has no MIG.
    """

    name: str
    architecture: str
    memory_mib: int
    compute_slices: int = 0
    mig: tuple[MigProfile, ...] = ()

    def profile(self, name: str) -> MigProfile | None:
        """Return the MIG profile called `name`, or None."""
        return next((p for p in self.mig if p.name == name), None)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One physical GPU of a node.

    Attributes
    ----------
    index : int
        Position in the node; bit ``index`` of every GPU mask.
    numa : int
        NUMA node, -1 when unknown.
    pcie_switch, pcie_root : str
        Identity of the switch and the root complex above it; "" when unknown.
    fabric_id : str
        ``clusterUUID.cliqueId`` of a multi-node NVLink fabric, "" without one.
    mig_enabled : bool
        Only GPUs in MIG mode may be cut into partitions.
    shareable : bool
        May be given out in milli-shares (consumable capacity).
    """

    index: int
    model: GpuModel
    uuid: str = ""
    pci_bus_id: str = ""
    pcie_switch: str = ""
    pcie_root: str = ""
    numa: int = -1
    fabric_id: str = ""
    mig_enabled: bool = False
    shareable: bool = True

    @property
    def name(self) -> str:
        """Device name in ResourceSlices: a DNS label, unique in the node's pool."""
        return f"gpu-{self.index}"


@dataclass(frozen=True, slots=True)
class Nic:
    """One network interface (or RDMA function) of a node; `gbps` is gigabits per second of the line."""

    index: int
    name: str
    gbps: int
    pci_bus_id: str = ""
    pcie_switch: str = ""
    pcie_root: str = ""
    numa: int = -1
    rdma: bool = True


@dataclass(frozen=True, slots=True)
class Accelerator:
    """Another PCI accelerator (FPGA, TPU, ...), counted by `kind`."""

    index: int
    kind: str
    model: str
    pci_bus_id: str = ""
    numa: int = -1
