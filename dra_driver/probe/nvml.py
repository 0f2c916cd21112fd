"""NVIDIA GPUs through nvidia-ml-py: discovery, MIG, events and readings."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pynvml  # type: ignore[import-untyped]

from dra_driver import mig
from dra_driver.probe import calls, discovery, gpus, interface, links, news, roots
from dra_driver.probe import mig as mig_calls

T = TypeVar("T")

ALL_LINKS = 0xFFFFFFFF
"""The scope of a field that is the sum over all NVLinks."""

LOST = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_NOT_FOUND)
"""The second after the driver was loaded anew without the GPU."""


FIELDS = (
    (pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, 0),
    (pynvml.NVML_FI_DEV_MEMORY_TEMP, 0),
    (pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, 0),
    (pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 0),
    (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, ALL_LINKS),
    (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, ALL_LINKS),
)
"""With their scopes, in the order in which a reading takes them."""


class NvmlProbe:
    """The GPUs of a node. Keeps one session with the library; may be used from several threads."""

    def __init__(self, root: roots.Root, node_name: str, library: Path | None = None) -> None:
        """Open the session.

        Parameters
        ----------
        library : Path or None
            The library, where the loader does not find it by its name.
        """
        self._root, self._name, self._news = root, node_name, news.News()
        if library is not None:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        try:
            pynvml.nvmlInitWithFlags(pynvml.NVML_INIT_FLAG_NO_GPUS)
        except pynvml.NVMLError as error:
            # No session has ended, there was none; but a library stays in its process, whichever the kernel's driver is.
            mapped = error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
            kind = interface.SessionEnded if mapped else mig.HardwareError
            raise kind(f"NVML: nvmlInit: {error}") from error

    def close(self) -> None:
        """End the session."""
        with calls.told("NVML", "nvmlShutdown"):
            self._news.close()
            pynvml.nvmlShutdown()

    def discover(self) -> interface.Discovered:
        """Return the GPUs that answer; each that does not is a sentence among the problems."""
        with calls.told("NVML", "discovery"):
            count, release = pynvml.nvmlDeviceGetCount(), calls.text(pynvml.nvmlSystemGetDriverVersion())
            cuda = discovery.cuda_semver(pynvml.nvmlSystemGetCudaDriverVersion())
        seen = gpus.Survey()
        for number in range(count):
            seen.look(self._root, number)
        seen.agree()
        self._news.here(gpu.uuid for gpu in seen.gpus)
        nvlinks, switches = seen.nvlinks()
        found = discovery.assemble(self._root, self._name, tuple(seen.gpus), nvlinks, switches)
        return replace(
            found,
            topology=replace(found.topology, driver_version=discovery.semver(release), cuda_version=cuda),
            driver_release=release,
            gpus=seen.facts,
            unlinked=tuple(sorted(seen.unlinked)),
            problems=(*seen.problems, *found.problems),
        )

    def reading(self, gpu_uuid: str) -> interface.Reading:
        """Ask a GPU for everything; what it does not tell is None."""
        failing: dict[str, str] = {}
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(gpu_uuid)
            return replace(_reading(handle, gpu_uuid, failing), failing=failing)
        except pynvml.NVMLError as error:
            if error.value in LOST:
                return interface.Reading(gpu_uuid, lost=True)
            raise calls.ours(f"GPU {gpu_uuid}", "nvmlDeviceGetHandleByUUID", error) from error

    def wait(self, timeout_s: float) -> Sequence[interface.Event]:
        """Wait for the first event, then take all that are there."""
        with calls.told("NVML", "nvmlEventSetWait"):
            return self._news.wait(timeout_s)

    def instances(self, gpu_uuid: str) -> Sequence[mig.Instance]:
        """Return all GPU instances of a GPU."""
        with calls.told(f"GPU {gpu_uuid}", "list MIG instances"):
            return list(mig_calls.instances(pynvml.nvmlDeviceGetHandleByUUID(gpu_uuid), gpu_uuid))

    def create_gpu_instance(self, gpu_uuid: str, profile_id: int, start: int) -> mig.Instance:
        """Make a GPU instance at a placement."""
        with calls.told(f"GPU {gpu_uuid}", f"create GPU instance of profile {profile_id} at {start}"):
            handle = pynvml.nvmlDeviceGetHandleByUUID(gpu_uuid)
            return mig_calls.create_gpu_instance(handle, gpu_uuid, profile_id, start)

    def create_compute_instance(self, instance: mig.Instance) -> mig.Instance:
        """Make the compute instance that fills a GPU instance."""
        return self._on(instance, "create compute instance", mig_calls.create_compute_instance)

    def destroy_compute_instance(self, instance: mig.Instance) -> None:
        """Remove the compute instance."""
        self._on(instance, "destroy compute instance", mig_calls.destroy_compute_instance)

    def destroy_gpu_instance(self, instance: mig.Instance) -> None:
        """Remove a GPU instance without a compute instance."""
        self._on(instance, "destroy GPU instance", mig_calls.destroy_gpu_instance)

    def _on(self, instance: mig.Instance, what: str, call: Callable[[Any, mig.Instance], T]) -> T:
        with calls.told(f"GPU {instance.gpu_uuid}", f"{what} {instance.gpu_instance}"):
            return call(pynvml.nvmlDeviceGetHandleByUUID(instance.gpu_uuid), instance)


def _reading(handle: Any, uuid: str, failing: dict[str, str]) -> interface.Reading:
    def ask(name: str, *arguments: Any) -> Any:
        try:
            return getattr(pynvml, name)(handle, *arguments)
        except pynvml.NVMLError as error:
            if error.value in (pynvml.NVML_ERROR_GPU_IS_LOST, *calls.ENDED):
                raise
            if error.value not in calls.UNTOLD:
                failing[name] = str(error)
            return None

    remap = ask("nvmlDeviceGetRemappedRows") or (None,) * 4
    memory, use = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetUtilizationRates")
    retired = ask("nvmlDeviceGetRetiredPagesPendingStatus")
    fields = ask("nvmlDeviceGetFieldValues", list(FIELDS)) or ()
    told = {f.fieldId: f.value for f in fields if f.nvmlReturn == pynvml.NVML_SUCCESS}
    recovery, hot, sent, received, out, into = (told.get(number) for number, _ in FIELDS)
    linked_at = max((f.timestamp for f in fields if f.scopeId == ALL_LINKS), default=0)
    fabric = pynvml.c_nvmlGpuFabricInfo_v3_t()
    known = ask("nvmlDeviceGetGpuFabricInfoV", ctypes.byref(fabric)) == pynvml.NVML_SUCCESS
    return interface.Reading(
        uuid,
        ecc_corrected=ask("nvmlDeviceGetTotalEccErrors", 0, 0),
        ecc_uncorrected=ask("nvmlDeviceGetTotalEccErrors", 1, 0),
        remap_corrected=remap[0],
        remap_uncorrected=remap[1],
        remap_pending=None if remap[2] is None else bool(remap[2]),
        remap_failed=None if remap[3] is None else bool(remap[3]),
        retired_pages_pending=None if retired is None else bool(retired),
        recovery_action=int(recovery.uiVal) if recovery else None,
        links_down=_links_down(handle),
        fabric_state=int(fabric.state) if known else None,
        fabric_status=int(fabric.status) if known else None,
        fabric_health=int(fabric.healthSummary) if known else None,
        fabric_mask=int(fabric.healthMask) if known else None,
        clock_reasons=ask("nvmlDeviceGetCurrentClocksEventReasons"),
        memory_total=int(memory.total) if memory else None,
        memory_used=int(memory.used) if memory else None,
        utilization=int(use.gpu) if use else None,
        memory_utilization=int(use.memory) if use else None,
        power_mw=ask("nvmlDeviceGetPowerUsage"),
        temperature=ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
        processes=tuple(_process(row) for row in ask("nvmlDeviceGetComputeRunningProcesses") or ()),
        parts=tuple(_parts(handle, ask("nvmlDeviceGetMaxMigDeviceCount") or 0)),
        sm_mhz=ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM),
        memory_mhz=ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM),
        memory_temperature=int(hot.uiVal) if hot else None,
        energy_mj=ask("nvmlDeviceGetTotalEnergyConsumption"),
        pcie_replays=ask("nvmlDeviceGetPcieReplayCounter"),
        pcie_tx=ask("nvmlDeviceGetPcieThroughput", pynvml.NVML_PCIE_UTIL_TX_BYTES),
        pcie_rx=ask("nvmlDeviceGetPcieThroughput", pynvml.NVML_PCIE_UTIL_RX_BYTES),
        pcie_tx_bytes=int(sent.ullVal) if sent else None,
        pcie_rx_bytes=int(received.ullVal) if received else None,
        encoder_utilization=(ask("nvmlDeviceGetEncoderUtilization") or (None,))[0],
        decoder_utilization=(ask("nvmlDeviceGetDecoderUtilization") or (None,))[0],
        nvlink_kib=int(out.ullVal) + int(into.ullVal) if out and into else None,
        nvlink_at_us=int(linked_at) or time.time_ns() // 1000,
        vgpu_licensed=_licensed(ask("nvmlDeviceGetGridLicensableFeatures")),
    )


def _licensed(found: Any) -> bool | None:
    """Return whether a vGPU is licensed, as DCGM finds it: not, where the system asks for no licences."""
    if found is None:
        return None
    if not found.isGridLicenseSupported:
        return False
    rows = found.gridLicensableFeatures[: found.licensableFeaturesCount]
    code = pynvml.NVML_GRID_LICENSE_FEATURE_CODE_VGPU
    return next((bool(row.featureState) for row in rows if row.featureCode == code), None)


def _links_down(handle: Any) -> tuple[int, ...]:
    """Return the NVLinks that a GPU has and that are not active."""
    down = []
    for number in range(links.MAX_LINKS):
        state = calls.asked(lambda n=number: pynvml.nvmlDeviceGetNvLinkState(handle, n), None)  # type: ignore[misc]
        if state is None:
            break
        if not state:
            down.append(number)
    return tuple(down)


def _parts(handle: Any, count: int) -> Iterator[tuple[int, int, int]]:
    """Yield GPU instance, bytes used and bytes in all of each MIG device, which its own handle tells."""
    for index in range(count):
        with contextlib.suppress(pynvml.NVMLError_NotFound, pynvml.NVMLError_NotSupported):
            part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(part)
            yield int(pynvml.nvmlDeviceGetGpuInstanceId(part)), int(memory.used), int(memory.total)


def _process(row: Any) -> tuple[int, int, int]:
    instance = row.gpuInstanceId if row.gpuInstanceId not in (None, news.WHOLE) else -1
    return int(row.pid), int(row.usedGpuMemory or 0), int(instance)
