"""One pod request compiled against a topology: numbers instead of names."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.model import device
from scheduler.model import request as requests
from scheduler.snapshot import admitted as admissions
from scheduler.snapshot import topology

MEDIA_BIT = device.MEDIA_BIT

ALL_GPUS = 0xFFFF_FFFF
"""For pods without GPUs every GPU suits."""


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What a pod asks for, ready for array arithmetic.

    Attributes
    ----------
    eligible : ndarray of uint32, shape (N,)
        GPUs of each node whose model (and MIG mode, and sharing) suits the request; all bits for CPU-only pods. Nothing on
        nodes that do not take the pod.
    partitions : tuple of (int, ...), one entry per node shape
        For MIG requests the slice masks at which an instance may be put, best start first; else ().
    admitted : Admitted or None
        Which nodes take the pod; None where all do.
    """

    request: requests.PodRequest
    kind: requests.RequestKind
    cpu_milli: int
    memory_mib: int
    gpus: int
    gpu_milli: int
    nics: int
    eligible: NDArray[np.uint32]
    partitions: tuple[tuple[int, ...], ...] = ()
    admitted: admissions.Admitted | None = None

    @property
    def total_gpu_milli(self) -> int:
        """Return the GPU milli of one pod, 0 for MIG and CPU-only pods."""
        return self.request.total_gpu_milli


def compile_demand(fleet: topology.Topology, pod: requests.PodRequest) -> Demand:
    """Compile `pod` for `fleet`; the caller caches it by request and generation."""
    compiled = [_compile(shape.machine.gpus, pod) for shape in fleet.shapes]
    eligible = np.array([mask for mask, _ in compiled], dtype=np.uint32)[fleet.shape]
    nodes: admissions.Admitted | None = admissions.admitted(fleet, pod.nodes)
    if nodes is not None and nodes.both.all():
        nodes = None
    return Demand(
        request=pod,
        kind=pod.kind,
        cpu_milli=pod.cpu_milli,
        memory_mib=pod.memory_mib,
        gpus=pod.gpus,
        gpu_milli=pod.gpu_milli,
        nics=pod.nics,
        eligible=eligible if nodes is None else np.where(nodes.both, eligible, np.uint32(0)),
        partitions=tuple(starts for _, starts in compiled) if pod.mig else (),
        admitted=nodes,
    )


def _compile(gpus: tuple[device.Gpu, ...], pod: requests.PodRequest) -> tuple[int, tuple[int, ...]]:
    """Return the mask of GPUs that the request accepts on a shape, and the slice masks of its MIG profile."""
    if pod.kind is requests.RequestKind.CPU:
        return ALL_GPUS, ()
    suitable = [gpu for gpu in gpus if not pod.gpu_models or gpu.model.name in pod.gpu_models]
    if pod.kind is requests.RequestKind.SHARE:
        suitable = [gpu for gpu in suitable if gpu.shareable and not gpu.mig_enabled]
    if pod.kind is not requests.RequestKind.MIG:
        return sum(1 << gpu.index for gpu in suitable), ()
    placements = {gpu.index: _placements(gpu, pod.mig) for gpu in suitable if gpu.mig_enabled}
    # One name can mean two shapes (1g.10gb of A100-40 and of A100-80): a node with both offers only its first kind.
    offered = next((masks for masks in placements.values() if masks), ())
    return sum(1 << index for index, masks in placements.items() if masks and masks == offered), offered


def _placements(gpu: device.Gpu, name: str) -> tuple[int, ...]:
    """Return the slice masks at which a GPU can hold a MIG profile, best start first."""
    profile = gpu.model.profile(name)
    return tuple(gpu.model.slices(profile, start) for start in profile.starts_best_first()) if profile else ()
