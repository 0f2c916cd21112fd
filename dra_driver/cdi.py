"""CDI files: one for each prepared claim, from which the container runtime takes devices, variables and mounts.

Every device of the claim is a CDI device, and so is every request: the latter carries what holds for its devices
together, such as their order. The folder is usually in memory, so files are re-ensured at each start and each prepare.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from dra_driver import checkpoint, edits, faultpoint, prepared
from dra_driver.claim import ClaimUid

VERSION = "0.5.0"  # the least that knows hostPath of device nodes, and names that begin with a digit as UIDs may
CLASS = "claim"
MAX_BYTES = 4 * 1024 * 1024


def kind(driver: str) -> str:
    """Return the vendor and class of our CDI devices."""
    return f"{driver}/{CLASS}"


def device_name(entry: prepared.Claim, device: prepared.Device) -> str:
    """Return the name of a device in the file of its claim."""
    return f"{entry.uid}-{device.key}"


def request_name(entry: prepared.Claim, request: str) -> str:
    """Return the name of what a request's devices have in common; ``_`` keeps it apart from names of devices."""
    return f"{entry.uid}_{request}"


def ids(entry: prepared.Claim, driver: str) -> list[list[str]]:
    """Return the qualified names for each device of a claim; the first of a request brings the request's own."""
    found: list[list[str]] = []
    told: set[str] = set()
    for device in entry.devices:
        names = [device_name(entry, device)]
        if device.base_request not in told:
            names.append(request_name(entry, device.base_request))
            told.add(device.base_request)
        found.append([f"{kind(driver)}={name}" for name in names])
    return found


def render(
    entry: prepared.Claim,
    driver: str,
    of_device: Mapping[str, edits.Edits],
    of_request: Mapping[str, edits.Edits],
    common: edits.Edits,
) -> dict[str, Any]:
    """Return the CDI specification of a claim.

    Parameters
    ----------
    of_device : mapping
        By the key of the device.
    of_request : mapping
        By the base name of the request.
    """
    listed = [_device(device_name(entry, device), of_device[device.key]) for device in entry.devices]
    listed += [_device(request_name(entry, request), of_request[request]) for request in entry.requests]
    spec: dict[str, Any] = {"cdiVersion": VERSION, "kind": kind(driver)}
    # One device may serve two requests; its name must still be unique in the file.
    spec["devices"] = list({device["name"]: device for device in listed}.values())
    if common != edits.Edits():
        spec["containerEdits"] = common.to_dict()
    return spec


def _device(name: str, changes: edits.Edits) -> dict[str, Any]:
    # A device without any edit is not valid, so one that needs none gets a variable that says nothing new.
    return {"name": name, "containerEdits": changes.to_dict() or {"env": ["NVIDIA_VISIBLE_DEVICES=void"]}}


class Folder:
    """Our files in the CDI folder."""

    def __init__(self, path: Path, driver: str) -> None:
        self.path = path
        self._prefix = f"{driver}-{CLASS}_"

    def file(self, uid: ClaimUid) -> Path:
        """Return where the file of a claim is."""
        return self.path / f"{self._prefix}{uid}.json"

    def ensure(self, uid: ClaimUid, spec: Mapping[str, Any]) -> bool:
        """Make the file of a claim hold a specification; return whether it had to be written."""
        data = orjson.dumps(spec, option=orjson.OPT_INDENT_2)
        path = self.file(uid)
        if _contents(path) == data:
            return False
        self.path.mkdir(parents=True, exist_ok=True)
        # Not synced: the folder is rebuilt from the checkpoint at each start.
        checkpoint.replace_file(path, data, "cdi", durable=False, mode=0o644)
        faultpoint.reach("cdi-written")
        return True

    def remove(self, uid: ClaimUid) -> None:
        """Remove the file of a claim, if there is one."""
        self.file(uid).unlink(missing_ok=True)
        faultpoint.reach("cdi-removed")

    def claims(self) -> set[ClaimUid]:
        """Return the claims that have a file."""
        names = (path.name for path in self.path.glob(f"{self._prefix}*.json"))
        return {ClaimUid(name.removeprefix(self._prefix).removesuffix(".json")) for name in names}

    def remove_abandoned(self) -> None:
        """Remove what a crash left half written."""
        checkpoint.remove_abandoned(self.path, f".{self._prefix}*.tmp")


def _contents(path: Path) -> bytes | None:
    """Return what a file holds, or None where there is none or it is not one of ours."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        return path.read_bytes()
    except FileNotFoundError:
        return None
