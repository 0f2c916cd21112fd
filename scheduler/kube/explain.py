"""Answers about gangs and pods, from what the running scheduler knows; nothing is changed.

A leader tells what it decided. A replica that stands by recognises the gangs anew and tells what their claims say. What
costs time is returned as a job over copies, to be run off the loop.
"""

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from scheduler.gang import refill
from scheduler.kube import explained, followed, needs, plan, story, words, workload, world
from scheduler.kube import pod as pods
from scheduler.kube import shell as shells
from scheduler.kube.gangs import outline
from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import explain as explaining
from scheduler.placement import placement, scoring
from scheduler.snapshot import state

STANDBY = (
    "this replica stands by: it tells what it sees in the API; what waits in the leader's queue, what is reserved "
    "and what was decided is known to the leader"
)

EXAMPLES = 3
"""Nodes named for each reason of the extender, and best nodes named."""


class Missing(LookupError):
    """There is no such object; the message names it and says where to look."""


class Ambiguous(ValueError):
    """Several objects are meant; the message names them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the extender would say of a pod: nodes in order of its score, and a reason for each other node."""

    feasible: Sequence[str]
    refused: Mapping[str, str]


@dataclass(slots=True, eq=False)
class Explain:
    """Answers for one term of a replica.

    Parameters
    ----------
    identity : str
        Of the replica.
    verdict : callable
        Asks the extender about a pod and all nodes.
    """

    shell: shells.Shell
    identity: str
    past: story.Story
    verdict: Callable[[pods.Pod], Verdict]
    clock: Callable[[], datetime.datetime] = story.utc
    _known: world.World = field(init=False)

    def __post_init__(self) -> None:
        self._known = self.shell.known

    def by(self) -> explained.Replica:
        """Return who answers, and when."""
        leads = self.shell.leads
        return explained.Replica(
            identity=self.identity, leads=leads, at=_stamp(self.clock()), note="" if leads else STANDBY
        )

    def gangs(self, namespace: str, wanted: str, most: int) -> explained.Gangs:
        """Return the gangs of a namespace ("" for all) in a state ("" for any), at most so many."""
        lines = [self.line(one) for one in self.seen() if namespace in ("", one.workload.identity.namespace)]
        found = [one for one in lines if wanted.lower() in ("", one.state.lower())]
        found.sort(key=lambda one: (one.namespace, one.name))
        return explained.Gangs(by=self.by(), total=len(found), gangs=found[:most])

    def gang(self, namespace: str, kind: str, name: str) -> Callable[[], explained.Gang]:
        """Return the job that tells of one gang.

        Raises
        ------
        Missing, Ambiguous
        """
        one = self._find(namespace, kind, name)
        asked = one.workload.gang
        refusal = self._refusal(one)
        waits = asked is not None and one.plan is None and one.placement is None and one.workload.complete
        room, score = self.room(), self.scoring()
        bare = explained.Gang(
            by=self.by(),
            gang=self.line(one),
            roles=roles(asked),
            decision=one.decision,
            decision_id=(asked.decision_id if asked else "") or (one.plan.decision_id if one.plan else ""),
            members=members(one, self.node_names()),
            compared=_compared(one),
            passed_over=[],
            refusal=refused(refusal) if refusal else None,
            history=[_entry(each) for each in self.past.of(one.key)],
        )

        def job() -> explained.Gang:
            told = explaining.explain(room, asked, score) if waits and asked else None
            passed = [candidate(each) for each in told.passed_over] if told else []
            why = told.decision if told and isinstance(told.decision, reasons.Rejection) else None
            blocks = bare.refusal or (refused(why) if why else None)
            return msgspec.structs.replace(bare, passed_over=passed, refusal=blocks)

        return job

    def pod(self, namespace: str, name: str) -> explained.Pod:
        """Tell of one pod.

        Raises
        ------
        Missing
        """
        pod = self._known.pod((namespace, name))
        if pod is None:
            raise Missing(
                f"pod {namespace}/{name}: this replica sees no such pod; check the name and the namespace (-n)"
            )
        gang = self._gang_of(pod)
        member = self._member(gang, pod)
        asks, problem = self._asks(pod)
        verdict = self._verdict(pod, member) if asks else Verdict((), {})
        nodes = len(verdict.feasible) + len(verdict.refused)
        return explained.Pod(
            by=self.by(),
            namespace=namespace,
            name=name,
            phase=pod.phase,
            node=pod.node,
            gates=list(pod.gates),
            gang=self.line(gang) if gang else None,
            member=member,
            asks=asks,
            text=_pod_text(pod, gang, member, asks, problem, len(verdict.feasible), nodes),
            nodes=nodes,
            feasible=len(verdict.feasible),
            best=list(verdict.feasible[:EXAMPLES]),
            refused=list(_by_reason(verdict.refused)),
        )

    # What is there.

    def seen(self) -> Iterator[followed.Followed]:
        """Yield all gangs: those that the leader follows, or what a replica that stands by recognises."""
        if self.shell.leads:
            yield from self.shell.followed.values()
            return
        for identity in self._known.gangs.identities():
            yield from self._recognised(identity)

    def _recognised(self, identity: workload.Identity) -> Iterator[followed.Followed]:
        for found in self.shell.sight.see(identity, self.shell.compiled):
            yield recognised(found, self.shell)

    def _find(self, namespace: str, kind: str, name: str) -> followed.Followed:
        """Return the gang of a kind ("gang" for any) by its own name, or by that of its owner."""
        here = [one for one in self.seen() if one.workload.identity.namespace == namespace]
        sort = kind.lower()
        suited = [one for one in here if sort in ("gang", "gangplacement", one.workload.identity.kind.lower())]
        found = [one for one in suited if one.workload.identity.name == name]
        found = found or [one for one in suited if one.workload.identity.owner == name]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(sorted(one.workload.identity.name for one in found)[:8])
            raise Ambiguous(f"{kind} {namespace}/{name} is several gangs: {listed}; name one of them")
        others = ", ".join(sorted(one.workload.identity.name for one in here)[:8]) or "none"
        raise Missing(f"{kind} {namespace}/{name}: no such gang; gangs of the namespace: {others}")

    def _gang_of(self, pod: pods.Pod) -> followed.Followed | None:
        """Return the gang that a pod is a member of."""
        identity = self._known.gangs.gang_of((pod.namespace, pod.name))
        if identity is None:
            return None
        key = self.shell.carrier.members.get(pod.uid, identity.key)
        if key in self.shell.followed:
            return self.shell.followed[key]
        return next((one for one in self._recognised(identity) if _has(one, pod)), None)

    def line(self, one: followed.Followed) -> explained.GangLine:
        """Return a gang as it is listed."""
        found, gang = one.workload, one.workload.gang
        identity, place = found.identity, one.placement
        nodes = {pod.node for pod in one.plan.pods} if one.plan else set(place.nodes if place else ())
        return explained.GangLine(
            namespace=identity.namespace,
            kind=identity.kind,
            name=identity.name,
            owner=identity.owner,
            tenant=gang.tenant if gang else self._known.tenant(identity.namespace),
            priority=gang.priority if gang else 0,
            state=_state(one),
            pods=sum(not member.pod.gone for member in found.members),
            wanted=gang.size if gang else 0,
            gpus=gang.gpus if gang else 0,
            nodes=len(nodes),
            level=place.level if place else "",
            domain=place.domain if place else "",
            bandwidth_mb_s=place.bandwidth_mb_s if place else 0,
            why=_why(one),
            since=self._since(one.key),
        )

    def room(self) -> state.Snapshot:
        """Return a copy of what is free."""
        return self.shell.machine.snapshot.copy()

    def scoring(self) -> scoring.Scoring:
        """Return the policy with caches of its own: those of the machine's belong to its snapshot and its thread."""
        own = self.shell.machine.scoring
        return scoring.Scoring(own.policy, own.topology, own.target, own.tables, own.seed)

    def node_names(self) -> tuple[str, ...]:
        """Return the names of all nodes by row."""
        return tuple(one.name for one in self.shell.machine.snapshot.topology.nodes)

    def _refusal(self, one: followed.Followed) -> reasons.Rejection | None:
        """Return why a gang of the leader's queue waits."""
        return self.shell.why(one.key) if one.plan is None else None

    def _since(self, key: str) -> str:
        """Return when a gang began to wait, or got its devices."""
        core = self.shell.machine
        entry = core.queue.waiting.get(key)
        since = entry.since if entry else core.held[key].since if key in core.held else None
        if since is None:
            return ""
        return _stamp(self.clock() - datetime.timedelta(seconds=self.shell.clock() - since))

    def _asks(self, pod: pods.Pod) -> tuple[str, str]:
        """Return what a pod asks of our devices, "" for nothing, and what is wrong with that."""
        if not pod.claims and not pod.extended:
            return "", ""
        try:
            asked = self.shell.sight.wanted(pod, self.shell.compiled)
        except (outline.NotYet, needs.RequestError) as problem:
            return "", str(problem)
        return (words.asks(asked), "") if asked.gpus or asked.nics or asked.accelerators else ("", "")

    def _member(self, gang: followed.Followed | None, pod: pods.Pod) -> explained.Member | None:
        found = members(gang, self.node_names()) if gang else []
        return next((one for one in found if one.pod == pod.name), None)

    def _verdict(self, pod: pods.Pod, member: explained.Member | None) -> Verdict:
        """Ask the extender, unless the pod's node is decided."""
        return Verdict((), {}) if pod.node or (member and member.node) else self.verdict(pod)


def recognised(found: workload.Workload, shell: shells.Shell) -> followed.Followed:
    """Return a gang that nobody follows here as its claims show it."""
    one = followed.Followed(found, lone=found.lone)
    grants = shell.sight.grants(found, shell.compiled)
    if found.problem:
        one.state = followed.State.REJECTED
    elif grants is not None and found.gang is not None:
        core = shell.machine
        gated = any(member.pod.gates for member in found.members)
        one.state = followed.State.WRITING if gated else followed.State.RUNNING
        one.plan = shell.sight.standing(found, shell.compiled)
        one.placement = refill.located(shell.compiled.topology, found.gang, grants, core.scoring, core.tiers)
    elif found.complete:
        one.state = followed.State.WAITING
    return one


def roles(gang: gangs.Gang | None) -> list[explained.Role]:
    """Return the roles of a gang in words."""
    return [
        explained.Role(name=one.name, count=one.count, asks=words.asks(one.request))
        for one in (gang.roles if gang else ())
    ]


def members(one: followed.Followed, node_names: Sequence[str]) -> list[explained.Member]:
    """Return the pods of a gang by rank: as planned, as reserved, or as they wait."""
    if one.plan is not None:
        return [
            explained.Member(rank=pod.rank, role=pod.role, pod=pod.name, node=pod.node, devices=devices(pod.claims))
            for pod in one.plan.pods
        ]
    reserved = {rank: node_names[grant.node] for rank, _, grant in one.placement.members()} if one.placement else {}
    return [
        explained.Member(
            rank=each.rank, role=each.role, pod=each.pod.name, node=reserved.get(each.rank, each.pod.node), devices=[]
        )
        for each in one.workload.members
    ]


def devices(claims: Iterable[plan.PlannedClaim]) -> list[explained.Device]:
    """Return the devices of claims in their order."""
    return [
        explained.Device(
            claim=claim.name,
            request=row.request,
            driver=row.driver,
            pool=row.pool,
            device=row.device,
            share_id=row.share_id,
        )
        for claim in claims
        for row in claim.rows
    ]


def candidate(one: placement.Candidate) -> explained.Candidate:
    """Return a domain that was considered."""
    return explained.Candidate(domain=one.domain, level=one.level, terms=_terms(one.terms), why=one.refusal)


def refused(one: reasons.Rejection) -> explained.Refusal:
    """Return a refusal."""
    return explained.Refusal(
        reason=one.reason.value,
        level=one.level,
        nearest=one.nearest,
        missing=one.missing,
        resource=one.resource,
        permanent=one.permanent,
        detail=one.detail,
        text=str(one),
    )


def _terms(terms: placement.Terms) -> list[explained.Term]:
    return [explained.Term(name=name, value=value) for name, value in terms]


def _compared(one: followed.Followed) -> list[explained.Candidate]:
    """Return the chosen domain and the runners-up, as they were when it was decided."""
    found = one.placement
    if found is None:
        return []
    chosen = placement.Candidate(found.domain, found.level, found.terms)
    return [candidate(each) for each in (chosen, *found.runners_up)]


def _state(one: followed.Followed) -> str:
    """Return how far a gang is; one whose pods are still coming is Incomplete."""
    if one.plan is None and not one.workload.complete and not one.workload.problem and not one.reserver:
        return "Incomplete"
    return one.state.value


def _why(one: followed.Followed) -> str:
    """Say where a gang is, or why it is nowhere."""
    found = one.workload
    if one.plan is not None:
        return words.planned(one)
    if found.problem or one.said:
        return found.problem or one.said
    return words.incomplete(one) if not found.complete and not one.reserver else ""


def _has(one: followed.Followed, pod: pods.Pod) -> bool:
    return any(member.pod.uid == pod.uid for member in one.workload.members)


def _entry(one: story.Entry) -> explained.Told:
    return explained.Told(at=_stamp(one.at), what=one.what, text=one.text, because=one.because)


def _stamp(when: datetime.datetime) -> str:
    return when.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _by_reason(refused: Mapping[str, str]) -> Iterator[explained.NodesByReason]:
    """Count nodes by reason, the commonest first."""
    found: dict[str, list[str]] = {}
    for node, reason in refused.items():
        found.setdefault(reason, []).append(node)
    for reason, nodes in sorted(found.items(), key=lambda one: (-len(one[1]), one[0])):
        yield explained.NodesByReason(reason=reason, nodes=len(nodes), examples=nodes[:EXAMPLES])


def _pod_text(
    pod: pods.Pod,
    gang: followed.Followed | None,
    member: explained.Member | None,
    asks: str,
    problem: str,
    feasible: int,
    nodes: int,
) -> str:
    """Say in one sentence how a pod stands."""
    if pod.finished:
        return f"it has finished ({pod.phase})"
    if pod.node:
        return f"it runs on {pod.node}" if pod.phase == "Running" else f"it is bound to {pod.node}"
    if member is not None and member.node:
        return f"its gang's plan puts it on {member.node}; it is not bound yet"
    if problem:
        return f"it can't be planned yet: {problem}"
    if not asks:
        return "it asks for none of Muster's devices: kube-scheduler places it alone"
    if gang is not None and pod.gates:
        return _why(gang) or "its gang waits for room"
    return f"the extender lets it go to {feasible} of {nodes} nodes"
