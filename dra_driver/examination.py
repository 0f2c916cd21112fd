"""What would keep the driver from working on this node, one finding for each thing that was looked at. Writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import aiohttp

from dra_driver import checkpoint, mig
from dra_driver import config as settings
from dra_driver.probe import host, roots
from scheduler.apiserver import access, client, errors, paths

ANSWER_S = 5.0
"""Patience with the API server."""

HOST_FILES = ("proc/sys/kernel/random/boot_id", "proc/devices", "dev", "sys/bus/pci/devices")


class Verdict(Enum):
    """`WARN` for what may be meant so."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `remedy` is "" where all is well."""

    what: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(config: settings.Config) -> Iterator[Finding]:
    """Look at the host's files, the hardware, the folders of the kubelet, the state and the API server."""
    yield from _root(config)
    yield from _hardware(config)
    yield from _folders(config)
    yield _kubelet(config)
    yield _sockets(config)
    yield _checkpoint(config)
    yield asyncio.run(_server(config))


def _root(config: settings.Config) -> Iterator[Finding]:
    missing = [str(config.root / name) for name in HOST_FILES if not (config.root / name).exists()]
    if missing:
        found = f"{', '.join(missing)} does not exist"
        yield Finding("root", Verdict.FAIL, found, "mount the host's root and name it with --root")
    else:
        yield Finding("root", Verdict.OK, f"the host is at {config.root}")


def _hardware(config: settings.Config) -> Iterator[Finding]:
    try:
        root = roots.Root(config.root)
        probe = host.probe(root, config.node_name, config.library, config.accelerators, config.driver_root)
        try:
            found = probe.discover()
        finally:
            probe.close()
    except (mig.HardwareError, OSError, ValueError) as error:
        yield Finding("hardware", Verdict.FAIL, str(error), "see `discover` on the same node")
        return
    machine = found.topology
    versions = f", driver {found.driver_release}, CUDA {machine.cuda_version}" if machine.gpus else ""
    there = f"{len(machine.gpus)} GPUs, {len(machine.accelerators)} accelerators, {len(machine.nics)} NICs{versions}"
    yield Finding("hardware", Verdict.OK, f"{machine.machine}: {there}")
    for problem in found.problems:
        yield Finding("hardware", Verdict.WARN, problem, "reset the device, or drain the node and reboot it")


def _folders(config: settings.Config) -> Iterator[Finding]:
    for name, path in (("registry", config.registry), ("plugins", config.plugins), ("cdi", config.cdi)):
        problem = _unwritable(path)
        remedy = f"mount it with write access, or name another with --{name}"
        yield Finding(name, Verdict.FAIL, problem, remedy) if problem else Finding(name, Verdict.OK, str(path))


def _unwritable(path: Path) -> str:
    """Try to make a file in a folder, or in the nearest one that exists."""
    while not path.exists():
        path = path.parent
    trial = path / ".muster-trial"
    try:
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}"
    return ""


def _kubelet(config: settings.Config) -> Finding:
    if config.pod_resources.is_socket():
        return Finding("kubelet", Verdict.OK, str(config.pod_resources))
    found = f"{config.pod_resources} is no socket: metrics will lack pod, namespace and tenant"
    return Finding("kubelet", Verdict.WARN, found, "start the kubelet, or name its socket with --pod-resources")


def _sockets(config: settings.Config) -> Finding:
    try:
        return Finding("sockets", Verdict.OK, str(config.sockets.plugin))
    except ValueError as error:
        return Finding("sockets", Verdict.FAIL, str(error), "shorten --plugins and --registry")


def _checkpoint(config: settings.Config) -> Finding:
    store = checkpoint.Store(config.folder)
    if not store.path.exists():
        return Finding("checkpoint", Verdict.OK, "none yet: nothing was ever prepared")
    try:
        return Finding("checkpoint", Verdict.OK, f"{len(store.read().claims)} claims in {store.path}")
    except (checkpoint.CheckpointError, OSError) as error:
        return Finding(
            "checkpoint", Verdict.FAIL, str(error), "start the driver: it sets the file aside and rebuilds it"
        )


async def _server(config: settings.Config) -> Finding:
    remedy = "name a kubeconfig with --kubeconfig, or run in a pod with a service account"
    try:
        async with asyncio.timeout(ANSWER_S), await client.Client.connect(config.kubeconfig) as api:
            version = (await api.get("/version"))["gitVersion"]
            await api.get(paths.of(paths.RESOURCE, "resourceslices") + "?limit=1")
    except (access.KubeconfigError, errors.ApiError, TimeoutError, OSError, aiohttp.ClientError) as error:
        return Finding("server", Verdict.FAIL, str(error) or f"no answer within {ANSWER_S:g} s", remedy)
    return Finding("server", Verdict.OK, f"{api.server}, {version}")
