"""Taints of the faults, with times that stay as they are over restarts of the driver.

A changed time would look like a new fault to whoever counts `tolerationSeconds`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import structlog

from dra_driver import checkpoint
from dra_driver.health import model

Taint = dict[str, str]

FILE = "taints.json"
"""In the driver's folder."""
MAX_FILE = 1024 * 1024

log = structlog.get_logger()


class Times:
    """When each taint was added first, by GPU UUID and key, value, effect; kept in one file by `write`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, str] = _read(path)
        self._written = self._known

    def taints(self, known: Mapping[str, model.Health]) -> dict[str, list[Taint]]:
        """Return the taints by GPU UUID; times of faults that are over are forgotten."""
        found = {uuid: [self._taint(uuid, fault) for _, fault in sorted(h.faults.items())] for uuid, h in known.items()}
        self._known = {_key(uuid, taint): taint["timeAdded"] for uuid, taints in found.items() for taint in taints}
        return {uuid: taints for uuid, taints in found.items() if taints}

    def write(self) -> None:
        """Keep the times of the taints that were asked for last, where they changed."""
        known = self._known
        if known != self._written:
            checkpoint.replace_file(self.path, json.dumps(known, sort_keys=True).encode(), "taints", mode=0o644)
            self._written = known

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
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.error("taints of faults that last get new times", file=str(path), error=str(error))
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
