"""``kubectl muster`` by kubectl itself, through the proxy of a real API server, with the rights that the manual names."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.apiserver import client, paths
from tests.kubectl import plugin
from tests.live import site as sites
from tests.live import team as teams
from tests.live import work
from tests.testbed import build, fixtures, kubeconfig
from tests.testbed import cluster as clusters
from tests.testbed.controllers import manifests

pytestmark = [pytest.mark.slow, pytest.mark.testbed, pytest.mark.xdist_group("plugin")]

MANUAL = Path(__file__).parents[2] / "docs/kubectl.md"


def address() -> str:
    """Return an address of this machine that is not of its loop: the API server sends nobody there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("198.51.100.1", 9))  # sends nothing
        found: str = one.getsockname()[0]
        return found


def service(port: int) -> list[dict[str, Any]]:
    """Return the service of deploy/, and its endpoint here: the API server's proxy wants one that is a pod's."""
    metadata = {"name": sites.NAME, "namespace": sites.SPACE}
    found = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
    ports = [{"name": "webhook", "port": 443, "targetPort": port}]
    pod = {"kind": "Pod", "name": sites.NAME, "namespace": sites.SPACE}
    own = {"ip": address(), "targetRef": pod}
    subset = {"addresses": [own], "ports": [{"name": "webhook", "port": port}]}
    endpoints = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": [subset]}
    return [found | {"spec": {"ports": ports}}, endpoints]


@pytest.fixture(scope="module")
def site(kubernetes_version: str) -> Iterator[sites.Site]:
    fixtures.require(real_nodes=False)
    with clusters.Cluster(clusters.Options(version=kubernetes_version)).start() as home:
        made = sites.of(home)
        made.start(())
        made.stop_muster()
        made.start_muster("--host", "0.0.0.0")
        asyncio.run(install(home, made.webhook_port))
        yield made


async def install(home: clusters.Cluster, port: int) -> None:
    """Have the service, with a pod that stands for the process here: gated, so that no node takes it."""
    spec = {"schedulingGates": [{"name": "test/none"}], "containers": [{"name": "main", "image": "none"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": sites.NAME}, "spec": spec}
    async with await client.Client.connect(home.kubeconfig) as api:
        await api.create(paths.of("v1", "pods", sites.SPACE), pod)
        status = {"podIP": address(), "podIPs": [{"ip": address()}]}
        await api.patch(paths.of("v1", "pods", sites.SPACE, sites.NAME, "status"), {"status": status})
        await manifests.apply(api, service(port))


@pytest.fixture
async def team(site: sites.Site) -> AsyncIterator[teams.Team]:
    async with await client.Client.connect(site.home.kubeconfig) as api, teams.Team.open(site, api) as opened:
        yield opened


class Kubectl:
    """kubectl with the plugin on its PATH, as a user has it."""

    def __init__(self, team: teams.Team, folder: Path) -> None:
        self.team, self.program = team, (str(build.kubectl(team.site.home.tell)),)
        own = folder / "kubectl-muster"
        own.write_text(f'#!/bin/sh\nexec {sys.executable} -m scheduler.kubectl.cli "$@"\n')
        own.chmod(0o755)
        self.path = f"{folder}{os.pathsep}{os.environ['PATH']}"

    async def muster(self, *arguments: str, config: Path | None = None, stdin: bytes = b"") -> plugin.Said:
        file = str(config or self.team.site.home.kubeconfig)
        return await plugin.call(
            "muster", *arguments, program=self.program, stdin=stdin, PATH=self.path, KUBECONFIG=file
        )


async def account(team: teams.Team, name: str, *rights: manifests.Object) -> Path:
    """Return the kubeconfig of a new account; rights are bound to it."""
    home = team.site.home
    subject = {"kind": "ServiceAccount", "name": name, "namespace": team.name}
    await team.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    for one in rights:
        bind = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": one["metadata"],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": one["kind"], "name": one["metadata"]["name"]},
            "subjects": [subject],
        }
        await manifests.apply(team.api, [one, bind])
    token = team.kubectl("create", "token", name).strip()
    return kubeconfig.write(home.folder / f"{name}.kubeconfig", home.server, home.authority.ca, token)


def role() -> manifests.Object:
    """Return the role that the manual has users apply."""
    [text] = re.findall(r"```yaml\n(.*?)```", MANUAL.read_text(), re.S)
    found: manifests.Object = yaml.safe_load(text)
    return found


def devices(told: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Return pods, nodes and devices by rank, without the names and ids that are made up when claims are."""
    return [(one["pod"], one["node"], [row["device"] for row in one["devices"]]) for one in told["members"]]


async def test_kubectl_finds_the_plugin_and_the_plugin_the_scheduler(team: teams.Team, tmp_path: Path) -> None:
    kubectl = Kubectl(team, tmp_path)
    reader = await account(team, "reader", role())
    stranger = await account(team, "stranger")
    members = work.gang("train", 3)
    wanted = yaml.safe_dump_all(members).encode()
    said = await kubectl.muster("whatif", "-f", "-", "-n", team.name, "-o", "json", config=reader, stdin=wanted)
    assert said.code == 0, said.err
    [wish] = said.json["gangs"]
    await team.create(members)
    await team.phase("gang-train", "Running")
    said = await kubectl.muster("explain", "gang", "train", "-n", team.name, "-o", "json", config=reader)
    assert (said.code, said.err) == (0, "")
    told = said.json
    assert told["by"]["leads"] and devices(told) == devices(wish)
    pods = {one["metadata"]["name"]: one["spec"].get("nodeName") for one in await team.pods()}
    assert {one["pod"]: one["node"] for one in told["members"]} == pods
    said = await kubectl.muster("gangs", "-n", team.name, config=reader)
    assert said.code == 0 and said.out.splitlines()[1].split()[:4] == ["gang-train", "Annotated", "Running", "3/3"]
    for command in (("top",), ("topology",), ("explain", "pod", "train-1", "-n", team.name)):
        said = await kubectl.muster(*command, config=reader)
        assert (said.code, said.err) == (0, ""), command
    said = await kubectl.muster("top", config=stranger)
    assert said.code == 3 and "services/proxy" in said.err and "docs/kubectl.md" in said.err
    said = await kubectl.muster("explain", "gang", "nothing", "-n", team.name, config=reader)
    assert said.code == 4 and "gang-train" in said.err


async def test_without_the_scheduler_the_records_tell(team: teams.Team, tmp_path: Path) -> None:
    kubectl = Kubectl(team, tmp_path)
    await team.create(work.gang("train", 2))
    await team.phase("gang-train", "Running")
    await team.told("Pod/train-0", "GangPlanned")  # an Event comes when nothing else is to be written
    team.site.stop_muster()
    try:
        said = await kubectl.muster("explain", "gang", "train", "-n", team.name)
        assert said.code == 0 and "read from GangPlacements and Events instead" in said.err
        assert "gpu-0" in said.out and "GangPlanned" in said.out
        assert (await kubectl.muster("top")).code == 3
    finally:
        team.site.start_muster("--host", "0.0.0.0")
