"""What is free now: the fleet's occupancy as a handful of integer arrays.

Only this file changes those arrays. Every change is a `Grant` that is taken or given back, so that taking and giving
back is the identity, and every change stamps its node with a new version, so that caches re-read only what moved.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.model import device
from scheduler.snapshot import topology

FULL = device.WHOLE_GPU_MILLI


class InvariantError(AssertionError):
    """The occupancy contradicts itself: a defect of this program, never of its input."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What one pod holds on one node.

    Attributes
    ----------
    node : int
        Row of the node.
    mask : int
        GPUs touched, one bit each: whole ones, the one shared GPU, or the GPUs that carry the partitions.
    milli : int
        Milli-shares taken of each GPU in `mask`; 0 for partitions.
    partitions : tuple of (int, int)
        ``(GPU, slice mask)`` of every MIG partition.
    order : tuple of int
        The GPUs in rank order inside the pod (best ring first); () means ascending.
    nic_mask : int
        NICs held, one bit each.
    pods : int
        Pod slots: 1, or 0 for what is held beside a pod that is counted elsewhere.
    """

    node: int
    mask: int = 0
    milli: int = 0
    cpu_milli: int = 0
    memory_mib: int = 0
    partitions: tuple[tuple[int, int], ...] = ()
    order: tuple[int, ...] = ()
    nic_mask: int = 0
    accelerators: tuple[tuple[str, int], ...] = ()
    pods: int = 1

    @property
    def gpus(self) -> tuple[int, ...]:
        """Return the GPU indices in their order."""
        return self.order or tuple(i for i in range(self.mask.bit_length()) if self.mask >> i & 1)


@dataclass(slots=True, eq=False)
class Snapshot:
    """Occupancy of a fleet.

    Attributes
    ----------
    gpu_free : ndarray of int32, shape (N, G)
        Milli-shares left on each GPU; 0 for missing, failed and partitioned GPUs.
    free_mask : ndarray of uint32, shape (N,)
        GPUs wholly free and usable. Invariant: bit g is set exactly when ``gpu_free[n, g] == 1000`` and the node is up.
    slices_used : ndarray of uint16, shape (N, G)
        MIG memory slices (and media engine) in use.
    cpu_free, memory_free, pods_free : ndarray of int64, shape (N,)
    nic_mask : ndarray of uint32, shape (N,)
        Free NICs.
    up : ndarray of bool, shape (N,)
        False for cordoned and failed nodes: nothing new is placed there.
    failed_gpus : ndarray of uint32, shape (N,)
    tags : ndarray of int16, shape (N, 18)
        Pods hosted by kind: column 0 shares, column k the pods with k whole GPUs (17: partitions).
    free_in : ndarray of int32, shape (V,)
        Wholly free GPUs of every domain, kept up to date by take and release.
    changed : ndarray of int64, shape (N,)
        Version at which each node last changed.
    version : int
        Counts the changes.
    """

    topology: topology.Topology
    gpu_free: NDArray[np.int32]
    free_mask: NDArray[np.uint32]
    slices_used: NDArray[np.uint16]
    cpu_free: NDArray[np.int64]
    memory_free: NDArray[np.int64]
    pods_free: NDArray[np.int64]
    nic_mask: NDArray[np.uint32]
    accelerators_free: dict[str, NDArray[np.int64]]
    up: NDArray[np.bool_]
    failed_gpus: NDArray[np.uint32]
    tags: NDArray[np.int16]
    free_in: NDArray[np.int32]
    changed: NDArray[np.int64]
    version: int = 0

    def copy(self) -> "Snapshot":
        """Return an independent copy; the topology is shared."""
        return Snapshot(
            self.topology,
            self.gpu_free.copy(),
            self.free_mask.copy(),
            self.slices_used.copy(),
            self.cpu_free.copy(),
            self.memory_free.copy(),
            self.pods_free.copy(),
            self.nic_mask.copy(),
            {kind: free.copy() for kind, free in self.accelerators_free.items()},
            self.up.copy(),
            self.failed_gpus.copy(),
            self.tags.copy(),
            self.free_in.copy(),
            self.changed.copy(),
            self.version,
        )

    @property
    def free_gpus(self) -> int:
        """Return the number of wholly free GPUs."""
        return int(self.free_in[0])

    def take(self, grant: Grant) -> None:
        """Give the resources of `grant` to a pod.

        Raises
        ------
        InvariantError
            Something in the grant is not free; the snapshot is unchanged then.
        """
        self._check_free(grant)
        self._apply(grant, -1)

    def hold(self, grant: Grant) -> None:
        """Take a grant also on a node that is down: what runs there holds what it holds.

        Raises
        ------
        InvariantError
            Something in the grant is not free; the occupancy is unchanged then.
        """
        if self.up[grant.node]:
            self.take(grant)
            return
        self.set_up(grant.node, True)
        try:
            self.take(grant)
        finally:
            self.set_up(grant.node, False)

    def release(self, grant: Grant) -> None:
        """Give back exactly what `take` took.

        Raises
        ------
        InvariantError
            The grant was not held; the snapshot is unchanged then.
        """
        self._check_held(grant)
        self._apply(grant, +1)

    def set_up(self, node: int, up: bool) -> None:
        """Cordon a node or bring it back; what runs there keeps what it holds."""
        self.up[node] = up
        self._refresh(node)

    def set_gpu_failed(self, node: int, gpu: int, failed: bool) -> None:
        """Mark a GPU failed or repaired. It must be empty: its pods are evicted first.

        Raises
        ------
        InvariantError
            A pod still holds part of the GPU.
        """
        bit = 1 << gpu
        was_failed = bool(int(self.failed_gpus[node]) & bit)
        if failed == was_failed:
            return
        if failed and (self.gpu_free[node, gpu] != FULL or self.slices_used[node, gpu]):
            raise InvariantError(f"GPU {gpu} of {self.topology.nodes[node].name} fails while a pod holds it")
        self.gpu_free[node, gpu] = 0 if failed else FULL
        self.failed_gpus[node] = int(self.failed_gpus[node]) ^ bit
        self._refresh(node)

    def _check_free(self, grant: Grant) -> None:
        n = grant.node
        whole = grant.milli == FULL
        free = (
            self.cpu_free[n] >= grant.cpu_milli
            and self.memory_free[n] >= grant.memory_mib
            and self.pods_free[n] >= grant.pods
            and grant.nic_mask & ~int(self.nic_mask[n]) == 0
            and all(self._accelerators(kind, n) >= count for kind, count in grant.accelerators)
            and (not whole or grant.mask & ~int(self.free_mask[n]) == 0)
            and (whole or not grant.milli or all(self.gpu_free[n, g] >= grant.milli for g in grant.gpus))
            and self._partitions_free(grant)
        )
        if not free or not self.up[n]:
            raise InvariantError(f"{grant} is not free on {self.topology.nodes[n].name}")

    def _partitions_free(self, grant: Grant) -> bool:
        """Tell whether every partition finds its slices free on a GPU that holds nothing but partitions."""
        used: dict[int, int] = {}
        for gpu, slices in grant.partitions:
            before = used.setdefault(gpu, int(self.slices_used[grant.node, gpu]))
            if before & slices or (not before and self.gpu_free[grant.node, gpu] != FULL):
                return False
            used[gpu] = before | slices
        return True

    def _accelerators(self, kind: str, n: int) -> int:
        """Return the free accelerators of a kind; 0 for kinds that the fleet does not have."""
        return int(self.accelerators_free[kind][n]) if kind in self.accelerators_free else 0

    def _check_held(self, grant: Grant) -> None:
        n = grant.node
        machine = self.topology.nodes[n]
        held = (
            self.cpu_free[n] + grant.cpu_milli <= machine.cpu_milli
            and self.memory_free[n] + grant.memory_mib <= machine.memory_mib
            and self.pods_free[n] + grant.pods <= machine.max_pods
            and grant.nic_mask & int(self.nic_mask[n]) == 0
            and grant.nic_mask >> len(machine.nics) == 0
            and all(
                self._accelerators(kind, n) + count <= self._all_accelerators(kind, n)
                for kind, count in grant.accelerators
            )
            and (not grant.milli or all(self._shares_held(n, g) >= grant.milli for g in grant.gpus))
            and all(int(self.slices_used[n, gpu]) & slices == slices for gpu, slices in grant.partitions)
        )
        if not held:
            raise InvariantError(f"{grant} is not held on {machine.name}")

    def _all_accelerators(self, kind: str, n: int) -> int:
        """Return how many accelerators of a kind a node has."""
        return sum(a.kind == kind for a in self.topology.nodes[n].accelerators)

    def _shares_held(self, n: int, gpu: int) -> int:
        """Return the milli-shares that pods hold of a GPU: none of a missing, failed or partitioned one."""
        exists = gpu < self.topology.gpus[n] and not int(self.failed_gpus[n]) >> gpu & 1
        return FULL - int(self.gpu_free[n, gpu]) if exists and not self.slices_used[n, gpu] else 0

    def _apply(self, grant: Grant, sign: int) -> None:
        """Add (+1) or subtract (-1) a grant."""
        n = grant.node
        self.cpu_free[n] += sign * grant.cpu_milli
        self.memory_free[n] += sign * grant.memory_mib
        self.pods_free[n] += sign * grant.pods
        if grant.nic_mask:
            self.nic_mask[n] ^= np.uint32(grant.nic_mask)
        for kind, count in grant.accelerators:
            self.accelerators_free[kind][n] += sign * count
        if grant.milli:
            for g in grant.gpus:
                self.gpu_free[n, g] += sign * grant.milli
        for gpu, slices in grant.partitions:
            self.slices_used[n, gpu] ^= np.uint16(slices)
            self.gpu_free[n, gpu] = 0 if self.slices_used[n, gpu] else FULL
        tag = _tag(grant)
        if tag >= 0:
            self.tags[n, tag] -= sign
        self._refresh(n)

    def _refresh(self, n: int) -> None:
        """Bring the node's mask, its domains' counts and its version up to date."""
        mask = 0
        if self.up[n]:
            for g, free in enumerate(self.gpu_free[n].tolist()):
                mask |= (free == FULL) << g
        difference = mask.bit_count() - int(self.free_mask[n]).bit_count()
        self.free_mask[n] = mask
        if difference:
            parent = self.topology.tree.parent
            vertex = int(self.topology.tree.vertex[n])
            while vertex >= 0:
                self.free_in[vertex] += difference
                vertex = int(parent[vertex])
        self.version += 1
        self.changed[n] = self.version


TAG_COLUMNS = 18
TAG_PARTITION = 17


def _tag(grant: Grant) -> int:
    """Return the column of `Snapshot.tags` for a grant, -1 for CPU-only pods."""
    if grant.partitions:
        return TAG_PARTITION
    if not grant.mask:
        return -1
    return grant.mask.bit_count() if grant.milli == FULL else 0


def empty(fleet: topology.Topology) -> Snapshot:
    """Return the snapshot in which everything is free and up."""
    nodes, width = len(fleet.nodes), fleet.width
    gpu_free = np.where(np.arange(width)[None, :] < fleet.gpus[:, None], FULL, 0).astype(np.int32)
    return Snapshot(
        topology=fleet,
        gpu_free=gpu_free,
        free_mask=fleet.all_gpus.copy(),
        slices_used=np.zeros((nodes, width), dtype=np.uint16),
        cpu_free=fleet.cpu_milli.copy(),
        memory_free=fleet.memory_mib.copy(),
        pods_free=fleet.max_pods.copy(),
        nic_mask=((np.uint64(1) << fleet.nics.astype(np.uint64)) - np.uint64(1)).astype(np.uint32),
        accelerators_free={kind: count.copy() for kind, count in fleet.accelerators.items()},
        up=np.ones(nodes, dtype=np.bool_),
        failed_gpus=np.zeros(nodes, dtype=np.uint32),
        tags=np.zeros((nodes, TAG_COLUMNS), dtype=np.int16),
        free_in=fleet.tree.sums(fleet.gpus.astype(np.int64)).astype(np.int32),
        changed=np.zeros(nodes, dtype=np.int64),
    )


def compare(one: Snapshot, other: Snapshot) -> None:
    """Check that two snapshots of one topology say the same; versions may differ.

    Raises
    ------
    InvariantError
        Names the first array and node that differ.
    """
    for name in _ARRAYS:
        mine, theirs = getattr(one, name), getattr(other, name)
        if not np.array_equal(mine, theirs):
            row = int(np.argwhere(mine != theirs)[0][0])
            raise InvariantError(f"{name}[{row}] is {mine[row]}, the gangs' grants make it {theirs[row]}")
    for kind, free in one.accelerators_free.items():
        if not np.array_equal(free, other.accelerators_free[kind]):
            raise InvariantError(f"free {kind} accelerators are not what the gangs' grants leave")


_ARRAYS = (
    "gpu_free",
    "free_mask",
    "slices_used",
    "cpu_free",
    "memory_free",
    "pods_free",
    "nic_mask",
    "up",
    "failed_gpus",
    "tags",
    "free_in",
)
