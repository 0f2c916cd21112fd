"""One pod request compiled against a topology: numbers instead of names."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.model import device
from scheduler.model import request as requests
from scheduler.snapshot import topology

MEDIA_BIT = 1 << 8
"""Bit beside the eight memory slices of a GPU: its one media engine, which ``+me`` and full-size profiles hold."""


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What a pod asks for, ready for array arithmetic.

    Attributes
    ----------
    eligible : ndarray of uint32, shape (N,)
        GPUs of each node whose model (and MIG mode, and sharing) suits the request; all bits for CPU-only pods.
    partitions : tuple of (int, ...), one entry per node shape
        For MIG requests the slice masks at which an instance may be put, best start first; else ().
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

    @property
    def total_gpu_milli(self) -> int:
        """Return the GPU milli of one pod, 0 for MIG and CPU-only pods."""
        return self.request.total_gpu_milli


def compile_demand(fleet: topology.Topology, pod: requests.PodRequest) -> Demand:
    """Compile `pod` for `fleet`; the caller caches it by request and generation."""
    per_shape = [_eligible(shape.machine.gpus, pod) for shape in fleet.shapes]
    partitions = tuple(_partition_masks(shape.machine.gpus, pod) for shape in fleet.shapes) if pod.mig else ()
    return Demand(
        request=pod,
        kind=pod.kind,
        cpu_milli=pod.cpu_milli,
        memory_mib=pod.memory_mib,
        gpus=pod.gpus,
        gpu_milli=pod.gpu_milli,
        nics=pod.nics,
        eligible=np.array(per_shape, dtype=np.uint32)[fleet.shape],
        partitions=partitions,
    )


def _eligible(gpus: tuple[device.Gpu, ...], pod: requests.PodRequest) -> int:
    """Return the mask of GPUs that the request accepts."""
    mask = 0
    for gpu in gpus:
        suits = not pod.gpu_models or gpu.model.name in pod.gpu_models
        if pod.kind is requests.RequestKind.MIG:
            suits = suits and gpu.mig_enabled and gpu.model.profile(pod.mig) is not None
        elif pod.kind is requests.RequestKind.SHARE:
            suits = suits and gpu.shareable and not gpu.mig_enabled
        mask |= suits << gpu.index
    return mask


def _partition_masks(gpus: tuple[device.Gpu, ...], pod: requests.PodRequest) -> tuple[int, ...]:
    """Return the slice masks of the profile, highest start first so that big shapes stay possible at start 0."""
    for gpu in gpus:
        profile = gpu.model.profile(pod.mig)
        if profile and gpu.mig_enabled:
            holds_media = profile.name.endswith("+me") or profile.compute == gpu.model.compute_slices
            media = MEDIA_BIT if holds_media else 0
            return tuple(profile.mask(start) | media for start in sorted(profile.starts, reverse=True))
    return ()
