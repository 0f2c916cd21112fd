"""The driver as a process on a real node of the testbed, above the stand-ins for NVML and the host's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler.model import node as model_node
from tests.hardware import library, machine, state, sysfs
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, node, objects, process

DRIVER = "gpu.muster.dev"
REGISTERED = "the kubelet has registered the driver"
Object = dict[str, Any]


def wait(what: str, check: Callable[[], Any], deadline_s: float = 30.0) -> Any:
    """Return the first true answer of `check`; without one within the deadline, fail with the last."""
    answer: Any = None
    for _ in process.until(deadline_s, 0.05):
        answer = check()
        if answer:
            return answer
    raise AssertionError(f"{what}: not within {deadline_s:g} s; last answer: {answer!r}")


@dataclass
class Driver:
    """The drivers of one node: at most one for each pod UID. `state` is the file of the NVML stand-in."""

    home: clusters.Cluster
    node: node.Node
    machine: model_node.NodeTopology
    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.root, self.log = self.folder / "root", self.folder / "driver.log"
        sysfs.render(self.machine, self.root)
        self.state = machine.render(self.machine, self.folder)

    @property
    def plugins(self) -> Path:
        return self.node.root / "plugins"

    @property
    def checkpoint(self) -> Path:
        return self.plugins / DRIVER / "checkpoint.json"

    def argv(self, pod_uid: str = "") -> list[str]:
        options = {
            "node-name": self.node.name,
            "kubeconfig": self.home.kubeconfig,
            "registry": self.node.root / "plugins_registry",
            "plugins": self.plugins,
            "cdi": self.node.cdi,
            "root": self.root,
            "host-root": self.root,
            "health-s": 0.5,
            "discover-s": 2,
            "pod-uid": pod_uid,
        }
        given = [f"--{name}={value}" for name, value in options.items() if value != ""]
        return [sys.executable, "-c", "from dra_driver import cli; cli.main()", "run", *given]

    def environment(self) -> dict[str, str]:
        return os.environ | {"LD_LIBRARY_PATH": str(library.folder()), "MUSTER_NVML_STATE": str(self.state)}

    def start(self, pod_uid: str = "", deadline_s: float = 30.0) -> float:
        """Start an instance, return after how many seconds the kubelet had registered it."""
        began, before = time.monotonic(), self.told().count(REGISTERED)
        with self.log.open("ab") as log:
            self.running[pod_uid] = subprocess.Popen(self.argv(pod_uid), stdout=log, stderr=log, env=self.environment())
        wait("registration", lambda: self._registered(pod_uid, before), deadline_s)
        return time.monotonic() - began

    def _registered(self, pod_uid: str, before: int) -> bool:
        code = self.running[pod_uid].poll()
        assert code is None, f"the driver ended with code {code}:\n{self.told()[-4000:]}"
        return self.told().count(REGISTERED) > before

    def told(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def kill(self, pod_uid: str = "") -> None:
        """End an instance with SIGKILL."""
        one = self.running.pop(pod_uid)
        one.kill()
        one.wait(10)

    def stop(self, pod_uid: str = "", deadline_s: float = 25.0) -> None:
        """End an instance with SIGTERM; its exit code must be 0."""
        one = self.running.pop(pod_uid)
        one.terminate()
        assert one.wait(deadline_s) == 0, self.told()[-3000:]

    def close(self) -> None:
        for pod_uid in list(self.running):
            self.kill(pod_uid)

    def leave(self) -> None:
        """End everything and take the slices away, so that no later pod gets devices that nobody prepares."""
        self.close()
        self.home.kubectl("delete", "resourceslices", f"--field-selector=spec.nodeName={self.node.name}")

    def slices(self) -> list[Object]:
        """Return the slices of this node in the order of their names."""
        text = self.home.kubectl("get", "resourceslices", "-o", "json")
        found = [one for one in json.loads(text)["items"] if one["spec"].get("nodeName") == self.node.name]
        return sorted(
            (one for one in found if one["spec"]["driver"] == DRIVER), key=lambda one: str(one["metadata"]["name"])
        )

    def devices(self) -> dict[str, Object]:
        """Return the published devices by name."""
        return {one["name"]: one for item in self.slices() for one in item["spec"].get("devices") or ()}

    def prepared(self) -> dict[str, Object]:
        """Return what the checkpoint has, by the UID of the claim."""
        if not self.checkpoint.exists():
            return {}
        claims: dict[str, Object] = json.loads(self.checkpoint.read_text())["contents"]["claims"]
        return claims


def text(obj: Object) -> str:
    return json.dumps(obj)


def create(space: fixtures.Space, *objs: Object) -> None:
    space.kubectl("create", "-f", "-", stdin="\n---\n".join(json.dumps(obj) for obj in objs))


def request(class_name: str, cel: str = "", count: int = 1, constraint: str = "", **more: Any) -> Object:
    """Return the body of a claim with one request."""
    spec = objects.claim_spec(class_name, count)
    exactly = spec["devices"]["requests"][0]["exactly"]
    exactly.update(more)
    if cel:
        exactly["selectors"] = [{"cel": {"expression": cel}}]
    if constraint:
        spec["devices"]["constraints"] = [{"matchAttribute": constraint}]
    return spec


def claim(name: str, spec: Object) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": spec,
    }


def pod_object(space: fixtures.Space, name: str) -> Object:
    text = space.kubectl("get", "pod", name, "-o", "json", "--ignore-not-found")
    found: Object = json.loads(text) if text.strip() else {}
    return found


def phase(space: fixtures.Space, name: str) -> str:
    return str((pod_object(space, name).get("status") or {}).get("phase", ""))


def running(space: fixtures.Space, *names: str, deadline_s: float = 60.0) -> None:
    for name in names:
        wait(f"pod {name} runs", lambda name=name: phase(space, name) == "Running", deadline_s)


def report(on: node.Node, space: fixtures.Space, name: str) -> Object:
    """Return what the container of a pod said about itself."""
    text = wait(f"report of {name}", lambda: on.pod_log(space.name, name), 20)
    found: Object = json.loads(text.splitlines()[0])
    return found


def chosen(space: fixtures.Space, claim_name: str) -> list[str]:
    """Return the devices of an allocated claim."""
    found = json.loads(space.kubectl("get", "resourceclaim", claim_name, "-o", "json"))
    return [one["device"] for one in found["status"]["allocation"]["devices"]["results"]]


def delete(space: fixtures.Space, *names: str) -> None:
    space.kubectl("delete", "pod", *names, "--wait=true", "--timeout=60s")


def classes(names: Sequence[str]) -> list[Object]:
    return [objects.device_class(name, DRIVER) for name in names]


def claim_object(space: fixtures.Space, name: str) -> Object:
    found: Object = json.loads(space.kubectl("get", "resourceclaim", name, "-o", "json"))
    return found


def claim_status(space: fixtures.Space, name: str) -> Object:
    found: Object = claim_object(space, name).get("status") or {}
    return found


def claim_uid(space: fixtures.Space, name: str) -> str:
    return str(claim_object(space, name)["metadata"]["uid"])


def taints(driver: Driver, device: str) -> list[str]:
    """Return the keys of the taints that a device is published with."""
    return [one["key"] for one in driver.devices().get(device, {}).get("taints") or ()]


def unhealthy(space: fixtures.Space, name: str) -> str:
    """Return what a pod's status says about its unhealthy devices; "" without one."""
    containers = (pod_object(space, name).get("status") or {}).get("containerStatuses") or ()
    told = [
        f"{resource.get('message', '')} ({resource['resourceID']})"
        for container in containers
        for status in container.get("allocatedResourcesStatus") or ()
        for resource in status.get("resources") or ()
        if resource.get("health") == "Unhealthy"
    ]
    return "; ".join(told)


def gaps(driver: Driver, until: Callable[[list[Object]], bool], deadline_s: float = 60.0) -> float:
    """Return how long the node was without its slices, from the last look that saw the old ones to `until`."""
    last = time.monotonic()
    for _ in process.until(deadline_s, 0.02):
        began, found = time.monotonic(), driver.slices()
        if until(found):
            return time.monotonic() - last
        if found:
            last = began
    raise AssertionError(f"no new slices within {deadline_s:g} s")


def instances(driver: Driver) -> list[str]:
    """Return the UUIDs of the MIG devices that exist."""
    with state.changed(driver.state) as found:
        return [
            row.uuid.decode() for gpu in found.gpu[: found.gpus] for row in gpu.instance if row.used and row.ci >= 0
        ]
