"""The driver as a process on a real node of the testbed, above the stand-ins for NVML and the host's files."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from scheduler.apiserver import client, paths
from scheduler.model import node as model_node
from tests.driver import metrics
from tests.hardware import library, machine, state, sysfs
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, kubeconfig, node, objects, process

DRIVER = "gpu.muster.dev"
DEPLOY = Path(__file__).parents[2] / "deploy/driver"
SPACE, ACCOUNT = "muster-system", "muster-dra-driver"
SLICES = paths.of(paths.RESOURCE, "resourceslices")
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
    kubeconfig: Path | None = None
    """Of the account that the driver has, where it is not the administrator's."""

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
            "kubeconfig": self.kubeconfig or self.home.kubeconfig,
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
        began, before = time.monotonic(), self.told(pod_uid).count(REGISTERED)
        with self.log_of(pod_uid).open("ab") as log:
            self.running[pod_uid] = subprocess.Popen(self.argv(pod_uid), stdout=log, stderr=log, env=self.environment())
        wait("registration", lambda: self._registered(pod_uid, before), deadline_s)
        return time.monotonic() - began

    def _registered(self, pod_uid: str, before: int) -> bool:
        code = self.running[pod_uid].poll()
        assert code is None, f"the driver ended with code {code}:\n{self.told(pod_uid)[-4000:]}"
        return self.told(pod_uid).count(REGISTERED) > before

    def log_of(self, pod_uid: str) -> Path:
        """Return the log of the instance of a pod; what has no pod UID writes into `log`."""
        return self.log.with_name(f"driver-{pod_uid}.log") if pod_uid else self.log

    def told(self, pod_uid: str = "") -> str:
        log = self.log_of(pod_uid)
        return log.read_text() if log.exists() else ""

    def calls(self, pod_uid: str, method: str) -> list[Object]:
        """Return the records of an instance about calls that ended, oldest first."""
        records = [json.loads(line) for line in self.told(pod_uid).splitlines() if line.startswith("{")]
        return [one for one in records if one["event"] == "call ended" and one["method"] == method]

    def resident(self, pod_uid: str = "") -> float:
        """Return the resident memory of an instance, MiB."""
        return psutil.Process(self.running[pod_uid].pid).memory_info().rss / 2**20

    def kill(self, pod_uid: str = "") -> None:
        """End an instance with SIGKILL."""
        one = self.running.pop(pod_uid)
        one.kill()
        one.wait(10)

    def stop(self, pod_uid: str = "", deadline_s: float = 25.0) -> None:
        """End an instance with SIGTERM; its exit code must be 0."""
        one = self.running.pop(pod_uid)
        one.terminate()
        assert one.wait(deadline_s) == 0, self.told(pod_uid)[-3000:]

    def close(self) -> None:
        for pod_uid in list(self.running):
            self.kill(pod_uid)

    def arrive(self, deadline_s: float = 30.0) -> None:
        """Start on a node of which no earlier test has a device any more.

        A pod that finds none is tried again by kube-scheduler 1.34 when a claim is given back, but not when it is deleted.
        """
        self.start(deadline_s=deadline_s)
        wait("no claim of an earlier test holds a device of the node", lambda: not self._held(), 90)

    def _held(self) -> list[str]:
        """Return the claims that have devices of the node."""
        claims = json.loads(self.home.kubectl("get", "resourceclaims", "-A", "-o", "json"))["items"]
        given = {one["metadata"]["name"]: (one.get("status") or {}).get("allocation") or {} for one in claims}
        return [
            name
            for name, had in given.items()
            if any(row["pool"] == self.node.name for row in (had.get("devices") or {}).get("results") or ())
        ]

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


def pod(driver: Driver, name: str, claim_name: str, **spec: Any) -> Object:
    """Return a pod on the driver's node with a claim, whose container tries to open each GPU of the node."""
    made = objects.pod(name, ["run"], driver.node.name, claims=[claim_name], **spec)
    tried = ",".join(f"195:{gpu.index}" for gpu in driver.machine.gpus)
    made["spec"]["containers"][0]["env"].append({"name": "PROBE", "value": tried})
    return made


def phase(space: fixtures.Space, name: str) -> str:
    return str((pod_object(space, name).get("status") or {}).get("phase", ""))


def running(space: fixtures.Space, *names: str, deadline_s: float = 60.0) -> None:
    for name in names:
        wait(f"pod {name} runs", lambda name=name: phase(space, name) == "Running", deadline_s)


def restarts(space: fixtures.Space, name: str) -> int:
    containers = (pod_object(space, name).get("status") or {}).get("containerStatuses") or ()
    return sum(one["restartCount"] for one in containers)


def report(on: node.Node, space: fixtures.Space, name: str, restart: int = 0) -> Object:
    """Return what the container of a pod said about itself when it started, the first or a later time."""

    def lines() -> list[str]:
        return on.pod_log(space.name, name).splitlines()

    told = wait(f"report {restart} of {name}", lambda: len(lines()) > restart and lines(), 20)
    found: Object = json.loads(told[restart])
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


def health(space: fixtures.Space, name: str) -> list[tuple[str, str]]:
    """Return health and message of each device in a pod's status."""
    containers = (pod_object(space, name).get("status") or {}).get("containerStatuses") or ()
    return [
        (resource.get("health", ""), resource.get("message", ""))
        for container in containers
        for status in container.get("allocatedResourcesStatus") or ()
        for resource in status.get("resources") or ()
    ]


def complete(found: Sequence[Object]) -> bool:
    """Tell whether these slices are a whole pool of one generation."""
    pools = [one["spec"]["pool"] for one in found]
    return bool(pools) and len(pools) == pools[0]["resourceSliceCount"] and len({p["generation"] for p in pools}) == 1


async def gap(driver: Driver, before: Sequence[Object], deadline_s: float = 60.0) -> float:
    """Return how long the node was without a complete pool, from the last look that saw an old slice."""
    old = {one["metadata"]["uid"] for one in before}
    last = time.monotonic()
    async with await client.Client.connect(driver.home.kubeconfig) as api, asyncio.timeout(deadline_s):
        while True:
            began = time.monotonic()
            found, _ = await api.list(SLICES, fieldSelector=f"spec.nodeName={driver.node.name}")
            uids = {one["metadata"]["uid"] for one in found}
            if complete(found) and not old & uids:
                return time.monotonic() - last
            if uids & old:
                last = began
            await asyncio.sleep(0.02)


def counted(driver: Driver) -> dict[str, float]:
    """Return how many calls to the driver the node's kubelet counted since it started, by how they ended."""
    told = driver.home.kubectl("get", "--raw", f"/api/v1/nodes/{driver.node.name}/proxy/metrics")
    found: dict[str, float] = {}
    for labels, value in metrics.samples(told, "dra_grpc_operations_duration_seconds_count", driver_name=DRIVER):
        found[labels["grpc_status_code"]] = found.get(labels["grpc_status_code"], 0) + value
    return found


def account(home: clusters.Cluster, node_name: str, folder: Path) -> Path:
    """Apply the driver's roles, policy and classes, and return the kubeconfig of its account on a node."""
    for file in ("namespace", "rbac", "policy", "classes"):
        home.kubectl("apply", "-f", str(DEPLOY / f"{file}.yaml"))
    owner = objects.pod(f"driver-on-{node_name}", node=node_name)
    owner["spec"]["serviceAccountName"] = ACCOUNT
    home.kubectl("-n", SPACE, "apply", "-f", "-", stdin=text(owner))
    bound = "jsonpath={.spec.nodeName}"
    name = owner["metadata"]["name"]
    wait("the account's pod is on its node", lambda: home.kubectl("-n", SPACE, "get", "pod", name, "-o", bound))
    token = home.kubectl(
        "-n", SPACE, "create", "token", ACCOUNT, "--bound-object-kind=Pod", f"--bound-object-name={name}"
    )
    path = folder / "account.kubeconfig"
    kubeconfig.write(path, home.server, home.authority.ca, token.strip())
    may = ("auth", "can-i", "list", "resourceslices", f"--as=system:serviceaccount:{SPACE}:{ACCOUNT}")
    wait("its role is known", lambda: home.kubectl(*may, check=False).startswith("yes"))
    return path


def instances(driver: Driver) -> dict[str, tuple[int, int]]:
    """Return the MIG devices that exist: GPU and number of the GPU instance by UUID."""
    with state.changed(driver.state) as found:
        return {
            row.uuid.decode(): (index, number)
            for index, gpu in enumerate(found.gpu[: found.gpus])
            for number, row in enumerate(gpu.instance)
            if row.used and row.ci >= 0
        }


def forget_instances(driver: Driver) -> None:
    """Take all MIG devices away, as a reboot does."""
    with state.changed(driver.state) as found:
        for gpu in found.gpu[: found.gpus]:
            for row in gpu.instance:
                row.used, row.ci, row.uuid = 0, -1, b""
