"""Objects of other projects: rendered from their module's folder at run time, and applied.

Nothing of theirs is committed here. ``config/default`` is what each project installs by ``kubectl apply -k``; the testbed
takes from it all but the parts that only make sense where the controller runs as a pod.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from scheduler.apiserver import client, errors

Object = dict[str, Any]

MANAGER = "muster-testbed"  # field manager of everything that the testbed applies
IN_A_POD = {"Deployment", "Service", "Secret", "ConfigMap", "APIService"}
WEBHOOKS = {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}
CRD = "CustomResourceDefinition"
RENDER_S = 60.0


def rendered(kubectl: Path, folder: Path) -> list[Object]:
    """Return the objects of a kustomization."""
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=RENDER_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"kubectl kustomize {folder} ended with {done.returncode}: {done.stderr.strip()[:500]}")
    return [one for one in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if one]


def of_kind(objects: Iterable[Object], kinds: Iterable[str]) -> list[Object]:
    wanted = set(kinds)
    return [one for one in objects if one["kind"] in wanted]


def outside_pods(objects: Iterable[Object]) -> list[Object]:
    """Leave out the controller's own deployment, and the webhooks: those are for when it answers."""
    return [one for one in objects if one["kind"] not in IN_A_POD | WEBHOOKS]


def account(objects: Iterable[Object]) -> tuple[str, str]:
    """Return namespace and name of the service account that the controller's deployment runs as."""
    [deployment] = of_kind(objects, ["Deployment"])
    return deployment["metadata"]["namespace"], deployment["spec"]["template"]["spec"]["serviceAccountName"]


class Paths:
    """Where objects live in the API, asked from the server's discovery once for each group."""

    def __init__(self, api: client.Client) -> None:
        self.api = api
        self._known: dict[str, dict[str, Object]] = {}

    async def collection(self, obj: Object) -> str:
        version, kind = obj["apiVersion"], obj["kind"]
        resource = (await self._resources(version)).get(kind)
        if resource is None:
            raise LookupError(f"the API server does not serve {kind} of {version}: apply its CRD before the object")
        inside = f"/namespaces/{obj['metadata']['namespace']}" if resource["namespaced"] else ""
        return f"{_group(version)}{inside}/{resource['name']}"

    async def of(self, obj: Object) -> str:
        return f"{await self.collection(obj)}/{obj['metadata']['name']}"

    async def _resources(self, version: str) -> dict[str, Object]:
        if version not in self._known:
            found = await self.api.get(_group(version))
            self._known[version] = {one["kind"]: one for one in found["resources"] if "/" not in one["name"]}
        return self._known[version]


def _group(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


async def apply(api: client.Client, objects: Sequence[Object]) -> list[Object]:
    """Apply the objects in their order (server-side), namespaces and CRDs first; return them as the server keeps them."""
    paths = Paths(api)
    first = [one for one in objects if one["kind"] in (CRD, "Namespace")]
    rest = [one for one in objects if one["kind"] not in (CRD, "Namespace")]
    kept = [await api.apply(await paths.of(one), one, MANAGER) for one in first]
    await established(api, [one["metadata"]["name"] for one in of_kind(first, [CRD])])
    return kept + [await api.apply(await paths.of(one), one, MANAGER) for one in rest]


async def established(api: client.Client, names: Iterable[str], deadline_s: float = 30.0) -> None:
    """Wait until the server serves the custom resources."""
    for name in names:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        try:
            async with asyncio.timeout(deadline_s):
                while not _true((await api.get(path)).get("status", {}), "Established"):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TimeoutError(f"CRD {name} is not Established after {deadline_s:.0f} s") from None


async def served(api: client.Client, obj: Object, deadline_s: float = 15.0) -> str:
    """Return the collection of an object; discovery and the handler of a new CRD lag its Established by a moment."""
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    path = await Paths(api).collection(obj)
                    await api.get(path, limit="1")
                    return path
                except (errors.ApiError, LookupError):
                    await asyncio.sleep(0.1)
    except TimeoutError:
        raise TimeoutError(f"{obj['kind']} of {obj['apiVersion']} is not served after {deadline_s:.0f} s") from None


def _true(status: Object, kind: str) -> bool:
    return any(one["type"] == kind and one["status"] == "True" for one in status.get("conditions") or [])
