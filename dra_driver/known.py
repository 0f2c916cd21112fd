"""The devices that a node has had, in a file, so that names outlive restarts, lost devices and other orders of discovery.

Claims, taints and health go by name, and the numbers of the vendor's library change when a GPU falls off the bus. So a name
belongs to a UUID or a PCI address for good, and a GPU that does not answer stays known with its place and NVLinks. Two
instances of the driver share the file: names are given under its lock, from what it has.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from dra_driver import checkpoint, prepared
from scheduler.model import node

log = structlog.get_logger()

FILE = "devices.json"
"""In the driver's folder."""
MAX_FILE = 4 << 20

Names = Mapping[str, str]
"""Device names by UUID for GPUs and by PCI address for the others."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a node from before.

    Other versions of the driver read it too: fields that they add are passed over, and ones that are missing have their
    defaults.

    Attributes
    ----------
    machine : NodeTopology or None
        As published last, with the GPUs that did not answer.
    names : mapping
        Also those of devices that are gone: nothing else may be called so.
    """

    machine: node.NodeTopology | None = None
    names: dict[str, str] = field(default_factory=dict)


class File:
    """The file; without a folder everything is forgotten at the end of the process.

    Parameters
    ----------
    held : function
        Returns the names that prepared claims have, for a file that is missing or cannot be read.
    """

    def __init__(self, folder: Path | None = None, held: Callable[[], Names] = dict) -> None:
        self._path = folder / FILE if folder is not None else None
        self._held = held
        self._last: Known | None = None

    def change(self, change: Callable[[Known], Known]) -> Known:
        """Apply a change to what is known and keep the result; a disk that takes nothing is told in the log."""
        if self._path is None:
            self._last = change(self._last or Known(None, dict(self._held())))
            return self._last
        try:
            with self._locked(self._path):
                before = self._read(self._path)
                after = change(before)
                if after != before:
                    checkpoint.replace_file(self._path, msgspec.json.encode(after), "devices")
        except OSError as error:
            log.error("names of devices are not kept over a restart", file=str(self._path), error=str(error))
            after = change(self._last or Known(None, dict(self._held())))
        self._last = after
        return after

    def _read(self, path: Path) -> Known:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return self._last or Known(None, dict(self._held()))
        try:
            return _decoded(data)
        except ValueError as error:
            log.error("devices known before are not; the file is set aside", file=str(path), error=str(error))
            path.replace(path.with_suffix(".corrupt"))
            return self._last or Known(None, dict(self._held()))

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def published(folder: Path) -> node.NodeTopology | None:
    """Return the node as the driver published it last; raises `ValueError` or `OSError` where the file tells nothing."""
    path = folder / FILE
    data = path.read_bytes()
    try:
        return _decoded(data).machine
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _decoded(data: bytes) -> Known:
    """Return what the file has; raises `ValueError`."""
    if len(data) > MAX_FILE:
        raise ValueError(f"{len(data)} bytes")
    return msgspec.json.decode(data, type=Known)


def held(store: checkpoint.Store) -> Names:
    """Return the names of the devices of prepared claims; none where the checkpoint cannot be read."""
    try:
        claims = store.read().claims.values()
    except (checkpoint.CheckpointError, OSError):
        return {}
    return {_key(one): one.name.partition("-mig-")[0] for entry in claims for one in entry.devices if _key(one)}


def _key(one: prepared.Device) -> str:
    return one.gpu_uuid or one.pci_bus_id
