"""What the API server keeps of a slice: by its version, by writes on trial, and by what it drops from real writes.

A server whose gates are off drops fields without a word. Partitions that lost their counters would be over-allocated,
so they are asked for on trial (``dryRun=All``) before the first of them is published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import structlog

from dra_driver.publish import plan
from scheduler.apiserver import client, errors, paths
from scheduler.model import slices

log = structlog.get_logger()

PATH = paths.of(paths.RESOURCE, "resourceslices")

FIELDS = {
    "sharedCounters": "partitionable",
    "consumesCounters": "partitionable",
    "allowMultipleAllocations": "consumable",
    "requestPolicy": "consumable",
    "taints": "taints",
}
"""Fields that go with a gate that is off, and the feature of the layout that they belong to."""


SHARES_FROM = 35
"""Before it, kube-scheduler with the gate on stops at the first device of a slice that is used up (kubernetes#133705)."""


LISTS_FROM = 36


class ServerError(RuntimeError):
    """The API server does not say what is needed."""


async def ask(api: client.Client, driver: str, node_name: str, lists: bool = False) -> slices.Layout:
    """Return the layout that a server takes; nothing is stored.

    Parameters
    ----------
    lists : bool
        NUMA nodes are to be lists. That is for whoever runs the cluster to say, since all drivers in it must do alike.
    """
    minor = version_minor(await api.get("/version"))
    form = slices.layout(minor, partitionable=True, consumable=minor >= SHARES_FROM)
    lost: set[str] = set()
    for trial in _trials(driver, node_name, form):
        kept = await api.create(PATH, trial, dryRun="All")
        lost |= dropped(trial, kept)
    form = without(form, lost)
    if lists and (minor < LISTS_FROM or not await _keeps_lists(api, driver, node_name)):
        log.warning("the API server keeps no lists: NUMA nodes are published as single numbers", minor=minor)
        lists = False
    return replace(form, lists=lists)


async def owner(api: client.Client, node_name: str) -> dict[str, Any]:
    """Return the owner of new slices. A node that was made anew has another UID, and slices of a dead owner are deleted."""
    try:
        found = await api.get(paths.of("v1", "nodes", name=node_name))
    except errors.ApiError as error:
        if error.missing:
            raise ServerError(
                f"node {node_name} is not known to the API server; is --node-name what the kubelet calls it?"
            ) from error
        raise
    uid = found["metadata"]["uid"]
    return {"apiVersion": "v1", "kind": "Node", "name": node_name, "uid": uid, "controller": True}


def version_minor(said: Any) -> int:
    """Return the minor version; some providers write ``"34+"``."""
    match = re.match(r"\d+", str(said.get("minor", ""))) if isinstance(said, dict) else None
    if match is None:
        raise ServerError(f"/version: minor: no number in {said!r}; is this a Kubernetes API server?")
    return int(match[0])


def dropped(sent: dict[str, Any], kept: dict[str, Any]) -> set[str]:
    """Return the features whose fields were sent and did not come back; "unknown" for any other loss or change."""
    lost = {FIELDS.get(name, "unknown") for name in _missing(sent["spec"], kept.get("spec", {}), "spec")}
    return lost or (set() if plan.same(sent, kept) else {"unknown"})


def without(form: slices.Layout, lost: set[str]) -> slices.Layout:
    """Return a layout without some features; what is unknown cannot be left out."""
    return replace(form, **dict.fromkeys(lost - {"unknown"}, False))


def _missing(sent: Any, kept: Any, name: str) -> Iterator[str]:
    """Yield the names of the fields that are not there any more."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        for key, value in sent.items():
            if key not in kept and value not in (None, [], {}, "", False):
                yield key
            elif key in kept:
                yield from _missing(value, kept[key], key)
    elif isinstance(sent, list) and isinstance(kept, list):
        if len(sent) != len(kept):
            yield name
        for one, other in zip(sent, kept, strict=False):
            yield from _missing(one, other, name)


def _trials(driver: str, node_name: str, form: slices.Layout) -> list[dict[str, Any]]:
    one = {"value": "1"}
    device: dict[str, Any] = {
        "name": "trial",
        "allowMultipleAllocations": True,
        "capacity": {"milli": {"value": "2", "requestPolicy": {"default": "1", "validRange": {"min": "1"}}}},
        "taints": [{"key": "muster.dev/trial", "effect": "NoSchedule"}],
        "consumesCounters": [{"counterSet": "trial", "counters": {"slice": one}}],
    }
    sets = [{"name": "trial", "counters": {"slice": one}}]
    parts: list[dict[str, Any]] = [{"sharedCounters": sets}, {"devices": [device]}]
    if not form.split_counters:
        parts = [parts[0] | parts[1]]
    return [_trial(driver, node_name, part) for part in parts]


def _trial(driver: str, node_name: str, part: dict[str, Any]) -> dict[str, Any]:
    pool = {"name": node_name, "generation": 0, "resourceSliceCount": 1}
    return {
        "apiVersion": slices.API_VERSION,
        "kind": "ResourceSlice",
        "metadata": {"generateName": "muster-trial-"},
        "spec": {"driver": driver, "nodeName": node_name, "pool": pool, **part},
    }


async def _keeps_lists(api: client.Client, driver: str, node_name: str) -> bool:
    """A server that drops the list finds an attribute without a value, and refuses."""
    trial = _trial(driver, node_name, {"devices": [{"name": "trial", "attributes": {"numa": {"ints": [0, 1]}}}]})
    try:
        kept = await api.create(PATH, trial, dryRun="All")
    except errors.ApiError as error:
        if error.status in (400, 422):
            return False
        raise
    (entry,) = kept["spec"]["devices"]
    return bool(entry["attributes"]["numa"].get("ints") == [0, 1])
