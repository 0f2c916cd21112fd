"""ResourceSlices of a node, both directions, so that the driver that writes and the scheduler that reads cannot drift.

CPU, memory, labels and pod limit of a node are no part of it: they come from the Node object.

References
----------
k8s.io/api resource/v1 at v0.34.0 to v0.37.0-beta.0 (limits); KEP-4815 (partitionable devices); KEP-5075 (consumable
capacity).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.model import attributes, claim, device, node, nvidia_slices, order, published, slice_reader

API_VERSION = "resource.k8s.io/v1"

MAX_DEVICES = 128
MAX_ADVANCED_DEVICES = 64
"""Devices of a slice in which one has taints, draws on counters, or has list attributes; from 1.35 on."""
MAX_COUNTER_SETS = 8
MAX_COUNTERS = 32
"""Per counter set from 1.35 on, per slice in 1.34."""
MAX_ENTRIES = 32
"""Attributes and capacities of a device."""
MAX_NAME = 253
EFFECTS = ("NoExecute", "NoSchedule", "None")
"""Of taints, the worst first."""
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

Part = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Layout:
    """How slices must look for one API server.

    Attributes
    ----------
    split_counters : bool
        Counters and devices in different slices: required from 1.35 on, impossible in 1.34.
    partitionable : bool
        The server keeps counters. Where it drops them, partitions would be over-allocated, so none are published.
    consumable : bool
        The server keeps consumable capacity; otherwise every GPU is given out whole.
    lists : bool
        The server keeps list attributes.
    taints : bool
        The server keeps device taints. Where it drops them, devices that nobody should get are left out instead.
    """

    split_counters: bool = True
    partitionable: bool = True
    consumable: bool = True
    lists: bool = False
    taints: bool = True

    @property
    def max_taints(self) -> int:
        """Return how many taints a device can have: 4 in 1.34, 16 from 1.35 on."""
        return 16 if self.split_counters else 4


def layout(
    minor: int, *, partitionable: bool | None = None, consumable: bool | None = None, lists: bool = False
) -> Layout:
    """Return the layout for Kubernetes 1.`minor`; gates that are not given have their default there."""
    default = minor >= 36
    return Layout(
        split_counters=minor >= 35,
        partitionable=default if partitionable is None else partitionable,
        consumable=default if consumable is None else consumable,
        lists=lists,
    )


def encode(
    machine: node.NodeTopology,
    generation: int = 1,
    form: Layout | None = None,
    driver: str = claim.DRIVER,
    taints: Mapping[str, Sequence[Mapping[str, str]]] | None = None,
) -> list[dict[str, Any]]:
    """Return the ResourceSlices that publish the devices of a node.

    Parameters
    ----------
    generation : int
        Generation of the pool; every slice carries it.
    form : Layout, optional
        By default that of the newest server.
    taints : mapping of device name to taints, optional
        Each as in the API: key, value, effect, timeAdded. Those of a GPU hold for its partitions too.

    Returns
    -------
    list of dict
        In the order of their names, deterministic. GPUs are listed so that first fit takes well joined ones, and a GPU
        that could be cut only when no other is left: partitions come first where they have slices of their own, and such
        GPUs last. A node without devices has one empty slice.

    Raises
    ------
    SliceError
        Something about the node exceeds what the API takes.
    """
    form = form or Layout()
    known = attributes.facts(machine, lists=form.lists, shares=form.consumable)
    cut = [gpu for gpu in _ordered(machine) if form.partitionable and gpu.mig_enabled and gpu.model.mig]
    whole = [gpu for gpu in _ordered(machine) if gpu not in cut]
    entries = [attributes.gpu_entry(known, gpu) for gpu in whole]
    entries += [attributes.nic_entry(known, nic) for nic in machine.nics]
    entries += [attributes.accelerator_entry(known, other) for other in machine.accelerators]
    plain: list[Part] = _chunks(_tainted(entries, taints or {}, form), form)
    first, last = _split(known, cut) if form.split_counters else ([], _combined(known, cut))
    for part in (*first, *last):
        if "devices" in part:
            part["devices"] = _tainted(part["devices"], taints or {}, form)
    parts = [*first, *plain, *last]
    for entry in (entry for part in parts for entry in part.get("devices", ())):
        _check(machine.name, entry)
    return [_slice(machine, driver, generation, parts or [{}], i) for i in range(max(1, len(parts)))]


def decode(slices: Iterable[Mapping[str, Any]]) -> node.NodeTopology:
    """Return the node that the ResourceSlices of one pool describe.

    Parameters
    ----------
    slices : iterable of mapping
        Objects of ``resource.k8s.io`` v1, v1beta2 or v1beta1 of our driver or of NVIDIA's; older generations are ignored.

    Returns
    -------
    NodeTopology
        Without CPU, memory, labels and pod limit, which the Node object has.

    Raises
    ------
    SliceError
        Names slice, device and field. Unknown attributes are no error.
    """
    items = published.newest(slices)
    found = published.devices(items)
    if items[0]["spec"].get("driver") == nvidia_slices.DRIVER:
        return nvidia_slices.topology(published.pool_name(items[0]), found)
    return slice_reader.topology(published.pool_name(items[0]), found, _annotation(items))


def pools(items: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Group slices, as in a dump of a cluster, by pool and driver, in order of first appearance."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for item in items:
        name = published.pool_name(item)
        grouped.setdefault((name, str(item["spec"].get("driver", ""))), []).append(item)
    return grouped


def _ordered(machine: node.NodeTopology) -> list[device.Gpu]:
    return [machine.gpus[i] for i in order.first_fit(machine)]


def _cut_entries(known: attributes.Facts, gpu: device.Gpu) -> list[dict[str, Any]]:
    """Return the partitions of a GPU and then the GPU itself, which takes all counters."""
    entries = [attributes.partition_entry(known, part) for part in claim.partitions_of(gpu)]
    whole = attributes.gpu_entry(known, gpu)
    counters = attributes.all_counters(gpu)
    whole["consumesCounters"] = [{"counterSet": attributes.counter_set(gpu), "counters": counters}]
    return [*entries, whole]


def _counter_sets(cut: Sequence[device.Gpu]) -> list[dict[str, Any]]:
    return [{"name": attributes.counter_set(gpu), "counters": attributes.all_counters(gpu)} for gpu in cut]


def _split(known: attributes.Facts, cut: Sequence[device.Gpu]) -> tuple[list[Part], list[Part]]:
    """Return slices of counters and then slices of the partitions that draw on them; and slices of the whole GPUs."""
    sets, entries = _counter_sets(cut), [entry for gpu in cut for entry in _cut_entries(known, gpu)]
    whole = [entry for entry in entries if entry["attributes"]["type"]["string"] == "gpu"]
    partitions = [entry for entry in entries if entry["attributes"]["type"]["string"] != "gpu"]
    first: list[Part] = [{"sharedCounters": part} for part in _groups(sets, MAX_COUNTER_SETS)]
    first += [{"devices": part} for part in _groups(partitions, MAX_ADVANCED_DEVICES)]
    return first, [{"devices": part} for part in _groups(whole, MAX_ADVANCED_DEVICES)]


def _combined(known: attributes.Facts, cut: Sequence[device.Gpu]) -> list[Part]:
    """Return slices that hold some GPUs' counters and everything that draws on them, as 1.34 wants it."""
    parts: list[Part] = []
    for gpu in cut:
        sets, entries = _counter_sets([gpu]), _cut_entries(known, gpu)
        counters = sum(len(s["counters"]) for s in (parts[-1]["sharedCounters"] if parts else []) + sets)
        if not parts or counters > MAX_COUNTERS or len(parts[-1]["devices"]) + len(entries) > MAX_DEVICES:
            parts.append({"sharedCounters": [], "devices": []})
        parts[-1]["sharedCounters"] += sets
        parts[-1]["devices"] += entries
        if len(parts[-1]["devices"]) > MAX_DEVICES:
            raise published.SliceError(f"{gpu.name}: {len(entries)} partitions do not fit into one slice")
    return parts


def _tainted(
    entries: list[dict[str, Any]], taints: Mapping[str, Sequence[Mapping[str, str]]], form: Layout
) -> list[dict[str, Any]]:
    """Return the entries with their taints, or without those that nobody should get where taints are not kept."""
    kept = []
    for entry in entries:
        parent = entry.get("consumesCounters", [{"counterSet": ""}])[0]["counterSet"].removesuffix("-counters")
        names = dict.fromkeys((entry["name"], parent))
        found = _worst([dict(taint) for name in names for taint in taints.get(name, ())], form.max_taints)
        if found and form.taints:
            entry["taints"] = found
        elif any(taint["effect"] != "None" for taint in found):
            continue
        kept.append(entry)
    return kept


def _worst(taints: list[dict[str, str]], most: int) -> list[dict[str, str]]:
    """Return so many taints as a device can have, those with the worst effect, in the order in which they are given."""
    by_effect = sorted(range(len(taints)), key=lambda i: EFFECTS.index(taints[i]["effect"]))
    return [taints[i] for i in sorted(by_effect[:most])]


def _chunks(entries: list[dict[str, Any]], form: Layout) -> list[Part]:
    """Return slices of devices without counters."""
    advanced = any("ints" in value for entry in entries for value in entry["attributes"].values())
    tainted = form.split_counters and any("taints" in entry for entry in entries)
    limit = MAX_ADVANCED_DEVICES if advanced or tainted else MAX_DEVICES
    return [{"devices": part} for part in _groups(entries, limit)]


def _groups(entries: list[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    return [entries[i : i + size] for i in range(0, len(entries), size)]


def _slice(machine: node.NodeTopology, driver: str, generation: int, parts: list[Part], number: int) -> dict[str, Any]:
    """Return one object; names sort as the list does, since allocators go by name."""
    pool = {"name": machine.name, "generation": generation, "resourceSliceCount": len(parts)}
    base = f"{machine.name}-{driver}"
    if len(base) > MAX_NAME - 4:
        base = base[: MAX_NAME - 21].rstrip(".-") + "-" + hashlib.sha256(base.encode()).hexdigest()[:16]
    return {
        "apiVersion": API_VERSION,
        "kind": "ResourceSlice",
        "metadata": {
            "name": f"{base}-{number:03d}",
            "annotations": {slice_reader.ANNOTATION: json.dumps(slice_reader.node_facts(machine))},
        },
        "spec": {"driver": driver, "nodeName": machine.name, "pool": pool, **parts[number]},
    }


def _check(name: str, entry: dict[str, Any]) -> None:
    """Check what the API limits per device."""
    if not DNS_LABEL.fullmatch(entry["name"]):
        raise published.SliceError(f"node {name}: device {entry['name']}: name: no DNS label")
    count = len(entry["attributes"]) + len(entry.get("capacity", ()))
    if count > MAX_ENTRIES:
        raise published.SliceError(f"node {name}: device {entry['name']}: {count} attributes and capacities")


def _annotation(items: Sequence[Mapping[str, Any]]) -> str:
    """Return the annotation with the facts of the node, "" where no slice has it."""
    for item in items:
        annotations = (item.get("metadata") or {}).get("annotations") or {}
        if slice_reader.ANNOTATION in annotations:
            return str(annotations[slice_reader.ANNOTATION])
    return ""
