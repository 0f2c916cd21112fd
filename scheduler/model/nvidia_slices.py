"""From the ResourceSlices of NVIDIA's own DRA driver to a node, as far as they tell.

They carry products, uuids, PCIe and NUMA, and memory. They carry no NVLinks and no PCIe switches: `machines.assume`
supplies those of a known machine where that is wanted. A GPU that is cut into static MIG partitions is published by its
partitions alone.

References
----------
kubernetes-sigs/dra-driver-nvidia-gpu: device names ``gpu-MINOR`` and ``gpu-MINOR-mig-PROFILE-ID-START``, attributes,
capacities ``memory`` and ``memorySliceN``.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from scheduler.model import device, gpu_models, node, published, slice_reader

DRIVER = "gpu.nvidia.com"

_NAME = re.compile(r"gpu-(\d+)(?:-mig-(.+)-(\d+)-(\d+))?")


def topology(name: str, found: Sequence[published.PublishedDevice]) -> node.NodeTopology:
    """Return the node whose GPUs NVIDIA's driver published; devices that are neither GPU nor partition are skipped.

    Raises
    ------
    SliceError
    """
    whole: dict[int, published.PublishedDevice] = {}
    parts: dict[int, list[published.PublishedDevice]] = {}
    for d in found:
        if d.text("type") not in ("gpu", "mig"):
            continue
        match = _NAME.fullmatch(d.name)
        if match is None or bool(match[2]) != (d.text("type") == "mig"):
            raise d.error("name", f"not that of a device of type {d.text('type')}")
        if match[2]:
            parts.setdefault(int(match[1]), []).append(d)
        else:
            whole[int(match[1])] = d
    minors = sorted({*whole, *parts})
    gpus = tuple(_gpu(i, minor, whole.get(minor), parts.get(minor, [])) for i, minor in enumerate(minors))
    try:
        return node.NodeTopology(name=name, gpus=gpus)
    except ValueError as error:
        raise published.SliceError(f"pool {name}: {error}") from error


def _gpu(
    index: int, minor: int, whole: published.PublishedDevice | None, parts: list[published.PublishedDevice]
) -> device.Gpu:
    """Return a GPU from its own entry, or from those of its partitions."""
    entry = whole or parts[0]
    return device.Gpu(
        index=index,
        model=_model(entry, whole, parts),
        uuid=entry.text("uuid") if whole else entry.text("parentUUID"),
        **slice_reader.position(entry),
        mig_enabled=bool(parts),
        shareable=False,
        device_name="" if minor == index else f"gpu-{minor}",
    )


def _model(
    entry: published.PublishedDevice, whole: published.PublishedDevice | None, parts: list[published.PublishedDevice]
) -> device.GpuModel:
    """Return the product; what the slices say goes before what is known about it."""
    known = gpu_models.of_product(entry.text("productName"))
    memory_mib = whole.mib("memory") if whole else 0
    model = replace(
        known, architecture=entry.text("architecture", known.architecture), memory_mib=memory_mib or known.memory_mib
    )
    if model.mig or not parts:
        return model
    table = slice_reader.mig_table([_completed(d) for d in parts])
    return replace(model, mig=table, compute_slices=max(p.compute for p in table))


def _completed(d: published.PublishedDevice) -> published.PublishedDevice:
    """Add to a partition of NVIDIA's what ours say in attributes and theirs in name and capacities."""
    match = _NAME.fullmatch(d.name)
    if match is None:
        raise d.error("name", "not that of a MIG partition")
    width = sum(key.rpartition("/")[2].startswith("memorySlice") for key in d.capacity)
    compute = re.match(r"(?:\d+c\.)?(\d+)g", d.text("profile"))
    known = {
        "profileId": {"int": int(match[3])},
        "start": {"int": int(match[4])},
        "memorySlices": {"int": max(1, width)},
        "computeSlices": {"int": int(compute[1]) if compute else 1},
    }
    return replace(d, attributes={**d.attributes, **known})
