"""Kueue: quota for claims through DRA, with a place for Muster's admission check."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.apiserver import client
from tests.testbed.controllers import controller, manifests

VERSION = "kueue.x-k8s.io/v1beta2"
CHECK = "muster.dev/placement"  # controller name of Muster's admission check
FRAMEWORKS = {  # integration, and its webhooks; the LeaderWorkerSet integration turns that of plain pods on as well
    "batch/job": ("job",),
    "jobset.x-k8s.io/jobset": ("jobset",),
    "leaderworkerset.x-k8s.io/leaderworkerset": ("leaderworkerset", "pod"),
    "pod": ("pod",),
}
OWN = ("clusterqueue", "cohort", "resourceflavor", "workload")
PROBE = {"apiVersion": VERSION, "kind": "ResourceFlavor", "metadata": {"name": "webhook-probe"}}


@dataclass(frozen=True, slots=True)
class Devices:
    """The device class that Kueue counts, and the name under which its quotas count it."""

    device_class: str
    resource: str


def start(
    home: controller.Cluster,
    device_class: str = "gpu.muster.dev",
    resource: str = "muster.dev/gpu",
    frameworks: Sequence[str] = ("batch/job", "jobset.x-k8s.io/jobset"),
) -> controller.Running:
    """Start Kueue for some of its integrations; with that of pods, every pod of the cluster passes its webhook."""
    unknown = set(frameworks) - set(FRAMEWORKS)
    if unknown:
        raise LookupError(f"Kueue's integrations {sorted(unknown)} are not set up here; known: {sorted(FRAMEWORKS)}")
    wanted = controller.Controller(
        "kueue",
        functools.partial(_config, Devices(device_class, resource), tuple(frameworks)),
        PROBE,
        ("metadata", "finalizers"),
        flags=("--feature-gates=VisibilityOnDemand=false",),  # an aggregated API server that needs a pod network
        choose=functools.partial(_chosen, frameworks),
        wrap=_with_own_etc,
    )
    return controller.start(home, wanted)


def _config(devices: Devices, frameworks: Sequence[str], seat: controller.Seat) -> dict[str, Any]:
    mapping = {"name": devices.resource, "deviceClassNames": [devices.device_class]}
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"host": "127.0.0.1", "port": seat.webhook, "certDir": str(seat.certificates)},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{seat.health}"},
        "metrics": {"bindAddress": f"127.0.0.1:{seat.metrics}", "enableClusterQueueResources": True},
        "clientConnection": {"qps": 1000, "burst": 1000},
        "integrations": {"frameworks": list(frameworks)},
        "resources": {"deviceClassMappings": [mapping]},
    }


def _chosen(frameworks: Sequence[str], objects: list[manifests.Object]) -> list[manifests.Object]:
    """Keep the webhooks of the integrations in use, as Kueue's own chart does."""
    names = {name for framework in frameworks for name in FRAMEWORKS[framework]} | set(OWN)
    for one in manifests.of_kind(objects, manifests.WEBHOOKS):
        one["webhooks"] = [hook for hook in one["webhooks"] if hook["name"].split(".")[0][1:] in names]
    return objects


def _with_own_etc(seat: controller.Seat, argv: list[str]) -> list[str]:
    """Run Kueue in a mount namespace of its own, whose /etc is one of our folders.

    Kueue reads its metrics certificate from /etc/kueue/metrics/certs and from nowhere else. Nothing is left behind: the
    mount ends with the process. Without root, a user namespace gives the right to mount; the change of credentials
    undoes the wish to die with the parent, so it is made again.
    """
    inside = seat.folder / "etc" / "kueue" / "metrics" / "certs"
    shutil.copytree(seat.certificates, inside, dirs_exist_ok=True)
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    script = 'mount --bind "$0" /etc && exec setpriv --pdeathsig KILL -- "$@"'
    return ["unshare", "--mount", *user, "sh", "-c", script, str(seat.folder / "etc"), *argv]


def queue(
    home: controller.Cluster,
    namespace: str,
    quota: Mapping[str, str | int],
    name: str = "main",
    check: str = "",
    cluster_queue: str = "",
) -> list[manifests.Object]:
    """Make a flavour, a ClusterQueue with a quota for each resource, and a LocalQueue in a namespace.

    Parameters
    ----------
    quota : mapping
        Resource name to quantity: cpu, memory, muster.dev/gpu. Kueue admits no pod that asks for a resource not named
        here.
    check : str
        Name of an AdmissionCheck of Muster's controller to make and to require.
    cluster_queue : str
        Its name; the namespace's own where none is given.
    """
    shared = cluster_queue or namespace
    objects = [flavor(shared), *([admission_check(check)] if check else [])]
    objects += [cluster_queue_of(shared, quota, check), local_queue(namespace, name, shared)]
    return asyncio.run(_apply(home, objects))


async def _apply(home: controller.Cluster, objects: Sequence[manifests.Object]) -> list[manifests.Object]:
    async with await client.Client.connect(home.kubeconfig) as api:
        return await manifests.apply(api, objects)


def flavor(name: str) -> manifests.Object:
    return {"apiVersion": VERSION, "kind": "ResourceFlavor", "metadata": {"name": name}}


def admission_check(name: str, controller_name: str = CHECK) -> manifests.Object:
    spec = {"controllerName": controller_name}
    return {"apiVersion": VERSION, "kind": "AdmissionCheck", "metadata": {"name": name}, "spec": spec}


def cluster_queue_of(name: str, quota: Mapping[str, str | int], check: str = "") -> manifests.Object:
    quotas = [{"name": resource, "nominalQuota": str(amount)} for resource, amount in quota.items()]
    groups = [{"coveredResources": list(quota), "flavors": [{"name": name, "resources": quotas}]}]
    spec: dict[str, Any] = {"namespaceSelector": {}, "resourceGroups": groups}
    if check:
        spec["admissionChecksStrategy"] = {"admissionChecks": [{"name": check}]}
    return {"apiVersion": VERSION, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec}


def local_queue(namespace: str, name: str, cluster_queue: str) -> manifests.Object:
    return {
        "apiVersion": VERSION,
        "kind": "LocalQueue",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterQueue": cluster_queue},
    }
