"""Taints of the faults, with times that stay as they are over restarts of the driver.

A changed time would look like a new fault to whoever counts `tolerationSeconds`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from dra_driver.health import model

Taint = dict[str, str]

MAX_FILE = 1024 * 1024


class Times:
    """When each taint was added first, by GPU UUID and key, value, effect; kept in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, str] = _read(path)

    def taints(self, known: Mapping[str, model.Health]) -> dict[str, list[Taint]]:
        """Return the taints by GPU UUID; times of faults that are over are forgotten."""
        found = {uuid: [self._taint(uuid, fault) for _, fault in sorted(h.faults.items())] for uuid, h in known.items()}
        times = {_key(uuid, taint): taint["timeAdded"] for uuid, taints in found.items() for taint in taints}
        if times != self._known:
            self._known = times
            _write(self.path, times)
        return {uuid: taints for uuid, taints in found.items() if taints}

    def _taint(self, uuid: str, fault: model.Fault) -> Taint:
        key, value, effect = fault.taint
        taint = {"key": key, "effect": effect} | ({"value": value} if value else {})
        since = datetime.fromtimestamp(int(fault.since_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return taint | {"timeAdded": self._known.get(_key(uuid, taint), since)}


def _key(uuid: str, taint: Mapping[str, str]) -> str:
    return " ".join((uuid, taint["key"], taint.get("value", ""), taint["effect"]))


def _read(path: Path) -> dict[str, str]:
    """A file that cannot be read costs the old times and nothing else."""
    try:
        found = json.loads(path.read_bytes()[:MAX_FILE])
    except (FileNotFoundError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _write(path: Path, times: Mapping[str, str]) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        json.dump(times, file, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
