"""What is prepared on this node, as values: the contents of the checkpoint.

Device nodes and other facts of the moment are not recorded; they are derived anew whenever a CDI file is written,
because minor numbers may change with a reset or a boot.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from dra_driver import claim
from dra_driver.claim import ClaimUid


class Phase(enum.StrEnum):
    """How far the preparation of a claim has come."""

    STARTED = "PrepareStarted"  # the hardware may or may not be changed
    COMPLETED = "PrepareCompleted"


class Kind(enum.StrEnum):
    """What a device is."""

    GPU = "gpu"
    MIG = "mig"
    NIC = "nic"
    ACCELERATOR = "accelerator"


@dataclass(frozen=True, slots=True)
class Partition:
    """Place of a MIG device on its GPU, in memory slices."""

    profile: str
    profile_id: int
    start: int
    size: int

    def overlaps(self, other: "Partition") -> bool:
        """Tell whether two placements on one GPU share a memory slice."""
        return self.start < other.start + other.size and other.start < self.start + self.size


@dataclass(frozen=True, slots=True)
class TimeSlices:
    """Length of the turns on a GPU; 0 is the default."""

    interval: int


@dataclass(frozen=True, slots=True)
class Mps:
    """Settings of an MPS control daemon.

    Attributes
    ----------
    daemon : str
        Name of the daemon: the claim's UID, or the UUID of a shared GPU, whose claims have one daemon together.
    active_thread_percentage : int
        0 leaves the default.
    pinned_mib : int
        Limit of pinned memory on each device; 0 sets none.
    pinned_mib_of : tuple of (str, int)
        The same for single devices, by UUID.
    """

    daemon: str
    active_thread_percentage: int = 0
    pinned_mib: int = 0
    pinned_mib_of: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a prepared claim.

    Attributes
    ----------
    request : str
        With its subrequest, as in the allocation.
    gpu_uuid : str
        UUID of the physical GPU, for GPUs and MIG devices.
    uuid : str
        UUID of the device itself; that of a MIG device is known once it exists, and is "" before.
    pci_bus_id : str
        Identity of NICs and accelerators.
    milli : int
        Part of a shared GPU, in thousandths.
    mps : bool
        Served by the MPS control daemon of the claim.
    """

    kind: Kind
    request: str
    pool: str
    name: str
    gpu_uuid: str = ""
    uuid: str = ""
    pci_bus_id: str = ""
    share_id: str = ""
    milli: int = 1000
    admin_access: bool = False
    partition: Partition | None = None
    time_slices: TimeSlices | None = None
    mps: bool = False

    @property
    def base_request(self) -> str:
        """Name of the request without its subrequest."""
        return self.request.partition("/")[0]

    @property
    def key(self) -> str:
        """Name that is unique in the claim, also where one device is allocated several times."""
        return f"{self.name}-{self.share_id}" if self.share_id else self.name

    @property
    def lock(self) -> str:
        """What has to be locked while the device is changed: its GPU, as all partitions of one GPU go together."""
        return self.gpu_uuid or self.pci_bus_id or self.name

    def excludes(self, other: "Device") -> bool:
        """Tell whether the two cannot be held by two claims at a time."""
        if self.admin_access or other.admin_access:
            return False
        if self.gpu_uuid and self.gpu_uuid == other.gpu_uuid:
            if self.partition and other.partition:
                return self.partition.overlaps(other.partition)
            return not (self.share_id and other.share_id)
        return self.name == other.name and not (self.share_id and other.share_id)


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim that is prepared, or about to be.

    Attributes
    ----------
    devices : tuple of Device
        In the order of the allocation.
    ordered : bool
        CUDA is to see the GPUs in this order.
    metadata_generation : int
        Grows with every rewrite of the device metadata files.
    place : Place or None
        Of the claim's pod in its gang.
    rebuilt : bool
        Found after the loss of the checkpoint; the kubelet may not know that it is prepared.
    """

    namespace: str
    name: str
    uid: ClaimUid
    generation: int
    pod_claim_name: str
    phase: Phase
    devices: tuple[Device, ...]
    mps: Mps | None = None
    ordered: bool = True
    metadata_generation: int = 1
    rebuilt: bool = False
    place: claim.Place | None = None

    @property
    def reference(self) -> claim.Reference:
        """The claim as the kubelet names it."""
        return claim.Reference(self.namespace, self.name, self.uid)

    @property
    def requests(self) -> tuple[str, ...]:
        """Base names of its requests, each once, in order."""
        return tuple(dict.fromkeys(device.base_request for device in self.devices))

    @property
    def locks(self) -> tuple[str, ...]:
        """What to lock while its devices are changed, sorted, so that two claims never wait for each other."""
        return tuple(sorted({device.lock for device in self.devices}))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All claims of this node, by UID.

    Attributes
    ----------
    boot_id : str
        Boot of the node in which the hardware was found in order last.
    rebuilding : bool
        The file was lost and the claims of the API server are not all taken over yet.
    """

    boot_id: str = ""
    rebuilding: bool = False
    claims: Mapping[ClaimUid, Claim] = field(default_factory=dict)

    def having(self, entry: Claim) -> "Checkpoint":
        """Return it with an entry added or replaced."""
        return replace(self, claims={**self.claims, entry.uid: entry})

    def lacking(self, uid: ClaimUid) -> "Checkpoint":
        """Return it without a claim."""
        return replace(self, claims={known: entry for known, entry in self.claims.items() if known != uid})

    def conflicts(self, entry: Claim) -> Iterator[tuple[Device, Claim, Device]]:
        """Yield the devices of an entry that another claim holds, with that claim and the device that is in the way."""
        for other in self.claims.values():
            if other.uid == entry.uid:
                continue
            for mine in entry.devices:
                for theirs in other.devices:
                    if mine.excludes(theirs):
                        yield mine, other, theirs

    def taken_milli(self, gpu_uuid: str, without: ClaimUid) -> int:
        """Return how much of a shared GPU the other claims have, in thousandths."""
        return sum(
            held.milli
            for entry in self.claims.values()
            for held in entry.devices
            if entry.uid != without and held.gpu_uuid == gpu_uuid and held.share_id and not held.admin_access
        )
