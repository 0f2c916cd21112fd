"""Selectors mean to us what they mean to kube-scheduler: the devices that it allocates for them suit in our evaluation."""

import asyncio

import pytest

from scheduler.apiserver import client, paths
from scheduler.kube import cel, claim, classes, fleet, needs, requests
from scheduler.model import claim as model
from tests.kube import test_fleet_live
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, objects

RESOURCE = test_fleet_live.RESOURCE
OURS = "device.attributes['gpu.muster.dev']"
WAIT_S = 40.0

SELECTORS = {
    "model": f"{OURS}.productName == 'A100-SXM4-80GB'",
    "one-of": f"{OURS}.productName in ['L40S-48GB', 'B200-SXM-180GB', 'GB200-192GB'] || {OURS}.architecture == 'Ada Lovelace'",
    "memory": "device.capacity['gpu.muster.dev'].memory.compareTo(quantity('79.8Gi')) > 0",
    "little": "device.capacity['gpu.muster.dev'].memory.isLessThan(quantity('50Gi'))",
    "text": f"{OURS}.productName.startsWith('H1') && {OURS}.productName.lowerAscii().matches('^h[0-9]+-sxm')",
    "guarded": f"has({OURS}.nvlinkDomain) && !has({OURS}.nothing)",
    "optional": f"{OURS}.?nothing.orValue('x') == 'x' && {OURS}.?architecture.orValue('x') != 'Hopper'",
    "absorbed": f"{OURS}.nothing == 1 || {OURS}.index >= 0",
    "choice": f"{OURS}.architecture == 'Hopper' ? {OURS}.index < 0 : {OURS}.migEnabled == false",
    "several": "device.allowMultipleAllocations && 'pcieRoot' in device.attributes['resource.kubernetes.io']",
    "unknown-domain": "!('x' in device.attributes['nobody.example'])",
}
NOBODY = {
    "no-model": f"{OURS}.productName == 'K80'",
    "no-order": f"{OURS}.productName > 'a' && {OURS}.productName < 'b'",
    "no-memory": "device.capacity['gpu.muster.dev'].memory.isGreaterThan(quantity('1Ti'))",
}
FAILING = {
    "fails": f"{OURS}.nothing == 1 || {OURS}.architecture == 'Ampere'",
    "no-guard": f"{OURS}.nothing == 1",
}
"""On some devices they fail: kube-scheduler gives the pod up, and we refuse it."""


async def test_kube_scheduler_allocates_devices_that_suit(fleet_500: clusters.Cluster, space: fixtures.Space) -> None:
    async with await client.Client.connect(fleet_500.kubeconfig) as api:
        found = await test_fleet_live.seen(api, "f500")
        found.refresh()
        known = await test_fleet_live.made_class(api, f"gpu-{space.name}")
        (gpu_class,) = known
        try:
            for name, text in (SELECTORS | NOBODY | FAILING).items():
                await started(api, space.name, gpu_class, name, text)
            allocated = await all_allocated(api, space.name)
            for name, text in SELECTORS.items():
                check(found, known, allocated[name], text)
            for name in (*NOBODY, *FAILING):
                assert allocated[name].rows is None
                refused(found, known, allocated[name], passing=name in NOBODY)
        finally:
            await api.delete(paths.of(RESOURCE, "deviceclasses", name=gpu_class))


async def started(api: client.Client, namespace: str, gpu_class: str, name: str, text: str) -> None:
    body = objects.claim(name, gpu_class)
    body["spec"]["devices"]["requests"][0]["exactly"]["selectors"] = [{"cel": {"expression": text}}]
    await api.create(paths.of(RESOURCE, "resourceclaims", namespace=namespace), body)
    await api.create(paths.of("v1", "pods", namespace=namespace), objects.pod(name, claims=[name]))


async def all_allocated(api: client.Client, namespace: str) -> dict[str, claim.Claim]:
    """Return all claims once those that can be are allocated.

    Raises
    ------
    AssertionError
        Names those that are not after `WAIT_S`, with what kube-scheduler said of their pods.
    """
    end = asyncio.get_running_loop().time() + WAIT_S
    while True:
        items, _ = await api.list(paths.of(RESOURCE, "resourceclaims", namespace=namespace))
        read = {item["metadata"]["name"]: claim.read(item) for item in items}
        late = [name for name in SELECTORS if not read[name].rows]
        if not late:
            return read
        if asyncio.get_running_loop().time() > end:
            events, _ = await api.list(paths.of("v1", "events", namespace=namespace))
            told = {one["involvedObject"]["name"]: one.get("message", "")[:300] for one in events}
            raise AssertionError({name: told.get(name, "") for name in late})
        await asyncio.sleep(0.3)


def check(found: fleet.Fleet, known: dict[str, classes.DeviceClass], own: claim.Claim, text: str) -> None:
    """Check the device that kube-scheduler chose against our evaluation of its selector."""
    (row,) = own.rows or ()
    machine = found.machine(row.pool)
    assert machine is not None
    shape = found.catalog().shape(machine)
    assert shape is not None
    assert cel.compile_expression(text).holds(shape.devices[row.device].seen), (own.name, row)
    (need,) = needs.of_spec(own.name, own.spec, known, found.catalog())
    gpu = machine.topology.gpus[model.held(machine.topology, [row]).gpus[0]]
    assert need.models is None or gpu.model.name in need.models, (own.name, row, need.models)


def refused(found: fleet.Fleet, known: dict[str, classes.DeviceClass], own: claim.Claim, passing: bool) -> None:
    """Check that a claim is refused: for want of devices (`passing`), or because its selector fails."""
    problem = "no device of the cluster suits" if passing else "has no attribute or capacity nothing"
    with pytest.raises(requests.RequestError, match=problem) as error:
        requests.of_claims({own.name: own.spec}, known, found.catalog())
    assert error.value.passing is passing
