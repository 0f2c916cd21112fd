"""Device metadata files (KEP-5304): what a container may know of its devices, mounted read-only.

One file for each request of a claim, a stream of JSON objects, one for each version of the format, newest first.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from dra_driver import checkpoint, edits, faultpoint, prepared
from dra_driver.claim import ClaimUid

API_VERSION = "metadata.resource.k8s.io/v1alpha1"
CONTAINER_FOLDER = "/var/run/kubernetes.io/dra-device-attributes"

Attributes = Mapping[str, Mapping[str, Any]]
"""Attributes of a device as its ResourceSlice has them: one of string, int, bool, version for each."""


def container_path(entry: prepared.Claim, request: str, driver: str) -> str:
    """Return where a container finds the file of a request."""
    if entry.pod_claim_name:
        owner = f"resourceclaimtemplates/{entry.pod_claim_name}"
    else:
        owner = f"resourceclaims/{entry.name}"
    return f"{CONTAINER_FOLDER}/{owner}/{request}/{driver}-metadata.json"


def render(entry: prepared.Claim, request: str, driver: str, attributes: Mapping[str, Attributes]) -> bytes:
    """Return the file of a request; `attributes` are by the key of the device."""
    devices: dict[str, list[dict[str, Any]]] = {}
    for device in entry.devices:
        if device.base_request == request:
            described: dict[str, Any] = {"driver": driver, "pool": device.pool, "name": device.name}
            if attributes.get(device.key):
                described["attributes"] = dict(attributes[device.key])
            devices.setdefault(device.request, []).append(described)
    written: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "DeviceMetadata",
        "metadata": {
            "name": entry.name,
            "namespace": entry.namespace,
            "uid": entry.uid,
            "generation": entry.metadata_generation,
        },
    }
    if entry.pod_claim_name:
        written["podClaimName"] = entry.pod_claim_name
    written["requests"] = [{"name": name, "devices": listed} for name, listed in devices.items()]
    return orjson.dumps(written, option=orjson.OPT_APPEND_NEWLINE)


class Folder:
    """The metadata files of all claims, on the host."""

    def __init__(self, path: Path, on_host: str, driver: str) -> None:
        self.path, self.on_host, self.driver = path, on_host, driver

    def _claim(self, uid: ClaimUid) -> Path:
        return self.path / uid

    def ensure(self, entry: prepared.Claim, attributes: Mapping[str, Attributes]) -> dict[str, edits.Mount]:
        """Write the files of a claim and return the mount for each of its requests."""
        mounts = {}
        for request in entry.requests:
            path = self._claim(entry.uid) / request / "metadata.json"
            # Attributes may change while containers run; a file is rewritten only under a higher generation.
            if _generation(path) < entry.metadata_generation:
                data = render(entry, request, self.driver, attributes)
                path.parent.mkdir(parents=True, exist_ok=True)
                checkpoint.replace_file(path, data, "metadata", durable=False, mode=0o644)
                faultpoint.reach("metadata-written")
            host = f"{self.on_host}/{entry.uid}/{request}/metadata.json"
            mounts[request] = edits.Mount(host, container_path(entry, request, self.driver))
        return mounts

    def remove(self, uid: ClaimUid) -> None:
        """Remove the files of a claim, if there are any."""
        if self._claim(uid).exists():
            shutil.rmtree(self._claim(uid))

    def claims(self) -> set[ClaimUid]:
        """Return the claims that have files."""
        return {ClaimUid(path.name) for path in self.path.iterdir()} if self.path.exists() else set()


def _generation(path: Path) -> int:
    """Return the generation of a file, 0 where there is none that can be read."""
    try:
        return int(orjson.loads(path.read_bytes())["metadata"]["generation"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0
