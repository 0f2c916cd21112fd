"""How much free GPU the target workload could not use: FGD's fragmentation, in exact integers.

F_n(m), the free GPU of node n that a pod like m can't use, is summed over the target weighted by integer counts rather
than probabilities, so that equal states have equal values on every machine and no rounding hides a difference.
Source: Weng et al., "Beware of Fragmentation", ATC'23, and its simulator's semantics.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.model import request
from scheduler.placement import target
from scheduler.snapshot import topology

Ints = NDArray[np.int64]

CHUNK = 1 << 21
"""Elements of the largest temporary."""


@dataclass(frozen=True, slots=True, eq=False)
class Fragmentation:
    """A target compiled for a fleet.

    Attributes
    ----------
    cpu, milli, gpus, count : ndarray of int64, shape (M,)
        Request of every target item and its pods. MIG items are left out: they have no milli-shares.
    access : ndarray of bool, shape (M, N)
        Whether the item can use the node's GPUs: it takes GPUs, and of this model.
    total : int
        Pods of all items: values are in milli-GPU times this number.
    """

    cpu: Ints
    milli: Ints
    gpus: Ints
    count: Ints
    access: NDArray[np.bool_]
    total: int

    def of(self, gpu_free: Ints, cpu_free: Ints, nodes: Ints) -> Ints:
        """Return the fragmentation of node states, milli-GPU times `total`.

        Parameters
        ----------
        gpu_free : ndarray of int64, shape (n, G)
        cpu_free, nodes : ndarray of int64, shape (n,)
            Node numbers say which target items may run there.
        """
        step = max(1, CHUNK // max(1, len(self.cpu) * gpu_free.shape[1]))
        if len(nodes) <= step:
            return self._of(gpu_free, cpu_free, nodes)
        values = np.zeros(len(nodes), dtype=np.int64)
        for low in range(0, len(nodes), step):
            part = slice(low, low + step)
            values[part] = self._of(gpu_free[part], cpu_free[part], nodes[part])
        return values

    def growth(self, gpu_free: Ints, cpu_free: Ints, gpu_after: Ints, cpu_after: Ints, nodes: Ints) -> Ints:
        """Return how much the fragmentation of nodes grows in each of some ways to change them.

        Parameters
        ----------
        gpu_free : ndarray of int64, shape (n, G)
        gpu_after : ndarray of int64, shape (n, W, G)
            The GPUs after each of W ways.
        cpu_free, cpu_after, nodes : ndarray of int64, shape (n,)

        Returns
        -------
        ndarray of int64, shape (n, W)
        """
        ways = gpu_after.shape[1] + 1
        states = np.concatenate([gpu_after, gpu_free[:, None, :]], axis=1).reshape(-1, gpu_free.shape[1])
        cpu = np.repeat(cpu_after, ways)
        cpu[ways - 1 :: ways] = cpu_free
        found = self.of(states, cpu, np.repeat(nodes, ways)).reshape(-1, ways)
        return found[:, :-1] - found[:, -1:]

    def _of(self, gpu_free: Ints, cpu_free: Ints, nodes: Ints) -> Ints:
        enough = gpu_free >= self.milli[:, None, None]
        slivers = (gpu_free * ~enough).sum(axis=2)
        fits = enough.sum(axis=2) >= self.gpus[:, None]
        fits &= self.access[:, nodes] & (self.cpu[:, None] <= cpu_free)
        wasted = np.where(fits, slivers, gpu_free.sum(axis=1))
        return np.asarray(self.count @ wasted)


def compile_fragmentation(fleet: topology.Topology, wanted: target.TargetWorkload) -> Fragmentation:
    """Compile a target workload for a fleet; items that differ only in gang size are added up."""
    counts: dict[request.PodRequest, int] = {}
    for item in wanted.items:
        if item.pod.kind is not request.RequestKind.MIG:
            counts[item.pod] = counts.get(item.pod, 0) + item.count
    pods = sorted(counts)
    models = np.array([m.gpus[0].model.name if m.gpus else "" for m in fleet.nodes])
    access = [np.isin(models, p.gpu_models) if p.gpu_models else np.full(len(models), p.gpus > 0) for p in pods]
    return Fragmentation(
        cpu=np.array([p.cpu_milli for p in pods], dtype=np.int64),
        milli=np.array([p.gpu_milli if p.gpus else 0 for p in pods], dtype=np.int64),
        gpus=np.array([p.gpus for p in pods], dtype=np.int64),
        count=np.array([counts[p] for p in pods], dtype=np.int64),
        access=np.array(access, dtype=np.bool_).reshape(len(pods), len(models)),
        total=sum(counts.values()),
    )


def states_after(gpu_free: Ints, milli: int, gpus: int) -> Ints:
    """Return the GPUs of every node after a pod took its whole GPUs, lowest index first.

    Parameters
    ----------
    gpu_free : ndarray of int64, shape (n, G)

    Returns
    -------
    ndarray of int64, shape (n, G)
        Unchanged for pods without GPUs; nodes with too few free GPUs lose those that they have.
    """
    if not gpus:
        return gpu_free
    free = gpu_free == milli
    taken = free & (np.cumsum(free, axis=1) <= gpus)
    return np.where(taken, 0, gpu_free)


def states_after_share(gpu_free: Ints, milli: int) -> Ints:
    """Return the GPUs of every node after a shared pod took each of its GPUs in turn, shape (n, G, G)."""
    width = gpu_free.shape[1]
    return gpu_free[:, None, :] - milli * np.eye(width, dtype=np.int64)[None, :, :]
