"""All that the scheduler knows of the cluster: mirrored objects, the fleet, gangs by pod, and what changed."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scheduler.apiserver import client, paths
from scheduler.kube import claim as claims
from scheduler.kube import classes, fleet, index, kueue, kueue_controller, mirror, part, taint_rule
from scheduler.kube import node as nodes
from scheduler.kube import pod as pods
from scheduler.model import admission

RESOURCE = paths.RESOURCE

Raw = Mapping[str, Any]


def read_template(item: dict[str, Any]) -> claims.Spec:
    """Project a ResourceClaimTemplate to the spec of its claims."""
    return claims.read_spec((item.get("spec") or {}).get("spec") or {})


def read_labels(item: dict[str, Any]) -> Mapping[str, str]:
    """Project a namespace to its labels."""
    labels: Mapping[str, str] = item["metadata"].get("labels") or {}
    return labels


def _core(plural: str) -> tuple[str, ...]:
    return (paths.of("v1", plural),)


def _each(group: str, plural: str, *versions: str) -> tuple[str, ...]:
    return tuple(paths.of(f"{group}/{version}", plural) for version in versions)


KINDS = (
    mirror.Kind("nodes", _core("nodes"), nodes.read, required=True),
    mirror.Kind("namespaces", _core("namespaces"), read_labels, required=True),
    mirror.Kind("pods", _core("pods"), pods.read, required=True),
    mirror.Kind("claims", (paths.of(RESOURCE, "resourceclaims"),), claims.read, required=True),
    mirror.Kind("templates", (paths.of(RESOURCE, "resourceclaimtemplates"),), read_template, required=True),
    mirror.Kind("classes", (paths.of(RESOURCE, "deviceclasses"),), classes.read, required=True),
    mirror.Kind("slices", (paths.of(RESOURCE, "resourceslices"),), part.read, required=True),
    mirror.Kind(
        "taintrules", _each("resource.k8s.io", "devicetaintrules", "v1", "v1beta2", "v1alpha3"), taint_rule.read
    ),
    mirror.Kind("topologies", _each("kueue.x-k8s.io", "topologies", "v1beta2", "v1beta1"), fleet.read_topology),
    mirror.Kind("jobsets", _each("jobset.x-k8s.io", "jobsets", "v1alpha2"), mirror.raw),
    mirror.Kind("jobs", _each("batch", "jobs", "v1"), mirror.raw, required=True),
    mirror.Kind("leaderworkersets", _each("leaderworkerset.x-k8s.io", "leaderworkersets", "v1"), mirror.raw),
    mirror.Kind("podgroups", _each("scheduling.k8s.io", "podgroups", "v1beta1", "v1alpha3", "v1alpha2"), mirror.raw),
    mirror.Kind("podgroups.x-k8s.io", _each("scheduling.x-k8s.io", "podgroups", "v1alpha1"), mirror.raw),
    mirror.Kind("inferencepools", _each("inference.networking.k8s.io", "inferencepools", "v1"), mirror.raw),
    mirror.Kind("workloads.raw", _each("kueue.x-k8s.io", "workloads", *kueue.VERSIONS), mirror.raw),
    *kueue_controller.KINDS,
)
"""What is watched. Kinds that the server does not have are skipped, and picked up when they are installed."""

FLEET = ("nodes", "slices", "taintrules", "topologies")


@dataclass(slots=True, eq=False)
class World:
    """The mirror with what is derived from it.

    Attributes
    ----------
    wake : Event
        Set whenever something changed.
    moved_pods, moved_claims : dict of key
        Those that changed since they were last looked at, the last state before for those that are gone.
    by_uid : dict of UID to key
        Pods that exist.
    moved_pools : set of str
        Pools of which a device was allocated or given back since they were last looked at.
    devices_changed : bool
        Slices or taint rules changed since their taints were last looked at.
    fleet_changed : bool
    on_pool : dict of node to claims
        Allocated claims by the pools of their devices.
    """

    api: client.Client
    options: fleet.Options = field(default_factory=fleet.Options)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    moved_pods: dict[mirror.Key, pods.Pod] = field(default_factory=dict)
    moved_claims: dict[mirror.Key, claims.Claim] = field(default_factory=dict)
    by_uid: dict[str, mirror.Key] = field(default_factory=dict)
    moved_pools: set[str] = field(default_factory=set)
    devices_changed: bool = True
    fleet_changed: bool = True
    on_pool: dict[str, dict[mirror.Key, claims.Claim]] = field(default_factory=dict)
    listeners: list[Callable[[mirror.Change], None]] = field(default_factory=list)
    store: mirror.Mirror = field(init=False)
    live: fleet.Fleet = field(init=False)
    gangs: index.Index = field(default_factory=index.Index)

    def __post_init__(self) -> None:
        self.live = fleet.Fleet(self.options)
        self.store = mirror.Mirror(self.api, KINDS, self.told)

    def told(self, change: mirror.Change) -> None:
        """Take note of a change and wake whoever decides."""
        self.wake.set()
        last = change.after if change.after is not None else change.before
        if change.kind in FLEET:
            self._fleet(change)
        elif change.kind == "pods":
            self.moved_pods[change.key] = last
            self._named(change)
            if last.claims:
                self.look_for(last.nodes)
        elif change.kind == "claims":
            self.moved_claims[change.key] = last
            self._allocated(change)
        elif change.kind == "classes":
            self.gangs.mark_all()
        elif change.kind == kueue.WORKLOADS and change.after is not None:
            for podset in change.after.podsets:
                self.look_for(podset.template.nodes)
        elif change.kind == kueue.FLAVORS and change.after is not None:
            self.look_for(change.after.nodes)
        self.gangs.change(change)
        for listen in self.listeners:
            listen(change)

    def look_for(self, wanted: admission.Admission) -> bool:
        """Have the labels and taints that a pod's place depends on kept with the nodes; tell whether that is news."""
        news = self.live.look_for(wanted)
        self.fleet_changed |= news
        return news

    def _named(self, change: mirror.Change) -> None:
        """Keep the key of each pod by its UID."""
        if change.before is not None:
            self.by_uid.pop(change.before.uid, None)
        if change.after is not None:
            self.by_uid[change.after.uid] = change.key

    def _allocated(self, change: mirror.Change) -> None:
        """Keep the claims of each pool."""
        for row in change.before.rows or () if change.before else ():
            self.on_pool.get(row.pool, {}).pop(change.key, None)
            self.moved_pools.add(row.pool)
        for row in change.after.rows or () if change.after else ():
            self.on_pool.setdefault(row.pool, {})[change.key] = change.after
            self.moved_pools.add(row.pool)

    def _fleet(self, change: mirror.Change) -> None:
        self.fleet_changed = True
        self.devices_changed |= change.kind in ("slices", "taintrules")
        before, after = change.before, change.after
        if before is not None and (after is None or _moved(before, after)):
            self.live.remove(before)
        if after is not None:
            self.live.update(after)

    def pod(self, key: mirror.Key) -> pods.Pod | None:
        """Return a pod that exists."""
        found: pods.Pod | None = self.store["pods"].get(key)
        return found

    def claim(self, namespace: str, name: str) -> claims.Claim | None:
        """Return a claim that exists."""
        found: claims.Claim | None = self.store["claims"].get((namespace, name))
        return found

    def present(self, *kinds: str) -> Iterator[mirror.Change]:
        """Yield what is there as if it came just now."""
        for kind in kinds:
            for key, found in self.store[kind].items():
                yield mirror.Change(kind, key, None, found)

    def tenant(self, namespace: str) -> str:
        """Return the tenant of a namespace: its label, else its name."""
        labels: Mapping[str, str] = self.store["namespaces"].get(("", namespace)) or {}
        return labels.get("muster.dev/tenant") or namespace


def _moved(before: Any, after: Any) -> bool:
    """Tell whether a slice went from one node to another; no other value of the fleet can."""
    return isinstance(before, part.Part) and before.node != after.node
