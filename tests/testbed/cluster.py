"""A whole cluster in one folder: control plane, real nodes, simulated nodes, controllers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.testbed import build, control, node, pki, process, sweep, versions

Tell = Callable[[str], None]
READY_S = 90.0

TRY_APPLY = (
    *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"),
    *("-f", "-", "-o", "name"),
)
"""Arguments of kubectl that have the API server judge manifests, every field of them, and change nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a cluster consists of; of the user `audited`, if one is named, the API server writes down every request."""

    version: str = versions.NEWEST
    real_nodes: int = 0
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    audited: str = ""


class Cluster:
    """A running cluster.

    `kubeconfig` is the administrator's; `parts` are its processes by name; `nodes` its real nodes by name; `authority` signs
    certificates that all of its programs trust. Whoever makes one closes it.
    """

    def __init__(self, options: Options = Options(), folder: Path | None = None, tell: Tell = lambda _: None) -> None:
        self.options, self.tell = options, tell
        self.own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="muster-"))
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.kubernetes = versions.kubernetes(options.version)
        self.version = self.kubernetes.version
        self.authority = pki.Authority(self.folder / "pki")
        self.parts = process.Group(self.folder / "logs")
        self.bins = build.control(self.version, tell)
        names = tuple(f"real-{index}" for index in range(options.real_nodes))
        self.control = control.ControlPlane(
            self.folder, self.kubernetes, self.bins, self.authority, self.parts, names, options.audited
        )
        self.server, self.kubeconfig = self.control.server, self.control.kubeconfig()
        self.nodes = {name: self._node(name, index) for index, name in enumerate(names)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Start everything and return when all nodes are Ready; a failure leaves nothing running."""
        began = time.monotonic()
        try:
            sweep.watch(self.folder, [one.cgroup for one in self.nodes.values()], self.own_folder)
            self.control.start(self.options.scheduler)
            self.tell(f"control plane {self.version} ready in {time.monotonic() - began:.1f} s")
            for one in self.nodes.values():
                one.start()
            self.wait_ready(tuple(self.nodes))
            if self.nodes:
                self.tell(f"{len(self.nodes)} real nodes ready in {time.monotonic() - began:.1f} s")
        except BaseException:
            self.close()
            raise
        return self

    def _node(self, name: str, index: int) -> node.Node:
        found = node.programs(self.bins["kubelet"])
        config = self.control.kubeconfig(f"system:node:{name}")
        return node.Node(name, index, self.folder / f"n{index}", found, config, self.authority, self.parts)

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as the administrator and return what it printed; its complaint is in the error."""
        argv = [str(build.kubectl(self.tell)), "--kubeconfig", str(self.kubeconfig), *args]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        if check and done.returncode:
            raise process.Failed(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def wait_ready(self, names: tuple[str, ...], deadline_s: float = READY_S) -> None:
        """Wait until these nodes are Ready, and notice a part that dies meanwhile."""
        ready: set[str] = set()
        for _ in process.until(deadline_s, 0.1):
            for part in self.parts.dead():
                raise process.Failed(f"{part.name} ended with code {part.popen.returncode}:\n{part.tail()}")
            if not names:
                return
            listed = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
            ready = {item["metadata"]["name"] for item in listed if is_ready(item)}
            if ready >= set(names):
                return
        raise process.Failed(f"nodes not Ready within {deadline_s:g} s: {', '.join(sorted(set(names) - ready))}")

    def describe(self) -> dict[str, Any]:
        """Return what a person or a program wants to know of a running cluster."""
        return {
            "folder": str(self.folder),
            "version": self.version,
            "server": self.server,
            "kubeconfig": str(self.kubeconfig),
            "pid": os.getpid(),
            "options": asdict(self.options),
            "parts": {name: part.pid for name, part in self.parts.parts.items()},
            "nodes": list(self.nodes),
            "cgroups": [one.cgroup for one in self.nodes.values()],
        }

    def close(self) -> None:
        """Stop everything, nodes first, and remove the folder if it was made for this cluster."""
        for one in self.nodes.values():
            one.stop()
        self.parts.close()
        if self.own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def is_ready(item: dict[str, Any]) -> bool:
    conditions = item["status"].get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
