"""What the mirror says about one gang: its workload, whether it has its devices, and a placement in the API's terms."""

import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from scheduler.kube import claim as claims
from scheduler.kube import (
    classes,
    confined,
    fleet,
    followed,
    occupants,
    ownership,
    plan,
    requests,
    rows,
    shared,
    taken,
    workload,
    world,
)
from scheduler.kube import pod as pods
from scheduler.kube.gangs import marks, outline, recognize, within
from scheduler.model import admission, names, request
from scheduler.model import gang as gangs
from scheduler.placement import placement
from scheduler.snapshot import state

PLURALS = {
    marks.JOBSET: "jobsets",
    marks.JOB: "jobs",
    marks.LWS: "leaderworkersets",
    marks.POD_GROUP: "podgroups",
    marks.SIGS_POD_GROUP: "podgroups.x-k8s.io",
    marks.WORKLOAD: "workloads.raw",
}
"""Store by kind of the objects that tell about gangs."""


class Unplannable(ValueError):
    """A placement can't be turned into claims of the gang; the message names pod and claim."""


@dataclass(slots=True, eq=False)
class Sight:
    """Reads gangs from a world."""

    known: world.World

    def see(self, identity: workload.Identity, compiled: fleet.Compiled) -> Iterator[workload.Workload]:
        """Yield the gangs of an identity; pods that ask for none of our devices make none."""
        members = self.known.gangs.members(identity.key)
        if not any(self._concerns(pod) for pod in members) or shared.all_run(members, self.known):
            return
        for found in recognize.recognize(identity, members, self.object, lambda pod: self._asked(pod, compiled)):
            if found.gang is None or any(map(_devices, found.gang.roles)):
                known = replace(found, gang=found.gang and spelled(found.gang, compiled.spellings))
                known = replace(known, problem=known.problem or shared.problem(members, self.known))
                yield known if known.problem else confined.confined(known, compiled.topology, compiled.spellings)

    def _concerns(self, pod: pods.Pod) -> bool:
        """Return whether a pod asks for devices of ours; devices of a device plugin are its node's business."""
        claimed = bool(pod.claims) and not ownership.foreign(pod, self.known)
        return claimed or ownership.backed(pod, self.known) is not None

    def strays(self, identity: workload.Identity) -> list[pods.Pod]:
        """Return the pods that were gated in vain: none of their claims is ours."""
        members = self.known.gangs.members(identity.key)
        return [pod for pod in members if names.GATE in pod.gates and ownership.foreign(pod, self.known)]

    def left_alone(self, found: workload.Workload) -> bool:
        """Return whether a lone pod gets its devices from kube-scheduler."""
        return found.lone and ownership.left_alone(found.members[0].pod, self.known)

    def wanted(self, pod: pods.Pod, compiled: fleet.Compiled) -> request.PodRequest:
        """Return what a pod asks for.

        Raises
        ------
        ValueError
            It can't be planned; the message says why.
        """
        mirror = self.known.store
        specs = requests.asked(pod, mirror["claims"], mirror["templates"])
        return requests.of(pod, specs, self._classes(), self.known.live)

    def offered(self, pod: pods.Pod, compiled: fleet.Compiled) -> request.PodRequest | None:
        """Return what a pod asks of nodes that kube-scheduler offers for it, None where that is nothing of ours.

        Raises
        ------
        ValueError
            It can't be planned; the message says why.
        """
        if pod.claims and ownership.foreign(pod, self.known):
            return None
        return replace(self.wanted(pod, compiled), nodes=admission.EVERYWHERE)

    def _asked(self, pod: pods.Pod, compiled: fleet.Compiled) -> request.PodRequest:
        """Return what a pod asks for, once there are claims to write it into.

        Raises
        ------
        NotYet
            A claim of it is not made yet, or not seen.
        RequestError
            It asks by an extended resource, so that there is no claim to write into.
        """
        ownership.check_claims(pod, self.known)
        if not pod.node and any(self.known.claim(pod.namespace, ref.claim) is None for ref in pod.claims):
            self.wanted(pod, compiled)  # a claim that can't be planned is told of before it is waited for
            raise outline.NotYet(f"claims of pod {pod.key}")
        wanted, told = self.wanted(pod, compiled), within.levels_of(pod, self.object)
        return replace(wanted, nodes=wanted.nodes.without(told)) if told else wanted

    def grants(self, found: workload.Workload, compiled: fleet.Compiled) -> tuple[state.Grant, ...] | None:
        """Return what the gang's pods hold, by rank; None unless every one of them has all its claims allocated."""
        if found.gang is None or len(found.members) < found.gang.minimum:
            return None
        asked = {rank: role.request for rank, role, _ in found.gang.ranks()}
        grants = []
        for member in found.members:
            grant = self._held(member.pod, asked[member.rank], compiled)
            if grant is None:
                return None
            grants.append(grant)
        return tuple(grants)

    def unplugged(self, pod: pods.Pod, compiled: fleet.Compiled) -> bool:
        """Return whether a pod was bound to a node that left the cluster."""
        return bool(pod.node) and pod.node not in compiled.topology.row and self.known.live.node(pod.node) is None

    def hidden(self, found: workload.Workload, compiled: fleet.Compiled) -> str:
        """Return a node, still there, on which a pod runs with devices that it does not publish now, "" for none."""
        drivers = self.known.live.options.drivers
        for pod in (one.pod for one in found.members if not one.pod.finished and self.known.live.node(one.pod.node)):
            held = [row for claim in self._claims(pod).values() for row in claim.rows or () if row.driver in drivers]
            machine = self.known.live.machine(pod.node) if pod.node in compiled.topology.row else None
            if held and (machine is None or occupants.devices(machine, held) is None):
                return pod.node
        return ""

    def remaining(self, found: workload.Workload, compiled: fleet.Compiled) -> workload.Workload | None:
        """Return a running gang without the pods that have no devices, its ranks closed up; None where no pod runs."""
        if found.gang is None or not found.complete:
            return None
        asked = {rank: role.request for rank, role, _ in found.gang.ranks()}
        left = [one for one in found.members if self._held(one.pod, asked[one.rank], compiled) is not None]
        if not any(one.pod.node for one in left):
            return None
        counts = Counter(one.role for one in left)
        roles = tuple(
            replace(role, count=counts[role.name], segment=None, spread=None, places=())
            for role in found.gang.roles
            if counts[role.name]
        )
        gang = replace(found.gang, roles=roles, min_member=min(found.gang.min_member, len(left)))
        members = tuple(replace(one, rank=rank) for rank, one in enumerate(left))
        return replace(found, gang=gang, members=members)

    def standing(self, found: workload.Workload, compiled: fleet.Compiled) -> plan.Plan:
        """Return the plan that a gang's allocated claims amount to."""
        planned = []
        for member in found.members:
            own = [self.known.claim(member.pod.namespace, ref.claim) for ref in member.pod.claims]
            had = tuple(plan.PlannedClaim(one.name, one.uid, one.rows) for one in own if one and one.rows is not None)
            node = member.pod.node or next((one.node for one in own if one and one.node), "")
            planned.append(plan.PlannedPod(member.rank, member.role, member.pod.name, member.pod.uid, node, had))
        return plan.Plan(found.identity, tuple(planned), 0)

    def planned(
        self,
        gang: followed.Followed,
        found: placement.Placement,
        compiled: fleet.Compiled,
        in_force: Iterable[plan.Plan] = (),
    ) -> plan.Plan:
        """Return a placement as a plan; pods that have their devices already keep exactly those.

        Parameters
        ----------
        in_force : iterable of Plan
            Those of the other gangs.

        Raises
        ------
        Unplannable
        """
        nodes = compiled.topology.nodes
        before = {pod.uid: pod for pod in gang.plan.pods} if gang.plan else {}
        planned = []
        stays = {member.pod.uid for member in gang.workload.members}
        lost = {one.uid for uid, pod in before.items() if uid not in stays for one in pod.claims}
        kept_plan = (
            [replace(gang.plan, pods=tuple(one for one in gang.plan.pods if one.uid in stays))] if gang.plan else []
        )
        held = taken.accelerators(self.known, found, compiled.topology, (*in_force, *kept_plan), lost)
        for member, grant in zip(gang.workload.members, found.grants, strict=False):
            kept = before.get(member.pod.uid)
            if kept is not None:
                planned.append(replace(kept, rank=member.rank, role=member.role))
                continue
            node = nodes[grant.node].name
            given = self._rows(member.pod, node, grant, held.get(node, ()))
            if grant.accelerators:
                held[node].update(row.device for claim in given for row in claim.rows)
            planned.append(plan.PlannedPod(member.rank, member.role, member.pod.name, member.pod.uid, node, given))
        return plan.Plan(
            identity=gang.workload.identity,
            pods=tuple(planned),
            decision=gang.decision,
            decision_id=found.gang.decision_id,
            domain=found.domain,
            level=found.level,
            bandwidth_mb_s=found.bandwidth_mb_s,
            terms=found.terms,
            runners_up=tuple(f"{one.domain} ({one.level}): {_terms(one.terms)}" for one in found.runners_up),
            because=gang.because,
        )

    def writable(self, gang: followed.Followed) -> bool:
        """Return whether all pods can still be placed: none is about to go, or runs where an earlier plan put it."""
        had = {pod.uid for pod in gang.plan.pods} if gang.plan else set()
        found = [member.pod for member in gang.workload.members]
        return bool(found) and not any(
            pod.deleting or pod.evicted or (pod.node and pod.uid not in had) for pod in found
        )

    def unwritten(self, one: plan.Plan, before: plan.Plan | None) -> bool:
        """Return whether a plan has other pods than the one before."""
        return before is None or {pod.uid for pod in one.pods} != {pod.uid for pod in before.pods}

    def _rows(
        self, pod: pods.Pod, node: str, grant: state.Grant, held: Collection[str]
    ) -> tuple[plan.PlannedClaim, ...]:
        machine = self.known.live.machine(node)
        if machine is None:
            raise Unplannable(f"pod {pod.key}: node {node} has left the fleet")
        own = self._claims(pod)
        mirror = self.known.store
        ids = tuple(str(uuid.uuid4()) for _ in range(len(grant.gpus)))
        try:
            specs = requests.asked(pod, mirror["claims"], mirror["templates"])
            found = rows.of(specs, self._classes(), self.known.live.catalog(), machine, grant, ids, held)
        except ValueError as error:
            raise Unplannable(f"pod {pod.key} on node {node}: {error}") from error
        return tuple(plan.PlannedClaim(name, own[name].uid, given) for name, given in found.items() if name in own)

    def _classes(self) -> dict[str, classes.DeviceClass]:
        return {name: found for (_, name), found in self.known.store["classes"].items()}

    def _claims(self, pod: pods.Pod) -> dict[str, claims.Claim]:
        """Return the claims of a pod that exist, by their own names."""
        found = ((ref.claim, self.known.claim(pod.namespace, ref.claim)) for ref in pod.claims if ref.claim)
        return {name: claim for name, claim in found if claim is not None}

    def _held(self, pod: pods.Pod, asked: request.PodRequest, compiled: fleet.Compiled) -> state.Grant | None:
        """Return what a pod holds, None unless all its claims are allocated on one node of the fleet."""
        own = self._claims(pod)
        pools = occupants.by_pool(row for claim in own.values() for row in claim.rows or ())
        allocated = all(ref.claim in own and own[ref.claim].rows is not None for ref in pod.claims)
        node = pod.node or next(iter(pools), "")
        row, machine = compiled.topology.row.get(node), self.known.live.machine(node)
        if not allocated or row is None or machine is None or not pools:
            return None
        held = occupants.devices(machine, pools.get(node, ()))
        if held is None:
            return None
        return replace(held, node=row, cpu_milli=asked.cpu_milli, memory_mib=asked.memory_mib, pods=1)

    def object(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return an object that tells about gangs as the API has it, None where it is not there."""
        if kind == marks.NAMESPACE:
            labels = self.known.store["namespaces"].get(("", name))
            return None if labels is None else {"metadata": {"name": name, "labels": labels}}
        found: Mapping[str, Any] | None = self.known.store[PLURALS[kind]].get((namespace, name))
        return found


def _devices(role: gangs.Role) -> bool:
    asked = role.request
    return bool(asked.gpus or asked.nics or asked.accelerators)


def spelled(gang: gangs.Gang, levels: Mapping[str, str]) -> gangs.Gang:
    """Call levels as the fleet calls them; unknown ones stay as they were written, to be refused by name."""

    def constraint(one: gangs.TopologyConstraint) -> gangs.TopologyConstraint:
        required, preferred = levels.get(one.required, one.required), levels.get(one.preferred, one.preferred)
        return gangs.TopologyConstraint(required, preferred)

    def role(one: gangs.Role) -> gangs.Role:
        segment = one.segment and replace(one.segment, level=levels.get(one.segment.level, one.segment.level))
        spread = one.spread and replace(one.spread, level=levels.get(one.spread.level, one.spread.level))
        return replace(one, constraint=constraint(one.constraint), segment=segment, spread=spread)

    return replace(gang, roles=tuple(map(role, gang.roles)), constraint=constraint(gang.constraint))


def _terms(terms: placement.Terms) -> str:
    return ", ".join(f"{name} {value}" for name, value in terms) or "no terms"
