"""Which pods make which gang, which claims they have, and which gangs a change concerns."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from scheduler.kube import claim as claims
from scheduler.kube import mirror, workload
from scheduler.kube import pod as pods
from scheduler.kube.gangs import identity as identities

Entry = TypeVar("Entry")

OWNERS = ("jobsets", "jobs", "leaderworkersets", "podgroups", "podgroups.x-k8s.io", "workloads.raw")
"""Kinds that tell about gangs; a change of one concerns the gangs that name it."""


@dataclass(slots=True, eq=False)
class Index:
    """Pods by gang.

    Attributes
    ----------
    dirty : dict of key to Identity
        Gangs to look at again, in the order of what happened.
    """

    dirty: dict[str, workload.Identity] = field(default_factory=dict)
    _identity: dict[mirror.Key, workload.Identity] = field(default_factory=dict)
    _members: dict[str, dict[mirror.Key, pods.Pod]] = field(default_factory=dict)
    _known: dict[str, workload.Identity] = field(default_factory=dict)
    _named: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    _users: dict[mirror.Key, set[mirror.Key]] = field(default_factory=lambda: defaultdict(set))

    def change(self, told: mirror.Change) -> None:
        """Take note of a change of any kind."""
        match told.kind:
            case "pods":
                self._pod(told.key, told.before, told.after)
            case "claims" if not _alike(told.before, told.after, "version", "finalizers"):
                self._claim(told.key, told.after or told.before)
            case "templates":
                self._mark(self._of_template(*told.key))
            case "namespaces":
                self._mark(key for key, one in self._known.items() if one.namespace == told.key[1])
            case kind if kind in OWNERS:
                self._mark(self._named.get(told.key, ()))

    def members(self, gang: str) -> list[pods.Pod]:
        """Return the pods of a gang that exist, in the order of their names."""
        return [pod for _, pod in sorted(self._members.get(gang, {}).items())]

    def identities(self) -> list[workload.Identity]:
        """Return all gangs that have pods, by name."""
        return [one for _, one in sorted(self._known.items())]

    def mark(self, gang: str) -> None:
        """Have a gang looked at again."""
        self._mark((gang,))

    def mark_all(self) -> None:
        """Have every gang looked at again."""
        self._mark(list(self._known))

    def gang_of(self, key: mirror.Key) -> workload.Identity | None:
        """Return the gang of a pod by the pod's key."""
        return self._identity.get(key)

    def users(self, one: claims.Claim) -> list[mirror.Key]:
        """Return the pods that name a claim, and the one that it was made for."""
        found = {*self._users.get((one.namespace, one.name), ())}
        return sorted(found | ({(one.namespace, one.owner.name)} if one.owner.name else set()))

    def _mark(self, gangs: Iterator[str] | list[str] | tuple[str, ...] | set[str]) -> None:
        for gang in gangs:
            if gang in self._known:
                self.dirty[gang] = self._known[gang]

    def _pod(self, key: mirror.Key, before: pods.Pod | None, after: pods.Pod | None) -> None:
        old = self._identity.pop(key, None)
        new = identities.of(after) if after is not None else None
        if old is not None and old != new:
            self._members[old.key].pop(key, None)
            self.dirty[old.key] = old
            self._forget_empty(old)
        for one in before.claims if before else ():
            _discard(self._users, (key[0], one.claim), key)
        if before is None or after is None or before.gone != after.gone:
            self._beside(key[0], after or before)
        if after is None or new is None:
            return
        self._identity[key] = new
        self._known[new.key] = new
        self._named[new.namespace, new.owner].add(new.key)
        self._members.setdefault(new.key, {})[key] = after
        for one in after.claims:
            if one.claim:
                self._users[key[0], one.claim].add(key)
        if old != new or not _alike(before, after, "version"):
            self.dirty[new.key] = new

    def _of_template(self, namespace: str, template: str) -> set[str]:
        """Return the gangs with a pod whose claim is made from a template."""
        return {
            one.key
            for key, one in self._identity.items()
            if key[0] == namespace and any(ref.template == template for ref in self._members[one.key][key].claims)
        }

    def _beside(self, namespace: str, pod: pods.Pod | None) -> None:
        """Have the gangs looked at again whose pods name a claim that a pod which came or went names too."""
        for one in pod.claims if pod else ():
            for user in self._users.get((namespace, one.claim), ()) if one.claim and not one.template else ():
                found = self._identity.get(user)
                if found is not None:
                    self.dirty[found.key] = found

    def _forget_empty(self, gang: workload.Identity) -> None:
        if not self._members.get(gang.key):
            self._members.pop(gang.key, None)
            self._known.pop(gang.key, None)
            _discard(self._named, (gang.namespace, gang.owner), gang.key)

    def _claim(self, key: mirror.Key, one: claims.Claim) -> None:
        for user in (*self._users.get(key, ()), (key[0], one.owner.name)):
            found = self._identity.get(user)
            if found is not None:
                self.dirty[found.key] = found


def _discard(index: dict[mirror.Key, set[Entry]], key: mirror.Key, entry: Entry) -> None:
    """Take an entry out of an index, and its key with the last one."""
    found = index.get(key, set())
    found.discard(entry)
    if not found:
        index.pop(key, None)


def _alike(before: Any, after: Any, *but: str) -> bool:
    """Tell whether an object is what it was but for some fields, which say nothing about its gang."""
    if before is None or after is None:
        return False
    return bool(replace(before, **{name: getattr(after, name) for name in but}) == after)
