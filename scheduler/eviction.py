"""Whom kube-scheduler may evict for other pods, and what becomes free: for the extender's preempt verb."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scheduler.kube import pod as pods
from scheduler.kube import shell as shells
from scheduler.snapshot import state
from scheduler.web import answers


@dataclass(frozen=True, slots=True)
class Held(Mapping[str, answers.Holder]):
    """What goes with each pod, by UID, read from the machine at every call.

    A pod of a gang goes with its whole gang, and only where the gang is preemptible and all its devices are counted; a pod
    of no gang goes alone. Devices of a claim that several pods share stay as long as one of those pods does.
    """

    now: shells.Shell

    def __getitem__(self, uid: str) -> answers.Holder:
        known = self.now.known
        pod = known.pod(known.by_uid[uid])
        if pod is None:
            raise KeyError(uid)
        gang = self.now.carrier.members.get(uid)
        if gang is not None:
            return self._gang(gang)
        return self._alone(pod) if self.now.leads else self._recognised(pod)

    def __iter__(self) -> Iterator[str]:
        return (uid for uid in self.now.known.by_uid if uid in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _gang(self, key: str) -> answers.Holder:
        held = self.now.machine.held
        if key not in held or not held[key].gang.preemptible:
            raise KeyError(key)
        alive = [one.pod.uid for one in self.now.followed[key].workload.members if not one.pod.gone]
        return answers.Holder(tuple(alive), held[key].placement.grants)

    def _recognised(self, pod: pods.Pod) -> answers.Holder:
        """Return the gang of a pod by what a replica that does not lead sees of it."""
        identity = self.now.known.gangs.gang_of((pod.namespace, pod.name))
        for found in self.now.sight.see(identity, self.now.compiled) if identity else ():
            alive = [one.pod for one in found.members if not one.pod.gone]
            if pod in alive:
                if found.gang is None or not found.gang.preemptible:
                    raise KeyError(pod.uid)
                grants = tuple(grant for one in alive for grant in self._grants(one))
                return answers.Holder(tuple(one.uid for one in alive), grants)
        return self._alone(pod)

    def _alone(self, pod: pods.Pod) -> answers.Holder:
        return answers.Holder((pod.uid,), tuple(self._grants(pod)))

    def _grants(self, pod: pods.Pod) -> Iterator[state.Grant]:
        """Yield what strangers' books have under the pod and under claims that nobody else uses."""
        known, books = self.now.known, self.now.machine.foreign
        holders = [f"pod/{pod.uid}"]
        for ref in pod.claims:
            claim = known.claim(pod.namespace, ref.claim) if ref.claim else None
            if claim is not None and known.gangs.users(claim) == [(pod.namespace, pod.name)]:
                holders += [f"claim/{claim.uid}/{pool}" for pool in sorted({row.pool for row in claim.rows or ()})]
        found = (books.taken(holder) for holder in holders)
        yield from (grant for grant in found if grant is not None)
