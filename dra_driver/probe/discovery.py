"""Puts a node together from its parts, and tells which known machine it is."""

from __future__ import annotations

import re
from dataclasses import replace

from dra_driver import mig
from dra_driver.probe import interface, roots, sysfs
from scheduler.model import device, machines, node

CLIQUE_LABEL = "nvidia.com/gpu.clique"


def assemble(
    root: roots.Root,
    name: str,
    gpus: tuple[device.Gpu, ...] = (),
    nvlinks: tuple[node.NvLink, ...] = (),
    nvswitches: int = 0,
    accelerators: tuple[device.Accelerator, ...] = (),
) -> interface.Discovered:
    """Return the node with these devices and everything that sysfs knows.

    Raises
    ------
    HardwareError
        The parts make no node, as where there are more GPUs than are supported.
    """
    nics = sysfs.nics(root)
    problems = []
    if len(nics) > node.MAX_NICS:
        left = ", ".join(nic.name for nic in nics[node.MAX_NICS :])
        problems.append(f"{len(nics)} NICs, at most {node.MAX_NICS} are published; left out: {left}")
    try:
        topology = _topology(root, name, gpus, nics[: node.MAX_NICS], nvlinks, nvswitches, accelerators)
    except ValueError as error:
        raise mig.HardwareError(str(error)) from error
    facts = {nic.name: sysfs.nic_facts(root, nic) for nic in topology.nics}
    return interface.Discovered(topology, nics=facts, nvmes=tuple(sysfs.nvmes(root)), problems=tuple(problems))


def _topology(
    root: roots.Root,
    name: str,
    gpus: tuple[device.Gpu, ...],
    nics: tuple[device.Nic, ...],
    nvlinks: tuple[node.NvLink, ...],
    nvswitches: int,
    accelerators: tuple[device.Accelerator, ...],
) -> node.NodeTopology:
    distances = sysfs.numa_distances(root)
    fabrics = sorted({gpu.fabric_id for gpu in gpus if gpu.fabric_id})
    found = node.NodeTopology(
        name=name,
        cpu_milli=sysfs.cpus(root) * 1000,
        memory_mib=sysfs.memory_mib(root),
        gpus=gpus,
        nics=nics,
        accelerators=accelerators,
        nvlinks=nvlinks,
        nvswitches=nvswitches,
        numa_distances=distances,
        sockets=sysfs.sockets(root, len(distances)),
        labels=((CLIQUE_LABEL, fabrics[0]),) if len(fabrics) == 1 else (),
    )
    return replace(found, machine=kind(found))


def kind(found: node.NodeTopology) -> str:
    """Return the known kind of machine with the same GPUs and NVLinks, at best with as many NICs; else its GPUs."""
    models = [gpu.model.name for gpu in found.gpus]
    twins = []
    for known in machines.KINDS:
        twin = machines.build(known, found.name)
        if found.gpus and [g.model.name for g in twin.gpus] == models and twin.nvlinks == found.nvlinks:
            twins.append((abs(len(twin.nics) - len(found.nics)), known))
    if twins:
        return min(twins)[1]
    return "+".join(f"{models.count(model)}x{model}" for model in dict.fromkeys(models)) or "cpu"


def semver(text: str) -> str:
    """Return a version of three numbers without leading zeros; "" where there is none.

    Examples
    --------
    >>> semver("580.65.06"), semver("13.0"), semver("535")
    ('580.65.6', '13.0.0', '535.0.0')
    """
    found = re.match(r"\d+(?:\.\d+){0,2}", text)
    if not found:
        return ""
    numbers = [int(part) for part in found[0].split(".")]
    return ".".join(map(str, [*numbers, 0, 0][:3]))


def cuda_semver(number: int) -> str:
    """Return the CUDA version of a driver.

    Examples
    --------
    >>> cuda_semver(12040)
    '12.4.0'
    """
    return f"{number // 1000}.{number % 1000 // 10}.0"
