"""Devices of a node: GPU models with their MIG tables, GPUs, NICs and other accelerators."""

from dataclasses import dataclass

MEDIA_BIT = 1 << 8
"""Bit beside the eight memory slices of a GPU: its one media engine, which ``+me`` and full-size partitions hold."""

WHOLE_GPU_MILLI = 1000
"""A whole GPU in milli-shares; shared GPUs are requested in this unit."""


@dataclass(frozen=True, slots=True)
class Engines:
    """What a partition has of its GPU beside memory; all zero when unknown."""

    multiprocessors: int = 0
    copy: int = 0
    decoders: int = 0
    encoders: int = 0
    jpeg: int = 0
    ofa: int = 0


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
    engines: Engines = Engines()

    def mask(self, start: int) -> int:
        """Return the memory slices that an instance at `start` occupies, as a bit mask."""
        return ((1 << self.memory_slices) - 1) << start

    def starts_best_first(self) -> tuple[int, ...]:
        """Return the starts in the order that keeps the larger profiles possible longest.

        Notes
        -----
        Wide profiles go from the end of the GPU to its front. Single slices fill the pairs from the end to the front,
        each pair in ascending order (6, 4, 5, 2, 3, 0, 1): the third one still leaves a partition of four slices and
        two of two, whereas ascending order spoils 4g with the very first.
        """
        if self.memory_slices > 1:
            return tuple(sorted(self.starts, reverse=True))
        return tuple(sorted(self.starts, key=lambda start: (-(start // 2), start)))


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
    brand : str
        As NVIDIA's driver publishes it, for example ``"Tesla"``; "" when unknown.
    compute_capability : str
        Of CUDA, as strict semantic version, ``"9.0.0"``; "" when unknown.
    """

    name: str
    architecture: str
    memory_mib: int
    compute_slices: int = 0
    mig: tuple[MigProfile, ...] = ()
    brand: str = ""
    compute_capability: str = ""

    def profile(self, name: str) -> MigProfile | None:
        """Return the MIG profile called `name`, or None."""
        return next((p for p in self.mig if p.name == name), None)

    def slices(self, profile: MigProfile, start: int) -> int:
        """Return the memory slices that a partition occupies, with `MEDIA_BIT` where it holds the media engine."""
        holds_media = "+me" in profile.name or profile.compute == self.compute_slices
        return profile.mask(start) | (MEDIA_BIT if holds_media else 0)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One physical GPU of a node.

    Attributes
    ----------
    index : int
        Position in the node; bit ``index`` of every GPU mask.
    numa : int
        NUMA node, -1 when unknown.
    pci_bus_id : str
        ``dddd:bb:dd.f`` in lower case; "" when unknown.
    pcie_switch : str
        Path of the switches above it from the root downwards, joined by ``/``; "" without or unknown.
    pcie_root : str
        Host bridge, for example ``"pci0000:10"``; "" when unknown.
    fabric_id : str
        ``clusterUUID.cliqueId`` of a multi-node NVLink fabric, "" without one.
    mig_enabled : bool
        Only GPUs in MIG mode may be cut into partitions.
    shareable : bool
        May be given out in milli-shares (consumable capacity).
    device_name : str
        Name in ResourceSlices where it is not the one of `index`: that of another driver, or of a GPU that kept its name
        when those before it went away.
    addressing_mode : str
        ``HMM``, ``ATS`` or ``None``; "" when unknown.
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
    device_name: str = ""
    addressing_mode: str = ""

    @property
    def name(self) -> str:
        """Device name in ResourceSlices: a DNS label, unique in the node's pool."""
        return self.device_name or f"gpu-{self.index}"

    @property
    def divisible(self) -> bool:
        """Whether it is published for several allocations at a time; a GPU in MIG mode is cut into partitions instead."""
        return self.shareable and not self.mig_enabled

    def partition_name(self, profile: MigProfile, start: int) -> str:
        """Device name of the MIG partition that starts at a memory slice.

        Examples
        --------
        >>> profile = MigProfile("1g.10gb+me", 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 9984)
        >>> Gpu(3, GpuModel("H100", "Hopper", 81559, 7, (profile,))).partition_name(profile, 6)
        'gpu-3-mig-1g10gb-me-20-6'
        """
        slug = profile.name.replace(".", "").replace("+", "-")
        return f"{self.name}-mig-{slug}-{profile.profile_id}-{start}"


@dataclass(frozen=True, slots=True)
class Nic:
    """One network interface (or RDMA function) of a node.

    Attributes
    ----------
    name : str
        Name of the interface on the node, for example ``"mlx5_0"``.
    gbps : int
        Line rate in gigabits per second.
    rdma : bool
        Collectives can use it.
    kept_name : str
        Device name where it is not the one of `index`.
    """

    index: int
    name: str
    gbps: int
    pci_bus_id: str = ""
    pcie_switch: str = ""
    pcie_root: str = ""
    numa: int = -1
    rdma: bool = True
    kept_name: str = ""

    @property
    def device_name(self) -> str:
        """Device name in ResourceSlices, where interface names are no DNS labels."""
        return self.kept_name or f"nic-{self.index}"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """Another PCI accelerator (FPGA, TPU, ...), counted by `kind`; `kept_name` as for NICs."""

    index: int
    kind: str
    model: str
    pci_bus_id: str = ""
    pcie_switch: str = ""
    pcie_root: str = ""
    numa: int = -1
    kept_name: str = ""

    @property
    def device_name(self) -> str:
        """Device name in ResourceSlices."""
        return self.kept_name or f"accelerator-{self.index}"
