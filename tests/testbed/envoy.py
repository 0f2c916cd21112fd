"""An Envoy proxy with a given configuration, from the wheel that carries its binary."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.testbed import build, ports, process

READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Envoy:
    """A running proxy; `admin` is the base URL of its admin interface."""

    process: process.Process = field(repr=False)
    admin: str

    def stats(self, prefix: str = "") -> dict[str, int]:
        """Return the counters and gauges whose names begin with `prefix`."""
        with urllib.request.urlopen(f"{self.admin}/stats?format=json", timeout=10.0) as said:
            found = json.load(said)["stats"]
        return {one["name"]: one["value"] for one in found if one.get("name", "").startswith(prefix) and "value" in one}

    def clusters(self) -> str:
        """Return what Envoy knows of its upstream hosts and their health."""
        with urllib.request.urlopen(f"{self.admin}/clusters", timeout=10.0) as said:
            return str(said.read().decode())


def start(parts: process.Group, folder: Path, config: Mapping[str, Any], name: str = "envoy") -> Envoy:
    """Start Envoy with a bootstrap configuration; its `admin` part is added here, on a free port.

    It is ready when all its listeners are, as its own ``/ready`` says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    [port] = ports.free(1)
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**config, "admin": {"address": address}}, sort_keys=False))
    argv = [
        build.wheel("envoy", "envoy", print),
        "--config-path",
        path,
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "--log-level",
        "warn",
    ]
    admin = f"http://127.0.0.1:{port}"
    part = parts.start(name, argv, ready=lambda: _ready(admin), deadline_s=READY_S)
    return Envoy(part, admin)


def _ready(admin: str) -> bool:
    try:
        with urllib.request.urlopen(f"{admin}/ready", timeout=2.0) as said:
            return bool(said.status == 200)
    except urllib.error.HTTPError as error:  # 503 until the listeners are warm
        error.close()
        return False
