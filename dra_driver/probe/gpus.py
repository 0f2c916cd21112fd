"""What the library tells about the GPUs of a node: one GPU at a time, so that a bad one costs the others nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pynvml  # type: ignore[import-untyped]

from dra_driver import mig
from dra_driver.probe import calls, interface, links, roots, sysfs
from dra_driver.probe import mig as mig_calls
from scheduler.model import attributes, device, gpu_models, node

T = TypeVar("T")

ARCHITECTURES = {2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada Lovelace",
                 9: "Hopper", 10: "Blackwell", 13: "Rubin"}  # fmt: skip
BRANDS = {1: "Quadro", 2: "Tesla", 3: "NVS", 4: "Grid", 5: "GeForce", 6: "Titan", 7: "NvidiaVApps", 8: "NvidiaVPC",
          9: "NvidiaVCS", 10: "NvidiaVWS", 11: "NvidiaCloudGaming", 12: "QuadroRTX", 13: "NvidiaRTX", 14: "Nvidia",
          15: "GeForceRTX", 16: "TitanRTX"}  # fmt: skip
ADDRESSING = {0: "None", 1: "HMM", 2: "ATS"}
FABRIC_COMPLETED = 3


@dataclass(slots=True)
class Survey:
    """The GPUs that answer.

    Attributes
    ----------
    unlinked : set of str
        GPUs, by UUID, whose NVLinks could not be read.
    """

    gpus: list[device.Gpu] = field(default_factory=list)
    facts: dict[str, interface.GpuFacts] = field(default_factory=dict)
    unlinked: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    _handles: list[Any] = field(default_factory=list)

    def look(self, root: roots.Root, number: int) -> None:
        """Add the GPU with a number of the library, or a problem."""

        def found() -> tuple[Any, device.Gpu]:
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            return handle, _gpu(root, handle, len(self.gpus), f"gpu-{number}")

        answer = self._told(f"GPU {number}", "discovery", found)
        if answer is None:
            return
        handle, gpu = answer
        self.gpus.append(gpu)
        self._handles.append(handle)
        facts = self._told(gpu.name, "facts", lambda: _facts(handle, gpu))
        self.facts[gpu.uuid] = facts or interface.GpuFacts(gpu.uuid)

    def nvlinks(self) -> tuple[tuple[node.NvLink, ...], int]:
        """Return the NVLinks and the number of NVSwitches; a GPU whose links are unknown has those its peers tell of."""
        ends: dict[int, tuple[links.Link, ...]] = {}
        for gpu in self.gpus:
            told = self._told(gpu.name, "NVLinks", lambda gpu=gpu: tuple(_ends(self._handles[gpu.index])))  # type: ignore[misc]
            ends[gpu.index] = told or ()
            if told is None:
                self.unlinked.add(gpu.uuid)
        addresses = {gpu.pci_bus_id: gpu.index for gpu in self.gpus}
        # The switches of a rack's fabric sit in other trays.
        switches = 0 if any(gpu.fabric_id for gpu in self.gpus) else links.switches(ends)
        return links.joined(ends, addresses, self._reach(ends)), switches

    def _reach(self, ends: dict[int, tuple[links.Link, ...]]) -> dict[tuple[int, int], bool]:
        """Ask which GPUs with NVLinks reach each other over them."""
        index = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
        caps = index[0] if isinstance(index, tuple) else index
        reach: dict[tuple[int, int], bool] = {}
        for a, b in links.pairs(ends):
            x, y = self._handles[a], self._handles[b]
            asked = self._told(
                f"{self.gpus[a].name} and {self.gpus[b].name}",
                "NVLink reach",
                lambda x=x, y=y: calls.asked(lambda: pynvml.nvmlDeviceGetP2PStatus(x, y, caps), 1),  # type: ignore[misc]
            )
            reach[a, b] = asked == 0
            if asked is None:
                self.unlinked |= {self.gpus[a].uuid, self.gpus[b].uuid}
        return reach

    def _told(self, name: str, what: str, call: Callable[[], T]) -> T | None:
        """Return the answer; None, and a problem more, where there is none."""
        try:
            with calls.told(name, what):
                return call()
        except mig.HardwareError as error:
            self.problems.append(str(error))
            return None

    def agree(self) -> None:
        """Publish GPUs of one product as one model, since users ask for products.

        They may differ in memory, as where error correction is off on one of them; all count as the smallest then.
        """
        for name in {gpu.model.name for gpu in self.gpus}:
            same = [gpu for gpu in self.gpus if gpu.model.name == name]
            least = min((gpu.model for gpu in same), key=lambda model: (model.memory_mib, len(model.mig)))
            larger = [gpu.name for gpu in same if gpu.model != least]
            if larger:
                self.problems.append(
                    f"{', '.join(larger)}: published as the {name} with {least.memory_mib} MiB that others here are; set"
                    " error correction and MIG alike on all of them"
                )
            for gpu in same:
                self.gpus[gpu.index] = replace(gpu, model=least)


def _gpu(root: roots.Root, handle: Any, index: int, name: str) -> device.Gpu:
    """Return a GPU; it keeps its name where one before it does not answer, since claims go by name."""
    bus_id = sysfs.address(calls.text(pynvml.nvmlDeviceGetPciInfo_v3(handle).busId))
    at = sysfs.place(root, bus_id)
    current, _ = calls.asked(lambda: pynvml.nvmlDeviceGetMigMode(handle), [0, 0])
    found = device.Gpu(
        index,
        _model(handle),
        calls.text(pynvml.nvmlDeviceGetUUID(handle)),
        bus_id,
        at.switch,
        at.root,
        at.numa,
        _fabric_id(handle),
        bool(current),
        addressing_mode=ADDRESSING.get(calls.asked(lambda: pynvml.nvmlDeviceGetAddressingMode(handle), -1), ""),
    )
    return found if found.name == name else replace(found, device_name=name)


def _model(handle: Any) -> device.GpuModel:
    """Return the product; what the GPU tells goes before what we know of it."""
    product = calls.text(pynvml.nvmlDeviceGetName(handle)).encode()[: attributes.MAX_TEXT].decode(errors="ignore")
    known = gpu_models.of_product(product)
    memory = calls.asked(lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) >> 20, known.memory_mib)
    number = calls.asked(lambda: pynvml.nvmlDeviceGetArchitecture(handle), 0)
    major, minor = calls.asked(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle), (0, 0))
    profiles = mig_calls.profiles(handle)
    return device.GpuModel(
        known.name,
        ARCHITECTURES.get(number, known.architecture),
        memory,
        max((profile.compute for profile in profiles), default=0),
        profiles,
        BRANDS.get(calls.asked(lambda: pynvml.nvmlDeviceGetBrand(handle), 0), "Unknown"),
        f"{major}.{minor}.0" if major else "",
    )


def _fabric_id(handle: Any) -> str:
    """Return cluster and clique of a fabric that is complete; "" else."""
    info = pynvml.c_nvmlGpuFabricInfo_v3_t()
    asked = calls.asked(lambda: pynvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info)), 1)
    if asked != pynvml.NVML_SUCCESS:
        return ""
    cluster = bytes(info.clusterUuid).hex()
    if info.state != FABRIC_COMPLETED or info.status != pynvml.NVML_SUCCESS or not cluster.strip("0"):
        return ""
    parts = (cluster[:8], cluster[8:12], cluster[12:16], cluster[16:20], cluster[20:])
    return f"{'-'.join(parts)}.{info.cliqueId}"


def _ends(handle: Any) -> Iterator[links.Link]:
    """Yield the active NVLinks of a GPU."""
    for number in range(links.MAX_LINKS):
        state = calls.asked(lambda n=number: pynvml.nvmlDeviceGetNvLinkState(handle, n), None)  # type: ignore[misc]
        if state is None:
            return
        if state:
            kind = pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, number)
            remote = sysfs.address(calls.text(pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, number).busId))
            yield links.Link(kind, remote, _gbps(handle, number))


def _gbps(handle: Any, number: int) -> float:
    value = pynvml.nvmlDeviceGetFieldValues(handle, [(pynvml.NVML_FI_DEV_NVLINK_GET_SPEED, number)])[0]
    if value.nvmlReturn == pynvml.NVML_SUCCESS and value.value.uiVal:
        return float(value.value.uiVal) / 1000
    return links.GBPS.get(pynvml.nvmlDeviceGetNvLinkVersion(handle, number), 25.0)


def _facts(handle: Any, gpu: device.Gpu) -> interface.GpuFacts:
    _, pending = calls.asked(lambda: pynvml.nvmlDeviceGetMigMode(handle), [0, 0])
    return interface.GpuFacts(
        gpu.uuid,
        calls.asked(lambda: pynvml.nvmlDeviceGetMinorNumber(handle), -1),
        calls.text(calls.asked(lambda: pynvml.nvmlDeviceGetSerial(handle), "")),
        calls.text(pynvml.nvmlDeviceGetName(handle)),
        bool(pending),
    )
