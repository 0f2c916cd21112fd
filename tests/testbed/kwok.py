"""kwok: makes annotated nodes Ready, renews their leases, and reports pods on them as running.

Its stages are read from kwok's own module when it starts, and put into one file of the cluster's folder.
"""

from __future__ import annotations

import http
import http.client
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

import yaml

from tests.testbed import build, ports, process

STAGES = ("node/fast", "node/heartbeat-with-lease", "pod/fast")
SELECTOR = "kwok.x-k8s.io/node=fake"

LEASE_S = 160
"""kwok renews after a quarter of it. That must stay below the controller-manager's grace period, 50 s by default,
or nodes turn Unknown; less often is better, since 5,000 nodes renew 125 leases a second at this."""

WORKERS = 16
"""Nodes, pods and leases that kwok works on at the same time; its default is 4, and it waits for the API server."""

READY_S = 30.0


class Cluster(Protocol):
    """What kwok needs of a cluster."""

    folder: Path
    kubeconfig: Path
    parts: process.Group


class NoStages(Exception):
    """kwok's module does not hold the stages where they are expected; the message names the folder."""


def start(cluster: Cluster, without: Collection[str] = ()) -> process.Process:
    """Start kwok for a cluster and wait until it answers.

    Parameters
    ----------
    without : collection of str
        Names of stages that are left out: without ``pod-complete`` the pods of Jobs run until somebody ends them.

    Raises
    ------
    NoStages
    """
    config = cluster.folder / "kwok.yaml"
    config.write_text(configuration(build.module_folder("kwok"), without), encoding="utf-8")
    address = f"127.0.0.1:{ports.one()}"
    argv = [build.binary("kwok"), *arguments(cluster.kubeconfig, config, address)]
    return cluster.parts.start("kwok", argv, ready=lambda: answers(address), deadline_s=READY_S)


def arguments(kubeconfig: Path, config: Path, address: str) -> list[str]:
    """Return kwok's command line."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--config={config}",
        f"--manage-nodes-with-annotation-selector={SELECTOR}",
        f"--node-lease-duration-seconds={LEASE_S}",
        f"--server-address={address}",
        "--v=WARN",  # each renewal of a lease is two lines otherwise, 100 kB a second with 5,000 nodes
    ]


def configuration(module: Path, without: Collection[str] = ()) -> str:
    """Return kwok's configuration: its options, and the stages of `STAGES` as they are in its module."""
    options = {"nodePlayStageParallelism": WORKERS, "podPlayStageParallelism": WORKERS, "nodeLeaseParallelism": WORKERS}
    first = {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options}
    kept = [each for stage in STAGES for each in stages(module, stage) if each["metadata"]["name"] not in without]
    return yaml.safe_dump_all([first, *kept])


def stages(module: Path, stage: str) -> list[dict[str, Any]]:
    """Read the stages that a kustomization of the module lists."""
    folder = module / "kustomize" / "stage" / stage
    try:
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
        return [yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in listed]
    except (OSError, KeyError) as error:
        raise NoStages(f"{folder}: no stages: {error}; was kwok's layout changed by a new version?") from error


def answers(address: str) -> bool:
    """Tell whether kwok's server is there; raises `OSError` while it is not."""
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    finally:
        connection.close()
