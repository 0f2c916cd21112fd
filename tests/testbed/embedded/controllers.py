"""The controllers that a control plane has beside its API server, as far as Muster leans on them.

Each is a function of the changed object; `Controllers` feeds them all changes of the store, in order.
"""

from __future__ import annotations

import copy
from typing import Any

from tests.testbed.embedded import claims, failure
from tests.testbed.embedded.objects import FOREGROUND, Objects
from tests.testbed.embedded.paths import Target
from tests.testbed.embedded.store import Change, Object

ALL = frozenset({"accounts", "claims", "scheduler", "garbage", "namespaces"})
CLAIMS = "resourceclaims.resource.k8s.io"
REFERENCE = "resource.kubernetes.io/pod-claim-name"
DONE = ("Succeeded", "Failed")


class Controllers:
    """All controllers of one server."""

    def __init__(self, objects: Objects, run: frozenset[str]) -> None:
        if strange := run - ALL:
            raise ValueError(f"no such controllers: {sorted(strange)}; there are {sorted(ALL)}")
        self.objects, self.store, self.names = objects, objects.store, run
        self.seen = 1000
        self.owned: dict[str, set[tuple[str, str, str]]] = {}  # owner's uid -> storage, namespace, name
        self.uids: set[str] = set()

    async def run(self) -> None:
        news = self.store.listen()
        try:
            while True:
                await news.wait()
                news.clear()
                self.catch_up()
        finally:
            self.store.deafen(news)

    def catch_up(self) -> None:
        """Handle all changes, and those that the handling makes."""
        while changes := self.store.since(max(self.seen, self.store.floor)):
            for change in changes:
                self.seen = change.version
                self._handle(change)

    def _handle(self, change: Change) -> None:
        self._index(change)
        if "accounts" in self.names and change.storage == "namespaces" and change.before is None:
            self._make_account(change.key[1])
        if "namespaces" in self.names:
            self._end_namespace(change)
        if "claims" in self.names:
            self._claims(change)
        if "scheduler" in self.names and change.storage in ("pods", "nodes", CLAIMS):
            self._schedule(change)
        if "garbage" in self.names:
            self._collect(change)

    def _kind(self, storage: str) -> Any:
        return next(kind for kind in self.objects.served.values() if kind.storage == storage)

    def _now(self, change: Change) -> Object | None:
        """Return the object of a change as it is by now."""
        return self.store.get(change.storage, *change.key)

    # service accounts and namespaces

    def _make_account(self, namespace: str) -> None:
        if self.store.get("serviceaccounts", namespace, "default") is None and self.store.get(
            "namespaces", "", namespace
        ):
            target = Target(self._kind("serviceaccounts"), namespace)
            self.objects.create(target, {"metadata": {"name": "default"}}, "kube-controller-manager")

    def _end_namespace(self, change: Change) -> None:
        name = change.key[1] if change.storage == "namespaces" else change.key[0]
        space = self.store.get("namespaces", "", name)
        if space is None or not space["metadata"].get("deletionTimestamp"):
            return
        inside = [(storage, key) for storage, held in self.store.objects.items() for key in held if key[0] == name]
        for storage, key in inside:
            held = self.store.get(storage, *key)
            if held is not None and not held["metadata"].get("deletionTimestamp"):
                self.objects.delete(Target(self._kind(storage), *key), {"gracePeriodSeconds": 0})
        if not any(key[0] == name for held in self.store.objects.values() for key in held):
            self.objects.finish(self._kind("namespaces"), space)

    # claims of pods

    def _claims(self, change: Change) -> None:
        if change.storage == "pods":
            pod = self._now(change)
            if pod is not None and not pod["metadata"].get("deletionTimestamp") and _phase(pod) not in DONE:
                self._make_claims(pod)
            last = change.last
            if change.after is None or _phase(last) in DONE:
                self._release(last)
        elif change.storage == CLAIMS:
            claim = self._now(change)
            if claim is not None and claim["metadata"].get("deletionTimestamp"):
                self._end_claim(claim)
        elif change.storage == "resourceclaimtemplates.resource.k8s.io" and change.before is None:
            for key, pod in list(self.store.of("pods").items()):
                if key[0] == change.key[0]:
                    self._make_claims(pod)

    def _make_claims(self, pod: Object) -> None:
        meta = pod["metadata"]
        made = {one["name"]: one.get("resourceClaimName") for one in pod["status"].get("resourceClaimStatuses") or []}
        told = dict(made)
        for ref in pod["spec"].get("resourceClaims") or []:
            name = ref.get("resourceClaimTemplateName")
            template = name and self.store.get("resourceclaimtemplates.resource.k8s.io", meta["namespace"], name)
            if template and ref["name"] not in told:
                told[ref["name"]] = self._make_claim(pod, ref["name"], template)
        if told != made:
            statuses = [{"name": name, "resourceClaimName": claim} for name, claim in told.items()]
            self._patch_status("pods", pod, {"resourceClaimStatuses": statuses})

    def _make_claim(self, pod: Object, reference: str, template: Object) -> str:
        meta, inner = pod["metadata"], template["spec"].get("metadata") or {}
        owner = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        claim = {
            "metadata": {
                "generateName": f"{meta['name']}-{reference}-",
                "labels": inner.get("labels") or {},
                "annotations": (inner.get("annotations") or {}) | {REFERENCE: reference},
                "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
            },
            "spec": template["spec"]["spec"],
        }
        if not claim["metadata"]["labels"]:
            del claim["metadata"]["labels"]
        made = self.objects.create(Target(self._kind(CLAIMS), meta["namespace"]), claim, "kube-controller-manager")
        return made["metadata"]["name"]

    def _release(self, pod: Object) -> None:
        """Take a pod that is gone or done out of its claims; a claim that nobody uses any more is deallocated."""
        uid = pod["metadata"]["uid"]
        for key, claim in list(self.store.of(CLAIMS).items()):
            users = (claim.get("status") or {}).get("reservedFor") or []
            left = [one for one in users if one.get("uid") != uid]
            if key[0] == pod["metadata"]["namespace"] and len(left) < len(users):
                change: dict[str, Any] = {"reservedFor": left or None}
                if not left and claims.DELETE_PROTECTION in claim["metadata"].get("finalizers", []):
                    change |= {"allocation": None, "devices": None}
                self._patch_status(CLAIMS, claim, change)
                if not left:
                    self._unprotect(key)
        for owned in list(self.owned.get(uid, ())):
            if owned[0] == CLAIMS and _phase(pod) in DONE and self.store.get(*owned) is not None:
                self.objects.delete(Target(self._kind(CLAIMS), *owned[1:]), {})

    def _end_claim(self, claim: Object) -> None:
        status = claim.get("status") or {}
        if not status.get("reservedFor"):
            if status.get("allocation"):
                self._patch_status(CLAIMS, claim, {"allocation": None, "devices": None})
            self._unprotect((claim["metadata"]["namespace"], claim["metadata"]["name"]))

    def _unprotect(self, key: tuple[str, str]) -> None:
        claim = self.store.get(CLAIMS, *key)
        finalizers = claim["metadata"].get("finalizers") or [] if claim else []
        if claims.DELETE_PROTECTION in finalizers:
            kept = [one for one in finalizers if one != claims.DELETE_PROTECTION]
            self._patch(Target(self._kind(CLAIMS), *key), {"metadata": {"finalizers": kept}}, "kube-controller-manager")

    def _patch_status(
        self, storage: str, obj: Object, status: dict[str, Any], who: str = "kube-controller-manager"
    ) -> None:
        meta = obj["metadata"]
        self._patch(Target(self._kind(storage), meta["namespace"], meta["name"], "status"), {"status": status}, who)

    def _patch(self, target: Target, change: Any, who: str) -> None:
        self.objects.patch(target, change, "application/merge-patch+json", who)

    # scheduler

    def _schedule(self, change: Change) -> None:
        """Bind what is pinned to a node that exists and has all its claims allocated; nothing else is decided here."""
        found = [self._now(change)] if change.storage == "pods" else list(self.store.of("pods").values())
        for pod in found:
            if pod is not None and _waits(pod):
                why = self._bind(pod)
                if why:
                    self._tell_unschedulable(pod, why)

    def _bind(self, pod: Object) -> str:
        """Bind a pod, or return what is in the way."""
        meta, node = pod["metadata"], pinned(pod)
        if node is None:
            return "no node was chosen: the embedded scheduler only binds pods pinned by matchFields metadata.name"
        if self.store.get("nodes", "", node) is None:
            return f"node {node} not found"
        held = [self.store.get(CLAIMS, meta["namespace"], name) for name in claim_names(pod)]
        if None in held or len(held) < len(pod["spec"].get("resourceClaims") or []):
            return "waiting for resource claims to be created"
        user = {"resource": "pods", "name": meta["name"], "uid": meta["uid"]}
        for claim in held:
            assert claim is not None
            status = claim.get("status") or {}
            if not status.get("allocation"):
                return "cannot allocate all claims"
            if self.objects.minor >= 36 and not status["allocation"].get("allocationTimestamp"):
                return "status.allocation: field cannot be modified once set: it has no allocationTimestamp"
            users = status.get("reservedFor") or []
            if all(one["uid"] != meta["uid"] for one in users):
                try:
                    self._patch_status(CLAIMS, claim, {"reservedFor": [*users, user]}, "kube-scheduler")
                except failure.Failure as refused:
                    return refused.message
        target = Target(self._kind("pods"), meta["namespace"], meta["name"], "binding")
        self.objects.bind(target, {"target": {"kind": "Node", "name": node}}, "kube-scheduler")
        return ""

    def _tell_unschedulable(self, pod: Object, why: str) -> None:
        told = [one for one in pod["status"].get("conditions") or [] if one["type"] != "PodScheduled"]
        told.append({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why})
        if told != pod["status"].get("conditions"):
            self._patch_status("pods", pod, {"conditions": told}, "kube-scheduler")

    # garbage

    def _index(self, change: Change) -> None:
        place = (change.storage, *change.key)
        before = (change.before or {}).get("metadata", {})
        after = (change.after or {}).get("metadata", {})
        for ref in before.get("ownerReferences") or []:
            self.owned.get(ref["uid"], set()).discard(place)
        for ref in after.get("ownerReferences") or []:
            self.owned.setdefault(ref["uid"], set()).add(place)
        if change.before is None:
            self.uids.add(after["uid"])
        if change.after is None:
            self.uids.discard(before["uid"])

    def _collect(self, change: Change) -> None:
        """Delete what has no owner left; let go what waited for the deletion of what it owns."""
        meta = change.last["metadata"]
        places = [(change.storage, *change.key)] if change.before is None else []
        if change.after is None or (FOREGROUND in meta.get("finalizers", []) and meta.get("deletionTimestamp")):
            places += sorted(self.owned.get(meta["uid"], ()))
        for place in places:
            self._collect_one(place, meta["uid"])
        self._let_go(change)

    def _collect_one(self, place: tuple[str, str, str], ended: str) -> None:
        held = self.store.get(*place)
        refs = (held or {"metadata": {}})["metadata"].get("ownerReferences") or []
        alive = [
            ref for ref in refs if ref["uid"] in self.uids and not (ref["uid"] == ended and self._ending(ref["uid"]))
        ]
        if held is not None and refs and not alive and not held["metadata"].get("deletionTimestamp"):
            self.objects.delete(
                Target(self._kind(place[0]), *place[1:]), {"preconditions": {"uid": held["metadata"]["uid"]}}
            )

    def _ending(self, uid: str) -> bool:
        return True if uid not in self.uids else any(self.owned.get(uid, ()))

    def _let_go(self, change: Change) -> None:
        candidates = [self._now(change)]
        for ref in change.last["metadata"].get("ownerReferences") or [] if change.after is None else []:
            for held in list(self.store.objects.values()):
                candidates += [one for one in held.values() if one["metadata"]["uid"] == ref["uid"]]
        for one in candidates:
            meta = (one or {"metadata": {}})["metadata"]
            if (
                FOREGROUND in meta.get("finalizers", [])
                and meta.get("deletionTimestamp")
                and not self.owned.get(meta["uid"])
            ):
                after = copy.deepcopy(one)
                kept = [name for name in meta["finalizers"] if name != FOREGROUND]
                storage = next(
                    s
                    for s, held in self.store.objects.items()
                    if held.get((meta.get("namespace", ""), meta["name"])) is one
                )
                target = Target(self._kind(storage), meta.get("namespace", ""), meta["name"])
                assert after is not None
                self._patch(target, {"metadata": {"finalizers": kept}}, "kube-controller-manager")


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def _waits(pod: Object) -> bool:
    spec = pod["spec"]
    ours = spec["schedulerName"] == "default-scheduler" and not spec.get("nodeName") and not spec.get("schedulingGates")
    return ours and not pod["metadata"].get("deletionTimestamp") and _phase(pod) == "Pending"


def pinned(pod: Object) -> str | None:
    """Return the node that a pod's required affinity names by ``metadata.name``, if it is exactly one."""
    required = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    terms = (required or {}).get("nodeSelectorTerms") or []
    fields = terms[0].get("matchFields") or [] if len(terms) == 1 else []
    for one in fields:
        if one["key"] == "metadata.name" and one["operator"] == "In" and len(one["values"]) == 1:
            return str(one["values"][0])
    return None


def claim_names(pod: Object) -> list[str]:
    """Return the names of a pod's claims, as far as they exist."""
    made = {one["name"]: one.get("resourceClaimName") for one in pod["status"].get("resourceClaimStatuses") or []}
    refs = pod["spec"].get("resourceClaims") or []
    names = [ref.get("resourceClaimName") or made.get(ref["name"]) for ref in refs]
    return [name for name in names if name]
