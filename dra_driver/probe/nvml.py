"""NVIDIA GPUs through nvidia-ml-py: discovery, MIG, events and readings."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pynvml  # type: ignore[import-untyped]

from dra_driver import mig
from dra_driver.probe import discovery, interface, links, roots, sysfs
from dra_driver.probe import mig as mig_calls
from scheduler.model import device, gpu_models

T = TypeVar("T")

ARCHITECTURES = {2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada Lovelace",
                 9: "Hopper", 10: "Blackwell", 13: "Rubin"}  # fmt: skip
BRANDS = {1: "Quadro", 2: "Tesla", 3: "NVS", 4: "Grid", 5: "GeForce", 6: "Titan", 12: "QuadroRTX", 13: "NvidiaRTX",
          14: "Nvidia", 15: "GeForceRTX", 16: "TitanRTX"}  # fmt: skip
ADDRESSING = {0: "None", 1: "HMM", 2: "ATS"}
EVENTS = {1: "ecc-single-bit", 2: "ecc-double-bit", 8: "xid", 0x100: "mig-config", 0x200: "ecc-storm",
          0x400: "row-retirement", 0x800: "row-retirement-failure", 0x1000: "poison", 0x2000: "fatal-poison",
          0x4000: "unavailable", 0x8000: "recovery-action"}  # fmt: skip
UNTOLD = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_NO_PERMISSION)
"""A GPU that does not tell something is no failure."""
LOST = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_NOT_FOUND)
"""The second after the driver was loaded anew without the GPU."""
FABRIC_COMPLETED = 3
WHOLE = 0xFFFFFFFF


class NvmlProbe:
    """The GPUs of a node. Keeps one session with the library; may be used from several threads."""

    def __init__(self, root: roots.Root, node_name: str, library: Path | None = None) -> None:
        """Open the session.

        Parameters
        ----------
        library : Path or None
            The library, where the loader does not find it by its name.
        """
        self._root, self._name, self._lock, self._events = root, node_name, threading.Lock(), None
        self._uuids: dict[int, str] = {}
        if library is not None:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        with _told("NVML", "nvmlInit"):
            pynvml.nvmlInitWithFlags(pynvml.NVML_INIT_FLAG_NO_GPUS)

    def close(self) -> None:
        """End the session."""
        with _told("NVML", "nvmlShutdown"):
            if self._events is not None:
                pynvml.nvmlEventSetFree(self._events)
            pynvml.nvmlShutdown()

    def discover(self) -> interface.Discovered:
        """Return the GPUs that answer; each that does not is a sentence among the problems."""
        problems: list[str] = []
        gpus: list[device.Gpu] = []
        handles: list[Any] = []
        with _told("NVML", "discovery"):
            count, release = pynvml.nvmlDeviceGetCount(), _text(pynvml.nvmlSystemGetDriverVersion())
            cuda = discovery.cuda_semver(pynvml.nvmlSystemGetCudaDriverVersion())
        for index in range(count):
            try:
                with _told(f"GPU {index}", "discovery"):
                    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                    gpus.append(_gpu(self._root, handle, len(gpus), f"gpu-{index}"))
                    handles.append(handle)
            except mig.HardwareError as error:
                problems.append(str(error))
        with _told("NVML", "discovery of NVLinks"):
            ends = {gpu.index: tuple(_ends(handles[gpu.index])) for gpu in gpus}
            addresses = {gpu.pci_bus_id: gpu.index for gpu in gpus}
            nvlinks = links.joined(ends, addresses, _reach(handles))
            facts = {gpu.uuid: _facts(handle, gpu) for gpu, handle in zip(gpus, handles, strict=True)}
        # The switches of a rack's fabric sit in other trays.
        switches = 0 if any(gpu.fabric_id for gpu in gpus) else links.switches(ends)
        topology = discovery.assemble(self._root, self._name, tuple(gpus), nvlinks, switches)
        return interface.Discovered(
            topology,
            discovery.semver(release),
            release,
            cuda,
            facts,
            {nic.name: sysfs.nic_facts(self._root, nic) for nic in topology.nics},
            tuple(sysfs.nvmes(self._root)),
            tuple(problems),
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
            raise mig.HardwareError(f"GPU {gpu_uuid}: nvmlDeviceGetHandleByUUID: {error}") from error

    def wait(self, timeout_s: float) -> Sequence[interface.Event]:
        """Wait for the first event, then take all that are there."""
        with _told("NVML", "nvmlEventSetWait"):
            found: list[interface.Event] = []
            until = time.monotonic() + timeout_s
            events = self._event_set()
            while True:
                left = 0 if found else max(0, int((until - time.monotonic()) * 1000))
                try:
                    data = pynvml.nvmlEventSetWait_v2(events, left)
                except pynvml.NVMLError as error:
                    if error.value == pynvml.NVML_ERROR_TIMEOUT:
                        return found
                    raise
                found.append(self._event(data))

    def _event_set(self) -> Any:
        with self._lock:
            if self._events is None:
                events = pynvml.nvmlEventSetCreate()
                for index in range(pynvml.nvmlDeviceGetCount()):
                    with contextlib.suppress(pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_NotSupported):
                        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                        self._uuids[_key(handle)] = _text(pynvml.nvmlDeviceGetUUID(handle))
                        wanted = sum(EVENTS) & pynvml.nvmlDeviceGetSupportedEventTypes(handle)
                        pynvml.nvmlDeviceRegisterEvents(handle, wanted, events)
                self._events = events
            return self._events

    def _event(self, data: Any) -> interface.Event:
        kind = EVENTS.get(data.eventType, f"event-{data.eventType}")
        instance = -1 if data.gpuInstanceId == WHOLE else int(data.gpuInstanceId)
        return interface.Event(self._uuids.get(_key(data.device), ""), kind, int(data.eventData), instance)

    def instances(self, gpu_uuid: str) -> Sequence[mig.Instance]:
        """Return all GPU instances of a GPU."""
        with _told(f"GPU {gpu_uuid}", "list MIG instances"):
            return list(mig_calls.instances(pynvml.nvmlDeviceGetHandleByUUID(gpu_uuid), gpu_uuid))

    def create_gpu_instance(self, gpu_uuid: str, profile_id: int, start: int) -> mig.Instance:
        """Make a GPU instance at a placement."""
        with _told(f"GPU {gpu_uuid}", f"create GPU instance of profile {profile_id} at {start}"):
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
        with _told(f"GPU {instance.gpu_uuid}", f"{what} {instance.gpu_instance}"):
            return call(pynvml.nvmlDeviceGetHandleByUUID(instance.gpu_uuid), instance)

    def set_mig(self, gpu_uuid: str, enabled: bool) -> bool:
        """Change the MIG mode; return whether it holds at once."""
        with _told(f"GPU {gpu_uuid}", "nvmlDeviceSetMigMode"):
            handle = pynvml.nvmlDeviceGetHandleByUUID(gpu_uuid)
            pynvml.nvmlDeviceSetMigMode(handle, int(enabled))
            current, _ = pynvml.nvmlDeviceGetMigMode(handle)
            return bool(current) == enabled


@contextlib.contextmanager
def _told(device_name: str, call: str) -> Iterator[None]:
    """Turn errors of the library into ours."""
    try:
        yield
    except pynvml.NVMLError as error:
        raise mig.HardwareError(f"{device_name}: {call}: {error}") from error


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _key(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _asked(call: Callable[[], T], default: T) -> T:
    """Return what the GPU tells, or a default where it does not tell such things."""
    try:
        return call()
    except pynvml.NVMLError as error:
        if error.value in (*UNTOLD, pynvml.NVML_ERROR_INVALID_ARGUMENT):
            return default
        raise


def _gpu(root: roots.Root, handle: Any, index: int, name: str) -> device.Gpu:
    """Return a GPU; it keeps its name where one before it does not answer, since claims go by name."""
    bus_id = sysfs.address(_text(pynvml.nvmlDeviceGetPciInfo_v3(handle).busId))
    at = sysfs.place(root, bus_id)
    current, _ = _asked(lambda: pynvml.nvmlDeviceGetMigMode(handle), [0, 0])
    uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
    model, fabric = _model(handle), _fabric_id(handle)
    found = device.Gpu(index, model, uuid, bus_id, at.switch, at.root, at.numa, fabric, bool(current))
    return found if found.name == name else replace(found, device_name=name)


def _model(handle: Any) -> device.GpuModel:
    """Return the product; what the GPU tells goes before what we know of it."""
    known = gpu_models.of_product(_text(pynvml.nvmlDeviceGetName(handle)))
    memory = _asked(lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) >> 20, known.memory_mib)
    architecture = ARCHITECTURES.get(_asked(lambda: pynvml.nvmlDeviceGetArchitecture(handle), 0), known.architecture)
    mig_profiles = mig_calls.profiles(handle)
    slices = max((profile.compute for profile in mig_profiles), default=0)
    return device.GpuModel(known.name, architecture, memory, slices, mig_profiles)


def _fabric_id(handle: Any) -> str:
    """Return cluster and clique of a fabric that is complete; "" else."""
    info = pynvml.c_nvmlGpuFabricInfo_v3_t()
    if _asked(lambda: pynvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info)), 1) != pynvml.NVML_SUCCESS:
        return ""
    cluster = bytes(info.clusterUuid).hex()
    if info.state != FABRIC_COMPLETED or info.status != pynvml.NVML_SUCCESS or not cluster.strip("0"):
        return ""
    parts = (cluster[:8], cluster[8:12], cluster[12:16], cluster[16:20], cluster[20:])
    return f"{'-'.join(parts)}.{info.cliqueId}"


def _ends(handle: Any) -> Iterator[links.Link]:
    """Yield the active NVLinks of a GPU."""
    for number in range(links.MAX_LINKS):
        state = _asked(lambda n=number: pynvml.nvmlDeviceGetNvLinkState(handle, n), None)  # type: ignore[misc]
        if state is None:
            return
        if state:
            kind = pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, number)
            remote = sysfs.address(_text(pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, number).busId))
            yield links.Link(kind, remote, _gbps(handle, number))


def _gbps(handle: Any, number: int) -> float:
    value = pynvml.nvmlDeviceGetFieldValues(handle, [(pynvml.NVML_FI_DEV_NVLINK_GET_SPEED, number)])[0]
    if value.nvmlReturn == pynvml.NVML_SUCCESS and value.value.uiVal:
        return float(value.value.uiVal) / 1000
    return links.GBPS.get(pynvml.nvmlDeviceGetNvLinkVersion(handle, number), 25.0)


def _reach(handles: list[Any]) -> dict[tuple[int, int], bool]:
    """Ask which GPUs reach each other over NVLink."""
    index = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
    number = index[0] if isinstance(index, tuple) else index
    return {
        (a, b): _asked(lambda x=x, y=y: pynvml.nvmlDeviceGetP2PStatus(x, y, number), 1) == 0  # type: ignore[misc]
        for a, x in enumerate(handles)
        for b, y in enumerate(handles)
        if a < b
    }


def _facts(handle: Any, gpu: device.Gpu) -> interface.GpuFacts:
    major, minor = _asked(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle), (0, 0))
    _, pending = _asked(lambda: pynvml.nvmlDeviceGetMigMode(handle), [0, 0])
    return interface.GpuFacts(
        gpu.uuid,
        _asked(lambda: pynvml.nvmlDeviceGetMinorNumber(handle), -1),
        _text(_asked(lambda: pynvml.nvmlDeviceGetSerial(handle), "")),
        _text(pynvml.nvmlDeviceGetName(handle)),
        BRANDS.get(_asked(lambda: pynvml.nvmlDeviceGetBrand(handle), 0), "Unknown"),
        f"{major}.{minor}.0" if major else "",
        bool(pending),
    )


def _reading(handle: Any, uuid: str, failing: dict[str, str]) -> interface.Reading:
    def ask(name: str, *arguments: Any) -> Any:
        try:
            return getattr(pynvml, name)(handle, *arguments)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
                raise
            if error.value not in UNTOLD:
                failing[name] = str(error)
            return None

    remap = ask("nvmlDeviceGetRemappedRows") or (None,) * 4
    memory, use = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetUtilizationRates")
    retired = ask("nvmlDeviceGetRetiredPagesPendingStatus")
    fields = ask("nvmlDeviceGetFieldValues", [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
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
        recovery_action=int(fields[0].value.uiVal) if fields and fields[0].nvmlReturn == 0 else None,
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
    )


def _links_down(handle: Any) -> tuple[int, ...]:
    """Return the NVLinks that a GPU has and that are not active."""
    down = []
    for number in range(links.MAX_LINKS):
        state = _asked(lambda n=number: pynvml.nvmlDeviceGetNvLinkState(handle, n), None)  # type: ignore[misc]
        if state is None:
            break
        if not state:
            down.append(number)
    return tuple(down)


def _process(row: Any) -> tuple[int, int, int]:
    instance = row.gpuInstanceId if row.gpuInstanceId not in (None, WHOLE) else -1
    return int(row.pid), int(row.usedGpuMemory or 0), int(instance)
