"""The state of pods, claims and nodes at one instant, and what of it must never be.

A gang with a member on a node is wrong while another member can't follow: it does not exist, not all its claims are
allocated, their devices are not on one node that exists, is Ready and takes pods, it was let go without a pin to
that node, or the node has no room left for it beside the pods that are there or on their way. Two claims with one
device are always wrong. A gang of which a pod was deleted is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scheduler.model import names, quantity
from tests.live import team as teams

POD, CLAIM, NODE = "pod", "claim", "node"
NAMED_BY = ("jobset.sigs.k8s.io/jobset-name", "batch.kubernetes.io/job-name")
"""Labels of pods that say to which workload they belong, the outer one first."""

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """One object as it was from a revision on; `there` is False for its end."""

    revision: int
    kind: str
    there: bool
    item: Obj


@dataclass(slots=True)
class Instant:
    """Who exists, who has which devices, and which gangs are over."""

    sizes: Mapping[str, int]
    pods: dict[str, Obj] = field(default_factory=dict)
    claims: dict[str, Obj] = field(default_factory=dict)
    nodes: dict[str, Obj] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    held_back: set[str] = field(default_factory=set)

    def hear(self, one: Seen) -> None:
        """Take note of what has changed."""
        metadata = one.item["metadata"]
        known = {POD: self.pods, CLAIM: self.claims, NODE: self.nodes}[one.kind]
        key = metadata["name"] if one.kind == NODE else metadata["uid"]
        if one.there:
            known[key] = one.item
        else:
            known.pop(key, None)
        if one.kind == POD and gated(one.item):
            self.held_back.add(key)
        gang = gang_of(one.item) if one.kind == POD else ""
        if gang:
            self.members.setdefault(gang, set()).add(key)
            if not one.there or "deletionTimestamp" in metadata:
                self.over.add(gang)

    def faults(self, revision: int) -> Iterator[str]:
        """Yield what is wrong now."""
        for gang in sorted(self.members.keys() - self.over):
            members = [self.pods[uid] for uid in sorted(self.members[gang])]
            bound = [one for one in members if one["spec"].get("nodeName")]
            if not bound:
                continue
            told = f"revision {revision}: {len(bound)} pods of {gang} have nodes"
            missing = self._size(members[0], gang) - len(members)
            if missing > 0:
                yield f"{told}, {missing} do not exist"
            for one in members:
                why = "" if one["spec"].get("nodeName") else self._impossible(one)
                if why:
                    yield f"{told}, {one['metadata']['name']} {why}"
        given = [row for claim in self.claims.values() for row in teams.allocated(claim)]
        if len(given) != len(set(given)):
            twice = sorted({row for row in given if given.count(row) > 1})
            yield f"revision {revision}: in two claims: {', '.join(twice[:4])}"

    def _size(self, pod: Obj, gang: str) -> int:
        told = (pod["metadata"].get("annotations") or {}).get(names.GANG_SIZE)
        return self.sizes[gang] if told is None else int(told)

    def _impossible(self, pod: Obj) -> str:
        """Return why a pod without a node will never get one; "" where it can."""
        own = [one for one in self.claims.values() if owner(one) == pod["metadata"]["uid"]]
        if len(own) < len(pod["spec"].get("resourceClaims") or ()) or not all(map(teams.allocated, own)):
            return "has no devices"
        pools = {row.partition("/")[0] for claim in own for row in teams.allocated(claim)}
        if len(pools) != 1:
            return f"has devices of {', '.join(sorted(pools))}"
        [name] = pools
        node = self.nodes.get(name)
        if node is None or not takes_pods(node):
            return f"has devices of {name}, which {'takes no pods' if node else 'is no node'}"
        let_go = pod["metadata"]["uid"] in self.held_back and not gated(pod)
        if let_go and pinned(pod) != {name}:  # a pod that came while the webhook was down can't be pinned any more
            return f"has devices of {name} and may run on {', '.join(sorted(pinned(pod))) or 'any node'}"
        return self._no_room(name, node)

    def _no_room(self, name: str, node: Obj) -> str:
        """Return what a node lacks for the pods that are on it or on their way."""
        allocatable = node["status"]["allocatable"]
        here = [one for one in self.pods.values() if name in (one["spec"].get("nodeName"), *pinned(one)) and runs(one)]
        for resource in ("cpu", "memory"):
            wanted = sum(quantity.parse(row.get(resource, 0)) for one in here for row in requests(one))
            if wanted > quantity.parse(allocatable[resource]):
                return f"has devices of {name}, whose {resource} is not enough"
        return f"has devices of {name}, which is full" if len(here) > int(allocatable["pods"]) else ""


def gang_of(pod: Obj) -> str:
    """Return the gang to which a pod says it belongs; "" for none."""
    labels, notes = pod["metadata"].get("labels") or {}, pod["metadata"].get("annotations") or {}
    told = [notes.get(names.GANG_NAME), *(labels.get(label) for label in NAMED_BY)]
    return next((one for one in told if one), "")


def owner(claim: Obj) -> str:
    return str((claim["metadata"].get("ownerReferences") or [{"uid": ""}])[0]["uid"])


def takes_pods(node: Obj) -> bool:
    conditions = {one["type"]: one["status"] for one in node["status"].get("conditions") or ()}
    return conditions.get("Ready") == "True" and not node["spec"].get("unschedulable")


def gated(pod: Obj) -> bool:
    """Tell whether Muster still holds a pod back: it is pinned in the moment in which it is let go."""
    return any(one["name"] == names.GATE for one in pod["spec"].get("schedulingGates") or ())


def pinned(pod: Obj) -> set[str]:
    """Return the nodes to which a pod's affinity holds it; empty where it may run anywhere."""
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [_names(term) for term in required.get("nodeSelectorTerms") or ()]
    return set().union(*terms) if terms and all(terms) else set()


def _names(term: Obj) -> set[str]:
    fields = [one for one in term.get("matchFields") or () if one["key"] == "metadata.name" and one["operator"] == "In"]
    return {name for one in fields for name in one["values"]}


def runs(pod: Obj) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def requests(pod: Obj) -> list[Obj]:
    return [(one.get("resources") or {}).get("requests") or {} for one in pod["spec"]["containers"]]
