"""MIG through the library: profiles with their placements, and instances made, listed and removed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pynvml  # type: ignore[import-untyped]

from dra_driver import mig
from scheduler.model import device

SKIPPED = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_INVALID_ARGUMENT)
MAX_PLACEMENTS = 64


def profiles(handle: Any) -> tuple[device.MigProfile, ...]:
    """Return the profiles of a GPU, small ones first; () where it has no MIG."""
    found = [profile for info in _infos(handle) if (profile := _profile(handle, info))]
    return tuple(sorted(found, key=lambda p: (p.compute, p.memory_slices, "+" in p.name, p.profile_id)))


def _infos(handle: Any) -> Iterator[Any]:
    for number in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        try:
            yield pynvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, number, version=2)
        except pynvml.NVMLError as error:
            if error.value not in SKIPPED:
                raise


def _profile(handle: Any, info: Any) -> device.MigProfile | None:
    name = info.name.decode() if isinstance(info.name, bytes) else str(info.name)
    places = _placements(handle, info.id)
    if not places:
        return None
    starts = tuple(sorted(start for start, _ in places))
    engines = device.Engines(
        info.multiprocessorCount,
        info.copyEngineCount,
        info.decoderCount,
        info.encoderCount,
        info.jpegCount,
        info.ofaCount,
    )
    return device.MigProfile(
        name.removeprefix("MIG "),
        info.id,
        info.sliceCount,
        places[0][1],
        starts,
        info.instanceCount,
        info.memorySizeMB,
        engines,
    )


def _placements(handle: Any, profile_id: int) -> list[tuple[int, int]]:
    count = ctypes.c_uint(0)
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(handle, profile_id, None, ctypes.byref(count))
    array = (pynvml.c_nvmlGpuInstancePlacement_t * min(count.value, MAX_PLACEMENTS))()
    count = ctypes.c_uint(len(array))
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(handle, profile_id, array, ctypes.byref(count))
    return [(row.start, row.size) for row in array[: count.value]]


def instances(handle: Any, gpu_uuid: str) -> Iterator[mig.Instance]:
    """Yield the GPU instances of a GPU; none where it is not in MIG mode."""
    for info in _infos(handle):
        for gi in _listed(pynvml.c_nvmlGpuInstance_t, info.instanceCount, pynvml.nvmlDeviceGetGpuInstances)(
            handle, info.id
        ):
            yield _instance(gi, gpu_uuid)


def _listed(kind: Any, size: int, call: Callable[..., Any]) -> Callable[[Any, int], list[Any]]:
    """Return a function that fills an array of handles."""

    def fill(owner: Any, profile_id: int) -> list[Any]:
        array, count = (kind * max(1, size))(), ctypes.c_uint(0)
        try:
            call(owner, profile_id, array, ctypes.byref(count))
        except pynvml.NVMLError as error:
            if error.value in SKIPPED:
                return []
            raise
        return list(array[: count.value])

    return fill


def _instance(gi: Any, gpu_uuid: str) -> mig.Instance:
    info = pynvml.nvmlGpuInstanceGetInfo(gi)
    found = mig.Instance(gpu_uuid, info.profileId, info.placement.start, info.placement.size, info.id)
    for ci in _compute_instances(gi):
        inner = pynvml.nvmlComputeInstanceGetInfo_v2(ci)
        return mig.Instance(
            gpu_uuid,
            found.profile_id,
            found.start,
            found.size,
            found.gpu_instance,
            inner.id,
            pynvml.nvmlDeviceGetUUID(inner.device),
        )
    return found


def _shapes(gi: Any) -> Iterator[Any]:
    for number in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        try:
            yield pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, number, 0, version=1)
        except pynvml.NVMLError as error:
            if error.value not in SKIPPED:
                raise


def _compute_instances(gi: Any) -> Iterator[Any]:
    for shape in _shapes(gi):
        call = pynvml.nvmlGpuInstanceGetComputeInstances
        yield from _listed(pynvml.c_nvmlComputeInstance_t, shape.instanceCount, call)(gi, shape.id)


def create_gpu_instance(handle: Any, gpu_uuid: str, profile_id: int, start: int) -> mig.Instance:
    """Make a GPU instance at a placement."""
    places = dict(_placements(handle, profile_id))
    if start not in places:
        raise mig.HardwareError(f"GPU {gpu_uuid}: profile {profile_id} cannot start at {start}, only at {list(places)}")
    place = pynvml.c_nvmlGpuInstancePlacement_t(start, places[start])
    gi = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(handle, profile_id, ctypes.byref(place))
    return _instance(gi, gpu_uuid)


def create_compute_instance(handle: Any, instance: mig.Instance) -> mig.Instance:
    """Make the compute instance with all slices of a GPU instance."""
    gi = pynvml.nvmlDeviceGetGpuInstanceById(handle, instance.gpu_instance)
    shape = max(_shapes(gi), key=lambda shape: int(shape.sliceCount))
    pynvml.nvmlGpuInstanceCreateComputeInstance(gi, shape.id)
    return _instance(gi, instance.gpu_uuid)


def destroy_compute_instance(handle: Any, instance: mig.Instance) -> None:
    """Remove all compute instances of a GPU instance."""
    gi = pynvml.nvmlDeviceGetGpuInstanceById(handle, instance.gpu_instance)
    for ci in list(_compute_instances(gi)):
        pynvml.nvmlComputeInstanceDestroy(ci)


def destroy_gpu_instance(handle: Any, instance: mig.Instance) -> None:
    """Remove a GPU instance without compute instances."""
    pynvml.nvmlGpuInstanceDestroy(pynvml.nvmlDeviceGetGpuInstanceById(handle, instance.gpu_instance))
