"""Writes a machine of the model as the state of the stand-in library, and changes it while a driver runs."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

from scheduler.model import device, distance, gpu_models, node
from tests.hardware import state

ARCHITECTURES = {"Volta": 5, "Turing": 6, "Ampere": 7, "Ada Lovelace": 8, "Hopper": 9, "Blackwell": 10}
BRANDS = {"": 0, "Tesla": 2, "Nvidia": 14}
ADDRESSING = {"None": 0, "HMM": 1, "ATS": 2}
LINK_VERSIONS = {"Volta": 2, "Ampere": 4, "Hopper": 6, "Blackwell": 7}
ANCESTORS = {distance.Distance.PIX: 10, distance.Distance.PXB: 20, distance.Distance.PHB: 30,
             distance.Distance.NODE: 40, distance.Distance.SYS: 50}  # fmt: skip
NUMBERS = {(1, 1, ""): 0, (2, 2, ""): 1, (3, 4, ""): 2, (4, 4, ""): 3, (7, 8, ""): 4, (1, 1, "+me"): 7,
           (2, 2, "+me"): 8, (1, 2, ""): 9}  # fmt: skip
"""Numbers of GPU instance profiles by compute slices, memory slices and suffix."""
DRIVER = "580.65.06"
CUDA = 13_000
XID, MIG_CONFIG = 8, 0x100
WHOLE = 0xFFFFFFFF


def render(machine: node.NodeTopology, folder: Path, minors: Sequence[int] = range(node.MAX_GPUS)) -> Path:
    """Write the state of a machine; name the file in ``MUSTER_NVML_STATE``. `minors` are the numbers of device nodes."""
    found = state.State(state.MAGIC, ctypes.sizeof(state.State), DRIVER.encode(), CUDA, len(machine.gpus))
    for gpu in machine.gpus:
        _gpu(found.gpu[gpu.index], gpu, machine)
        found.gpu[gpu.index].minor = minors[gpu.index]
    for a in machine.gpus:
        for b in machine.gpus:
            far = distance.between(a, b)
            found.gpu[a.index].ancestor[b.index] = 0 if a is b else ANCESTORS[far]
            found.gpu[a.index].p2p[b.index] = 0 if machine.link_counts()[a.index][b.index] else 1
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nvml.state"
    path.write_bytes(bytes(found))
    return path


def _gpu(row: state.Gpu, gpu: device.Gpu, machine: node.NodeTopology) -> None:
    model = gpu.model
    product = next((name for name, known in gpu_models.PRODUCTS.items() if known.name == model.name), model.name)
    row.uuid, row.name, row.serial = gpu.uuid.encode(), product.encode(), f"16{gpu.index:08d}".encode()
    row.domain, row.bus, row.device = _address(gpu.pci_bus_id)
    row.pci_id, row.brand, row.addressing = 0x233010DE, BRANDS[model.brand], ADDRESSING[gpu.addressing_mode or "None"]
    row.architecture = ARCHITECTURES[model.architecture]
    row.cc_major, row.cc_minor, _ = map(int, (model.compute_capability or "0.0.0").split("."))
    row.numa = max(gpu.numa, 0)
    row.memory_total, row.ecc, row.celsius, row.power_mw = model.memory_mib << 20, 1, 35, 70_000
    row.mig_capable, row.compute_slices = bool(model.mig), model.compute_slices
    row.mig_current = row.mig_pending = gpu.mig_enabled
    row.profiles = len(model.mig)
    for place, profile in zip(row.profile, model.mig, strict=False):
        _profile(place, profile, model)
    if gpu.fabric_id:
        cluster, _, clique = gpu.fabric_id.rpartition(".")
        row.fabric[:] = list(bytes.fromhex(cluster.replace("-", "")))
        row.clique, row.fabric_state, row.fabric_health = int(clique), 3, 1
    _links(row, gpu, machine)


def _address(bus_id: str) -> tuple[int, int, int]:
    domain, bus, rest = bus_id.split(":")
    return int(domain, 16), int(bus, 16), int(rest.partition(".")[0], 16)


def _profile(row: state.Profile, profile: device.MigProfile, model: device.GpuModel) -> None:
    suffix = "+me" if profile.name.endswith("+me") else ""
    whole = profile.compute == model.compute_slices
    row.number = 3 if whole and profile.compute == 4 else NUMBERS[profile.compute, profile.memory_slices, suffix]
    row.id, row.slices, row.count, row.width = (
        profile.profile_id,
        profile.compute,
        profile.max_instances,
        profile.memory_slices,
    )
    own = profile.engines
    row.sms, row.ce, row.dec, row.enc = own.multiprocessors, own.copy, own.decoders, own.encoders
    row.jpeg, row.ofa, row.media = own.jpeg, own.ofa, int(bool(suffix) or whole)
    row.places = len(profile.starts)
    for i, start in enumerate(profile.starts):
        row.starts[i] = start
    row.memory_mib, row.name = profile.memory_mib, f"MIG {profile.name}".encode()


def _links(row: state.Gpu, gpu: device.Gpu, machine: node.NodeTopology) -> None:
    """Give a GPU the links to its peers, or to switches: those of its board where there are more than links."""
    mine = [link for link in machine.nvlinks if gpu.index in (link.a, link.b)]
    if not mine:
        return
    far: list[tuple[int, tuple[int, int, int]]] = []
    if machine.nvswitches or gpu.fabric_id:
        count = mine[0].links
        inside = machine.nvswitches or count
        boards = max(1, inside // count)
        first = gpu.index * boards // len(machine.gpus) * (inside // boards)
        far = [(2, (0, 0xF0 + first + i % (inside // boards), 0)) for i in range(count)]
    else:
        for link in mine:
            peer = machine.gpus[link.a + link.b - gpu.index]
            far += [(0, _address(peer.pci_bus_id))] * link.links
    row.links = len(far)
    for place, (kind, address) in zip(row.link, far, strict=False):
        place.active, place.remote_type, place.version = 1, kind, LINK_VERSIONS[gpu.model.architecture]
        place.domain, place.bus, place.device = address
        place.mbps = round(mine[0].gbps * 1000)


def event(path: Path, gpu: int, kind: int, data: int, gpu_instance: int = WHOLE) -> None:
    """Let a GPU report an event."""
    with state.changed(path) as found:
        place = found.event[found.events % state.MAX_EVENTS]
        place.gpu, place.type, place.data, place.gi, place.ci = gpu, kind, data, gpu_instance, gpu_instance
        found.events += 1


def xid(path: Path, gpu: int, number: int) -> None:
    """Let a GPU report an XID."""
    event(path, gpu, XID, number)


def change(path: Path, gpu: int, **values: int) -> None:
    """Set fields of a GPU: ``lost``, ``remap_pending``, ``recovery``, ``ecc_uncorrected`` and all others by name."""
    with state.changed(path) as found:
        for name, value in values.items():
            getattr(found.gpu[gpu], name)
            setattr(found.gpu[gpu], name, value)


def link(path: Path, gpu: int, number: int, active: bool) -> None:
    """Take an NVLink down or up."""
    with state.changed(path) as found:
        found.gpu[gpu].link[number].active = active


def rule(path: Path, function: str, *, code: int = 0, ms: int = 0, gpu: int = -1, times: int = -1) -> None:
    """Let a function of the library fail with a code or take some milliseconds, at most until the rules are cleared."""
    with state.changed(path) as found:
        found.rule[found.rules] = state.Rule(function.encode(), gpu, code, ms, times)
        found.rules += 1


def clear(path: Path) -> None:
    """Let all functions work again."""
    with state.changed(path) as found:
        found.rules = 0
