"""The driver's manifests: what real servers take, what its account may do, and that they agree with its settings."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dra_driver import claim, config, opaque
from scheduler.apiserver import client, errors, paths
from scheduler.kube import catalog
from tests.driver import host
from tests.kube import fleets
from tests.testbed import cluster as clusters
from tests.testbed import kubeconfig, objects

DEPLOY = Path(__file__).parents[2] / "deploy/driver"
FILES = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]
SPACE, ACCOUNT = "muster-system", "muster-dra-driver"
SLICES = paths.of(paths.RESOURCE, "resourceslices")
PLURALS = {
    "Namespace": "namespaces",
    "ServiceAccount": "serviceaccounts",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
    "DeviceClass": "deviceclasses",
    "DaemonSet": "daemonsets",
}


def manifests() -> Iterator[dict[str, Any]]:
    for file in FILES:
        yield from yaml.safe_load_all((DEPLOY / file).read_text())


def daemonset() -> dict[str, Any]:
    return next(one for one in manifests() if one["kind"] == "DaemonSet")


def container() -> dict[str, Any]:
    found: dict[str, Any] = daemonset()["spec"]["template"]["spec"]["containers"][0]
    return found


def test_every_argument_is_a_setting_and_every_path_is_mounted() -> None:
    given = dict(one.removeprefix("--").split("=", 1) for one in container()["args"])
    settings = {name.replace("-", "_"): value for name, value in given.items()}
    assert settings.keys() <= config.Config.model_fields.keys()
    known = config.Config(**{**settings, "node_name": "n", "pod_uid": "u"})
    mounts = {one["mountPath"]: one for one in container()["volumeMounts"]}
    volumes = {one["name"]: one for one in daemonset()["spec"]["template"]["spec"]["volumes"]}
    for path in (known.registry, known.plugins, known.cdi, known.pod_resources.parent):
        volume = volumes[mounts[str(path)]["name"]]
        assert volume["hostPath"]["path"] == str(path), "the kubelet is told this path: it is the same on the host"
    assert str(known.root) in mounts and known.library is None, "it is looked for below the root"
    assert known.http_address[1] == container()["ports"][0]["containerPort"]


def test_an_upgrade_never_leaves_a_node_without_a_driver() -> None:
    rolling = daemonset()["spec"]["updateStrategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 1, "maxUnavailable": 0}
    refs = {one["name"]: one["valueFrom"]["fieldRef"]["fieldPath"] for one in container()["env"]}
    assert refs == {"NODE_NAME": "spec.nodeName", "POD_UID": "metadata.uid"}


EXAMPLES = sorted((DEPLOY / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_asks_for_devices_that_a_machine_publishes(path: Path) -> None:
    """Classes, selectors and configuration of each example, by the code of the driver and of the scheduler."""
    template, pod = yaml.safe_load_all(path.read_text())
    devices = template["spec"]["spec"]["devices"]
    classes = {one["metadata"]["name"]: one for one in manifests() if one["kind"] == "DeviceClass"}
    for request in devices["requests"]:
        exact = request["exactly"]
        chosen = [*classes[exact["deviceClassName"]]["spec"]["selectors"], *exact.get("selectors", [])]
        wanted = catalog.Wanted(tuple(one["cel"]["expression"] for one in chosen), ())
        assert fleets.told(host.machine("dgx-a100", mig_gpus=(0,))).catalog().match(wanted).most > 0, request["name"]
    for given in devices.get("config", ()):
        told = given["opaque"]
        opaque.decode(claim.Opaque("config", "FromClaim", tuple(given["requests"]), told["parameters"]))
    assert [one["resourceClaimTemplateName"] for one in pod["spec"]["resourceClaims"]] == [template["metadata"]["name"]]


async def test_manifests_and_examples_are_accepted_as_they_are(cluster: clusters.Cluster) -> None:
    texts = [(DEPLOY / file).read_text() for file in FILES] + [path.read_text() for path in EXAMPLES]
    space = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {SPACE}}}\n"
    await asyncio.to_thread(cluster.kubectl, "apply", "-f", "-", stdin=space)
    said = await asyncio.to_thread(cluster.kubectl, *clusters.TRY_APPLY, stdin="\n---\n".join(texts))
    assert len(said.split()) == sum(len(list(yaml.safe_load_all(text))) for text in texts)


async def install(api: client.Client) -> None:
    """Apply all manifests with every field checked; what is there stays."""
    for one in manifests():
        path = paths.of(one["apiVersion"], PLURALS[one["kind"]], one["metadata"].get("namespace", ""))
        try:
            await api.create(path, one, fieldValidation="Strict")
        except errors.ApiError as error:
            if not error.exists:
                raise


@contextlib.asynccontextmanager
async def as_driver(
    api: client.Client, home: clusters.Cluster, node: str, folder: Path
) -> AsyncIterator[client.Client]:
    """Act with a token of the driver's account that is bound to a pod on a node, as the kubelet mounts it."""
    name = f"acts-on-{node}"
    body = objects.pod(name, node=node)
    body["spec"]["serviceAccountName"] = ACCOUNT
    made = await api.create(paths.of("v1", "pods", SPACE), body)
    await until_bound(api, name)
    bound = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": made["metadata"]["uid"]}
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600, "boundObjectRef": bound},
    }
    told = await api.create(paths.of("v1", "serviceaccounts", SPACE, ACCOUNT, "token"), asked)
    path = folder / f"{node}.kubeconfig"
    kubeconfig.write(path, home.server, home.authority.ca, told["status"]["token"])
    try:
        async with await client.Client.connect(path) as driver:
            yield driver
    finally:
        await api.delete(paths.of("v1", "pods", SPACE, name), grace_s=0)


def piece(name: str, node: str, driver: str = "gpu.muster.dev") -> dict[str, Any]:
    return objects.resource_slice(name, driver, node, ["gpu-0"])


async def test_the_account_may_do_its_work_on_its_own_node_only(real_nodes: clusters.Cluster, tmp_path: Path) -> None:
    async with await client.Client.connect(real_nodes.kubeconfig) as api:
        await install(api)
        async with as_driver(api, real_nodes, "real-0", tmp_path) as driver:
            made = await until_allowed(driver, piece("of-real-0", "real-0"))
            made["spec"]["pool"]["generation"] = 2
            await driver.replace(f"{SLICES}/of-real-0", made)
            await driver.list(SLICES, fieldSelector="spec.nodeName=real-0")
            said = await until_refused(api, driver, piece("strange", "real-1"))
            assert "the driver of node real-0 may write slices of that node only" in said
            said = await until_refused(api, driver, piece("foreign", "real-0", "other.example.com"))
            assert "the driver may write slices of gpu.muster.dev only" in said
            await api.create(SLICES, piece("of-real-1", "real-1"))
            with pytest.raises(errors.ApiError, match="of that node only"):
                await driver.delete(f"{SLICES}/of-real-1")
            await api.delete(f"{SLICES}/of-real-1")
            await driver.get(paths.of("v1", "nodes", name="real-0"))
            await driver.list(paths.of(paths.RESOURCE, "resourceclaims"))
            assert await may(driver, "list", "resourceclaims", paths.RESOURCE)
            for kind, space in (("secrets", SPACE), ("nodes", ""), ("pods", SPACE)):
                assert not await may(driver, "list", kind, namespace=space)
            await driver.delete(f"{SLICES}/of-real-0")


async def may(driver: client.Client, verb: str, resource: str, group: str = "", namespace: str = "") -> bool:
    """Ask the server what its authorizer says of the account; a request that it bars would be in the audit log of all drivers."""
    asked = {"verb": verb, "group": group.partition("/")[0], "resource": resource, "namespace": namespace}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    told = await driver.create(paths.of("authorization.k8s.io/v1", "selfsubjectaccessreviews"), body)
    return bool(told["status"]["allowed"])


async def until_bound(api: client.Client, name: str) -> None:
    """Wait until a pod is on its node: a token that is made before names no node."""
    async with asyncio.timeout(30):
        while not (await api.get(paths.of("v1", "pods", SPACE, name)))["spec"].get("nodeName"):
            await asyncio.sleep(0.05)


async def until_refused(api: client.Client, driver: client.Client, body: dict[str, Any]) -> str:
    """Create a slice until the policy refuses it, and return its message; a policy that is seconds old may not hold yet."""
    for _ in range(300):
        try:
            await driver.create(SLICES, body)
        except errors.ApiError as error:
            return str(error)
        await api.delete(f"{SLICES}/{body['metadata']['name']}")
        await asyncio.sleep(0.1)
    raise AssertionError(f"the policy never refused {body['metadata']['name']}")


async def until_allowed(driver: client.Client, body: dict[str, Any]) -> dict[str, Any]:
    """Create a slice; a role and a policy that are seconds old may not be known to the server yet."""
    for _ in range(100):
        try:
            found: dict[str, Any] = await driver.create(SLICES, body)
            return found
        except errors.ApiError as error:
            if error.status != 403:
                raise
            refusal = error
        await asyncio.sleep(0.1)
    raise refusal
