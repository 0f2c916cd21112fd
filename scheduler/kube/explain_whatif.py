"""What would become of a manifest now: where its gangs would go, what is missing, and who would have to make room.

The engine decides, on a copy of what is free and with caches of its own: the machine's state is never touched.
"""

import time
from dataclasses import dataclass, field, replace

from scheduler.kube import explain, explained, manifest, needs, plan, rows, taken, words
from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import clearing, placement, preempt, scoring
from scheduler.placement import explain as explaining
from scheduler.snapshot import bulk, state

SEARCH_S = 2.0
"""After so many seconds no further search for who would have to go is begun."""


NEW = "new"
"""Stands for the id of a share, which is made when it is written."""


class FleetChanged(RuntimeError):
    """The fleet is another than the one that was asked about."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What the engine says of one gang."""

    story: explaining.Explanation
    clearing: preempt.Preemption | None = None


@dataclass(slots=True, eq=False)
class Trial:
    """One question, answered in three steps: read on the loop, searched anywhere, named on the loop.

    Attributes
    ----------
    wanted : list of Wanted
        Gangs that ask for devices of ours.
    refusals : list of Rejection or None
        What the tenant's quota says of each.
    """

    told: explain.Explain
    wanted: list[manifest.Wanted]
    ignored: list[str]
    refusals: list[reasons.Rejection | None]
    room: state.Snapshot
    score: scoring.Scoring
    running: list[clearing.Running]
    waiting: list[int]
    found: list[Found] = field(default_factory=list)

    def search(self) -> None:
        """Place the gangs one after the other, and look for room for those that do not fit."""
        end = time.monotonic() + SEARCH_S
        for one, refused in zip(self.wanted, self.refusals, strict=True):
            gang = _gang(one)
            story = explaining.explain(self.room, gang, self.score)
            opened = None
            if isinstance(story.decision, placement.Placement):
                if refused is None:
                    bulk.take_all(self.room, story.decision.grants)
            elif not story.decision.permanent and time.monotonic() < end:
                opened = self._opened(gang)
            self.found.append(Found(story, opened))

    def _opened(self, gang: gangs.Gang) -> preempt.Preemption | None:
        """Return the cheapest room for a gang: of lower priority, or else of any."""
        highest = max((one.gang.priority for one in self.running), default=gang.priority)
        for priority in dict.fromkeys((gang.priority, max(gang.priority, highest + 1))):
            found = preempt.preempt(self.room, replace(gang, priority=priority), self.score, self.running)
            if isinstance(found, preempt.Preemption):
                return found
        return None

    def answer(self) -> explained.WhatIf:
        """Name the devices that were found.

        Raises
        ------
        FleetChanged
        """
        both = zip(self.wanted, self.refusals, self.found, strict=True)
        names = _Names(self.told, tuple(one.name for one in self.room.topology.nodes))
        wishes = [self._wish(one, refused, found, names) for one, refused, found in both]
        fits = all(one.fits for one in wishes)
        return explained.WhatIf(by=self.told.by(), fits=fits, gangs=wishes, ignored=self.ignored)

    def _wish(
        self, one: manifest.Wanted, refused: reasons.Rejection | None, found: Found, names: "_Names"
    ) -> explained.Wish:
        gang, story = _gang(one), found.story
        place = story.decision if refused is None and isinstance(story.decision, placement.Placement) else None
        why = refused or (story.decision if isinstance(story.decision, reasons.Rejection) else None)
        ahead = sum(priority >= gang.priority for priority in self.waiting)
        identity = one.workload.identity
        opened = _clearing(found.clearing, gang, self.told) if found.clearing else None
        return explained.Wish(
            namespace=identity.namespace,
            kind=identity.kind,
            name=identity.name,
            pods=gang.size,
            gpus=gang.gpus,
            fits=place is not None,
            ahead=ahead,
            level=place.level if place else "",
            domain=place.domain if place else "",
            bandwidth_mb_s=place.bandwidth_mb_s if place else 0,
            text=words.placed(place) if place else str(why),
            roles=explain.roles(gang),
            members=names.members(one, place) if place else [],
            compared=[explain.candidate(each) for each in story.compared] if place else [],
            passed_over=[explain.candidate(each) for each in story.passed_over],
            refusal=explain.refused(why) if why else None,
            needs_to_go=opened,
        )


def trial(told: explain.Explain, asked: manifest.Manifest, priority: int) -> Trial:
    """Read what is asked.

    Parameters
    ----------
    priority : int
        Of all gangs, where it is above 0: only the API server knows what a priority class is worth.

    Raises
    ------
    BadInput
        The manifest makes no gang, or is malformed.
    FleetChanged
        It asks for labels or taints of nodes that nobody asked for before; they are known after the next turn.
    """
    shell, core = told.shell, told.shell.machine
    found = [_prioritised(one, priority) for one in manifest.gangs(asked, shell.known, shell.sight, shell.compiled)]
    wanted = [one for one in found if _devices(one)]
    nodes = [role.request.nodes for one in wanted for role in _gang(one).roles]
    news = [shell.known.look_for(one) for one in nodes]
    if any(news) or (shell.known.fleet_changed and any(one.keys or one.tolerations for one in nodes)):
        shell.known.wake.set()
        raise FleetChanged("the labels and taints that it asks for are read from the nodes just now: ask again")
    return Trial(
        told,
        wanted,
        [*asked.ignored, *(_told(one) for one in found if not _devices(one))],
        [core.ledger.refusal(_gang(one)) for one in wanted],
        told.room(),
        told.scoring(),
        [clearing.Running(one.gang, one.placement.grants) for one in core.held],
        [one.gang.priority for one in core.queue.waiting.values()],
    )


@dataclass(slots=True, eq=False)
class _Names:
    """Names the devices of placements as their claims would; accelerators that were named once are not named again."""

    told: explain.Explain
    nodes: tuple[str, ...]
    _held: dict[str, set[str]] = field(default_factory=dict)

    def members(self, one: manifest.Wanted, place: placement.Placement) -> list[explained.Member]:
        """Return the pods by rank with node and devices."""
        shell = self.told.shell
        in_force = [each.plan for each in shell.followed.values() if each.plan is not None]
        for node, names in taken.accelerators(shell.known, place, shell.compiled.topology, in_force, ()).items():
            self._held.setdefault(node, set()).update(names)
        pods = {member.rank: member.pod.name for member in one.workload.members}
        found = []
        for (rank, role, index), grant in zip(place.gang.ranks(), place.grants, strict=False):
            name = pods.get(rank, f"{one.workload.identity.owner}-{role.name}-{index}")
            claims = self._claims(one, role, grant)
            found.append(
                explained.Member(
                    rank=rank,
                    role=role.name,
                    pod=name,
                    node=self.nodes[grant.node],
                    devices=explain.devices(claims),
                )
            )
        return found

    def _claims(self, one: manifest.Wanted, role: gangs.Role, grant: state.Grant) -> list[plan.PlannedClaim]:
        """Return the claims of a pod with its devices; shares get their ids when they are written."""
        known, node = self.told.shell.known, self.nodes[grant.node]
        machine = known.live.machine(node)
        if machine is None:
            raise FleetChanged(f"node {node} has left the fleet meanwhile; ask again")
        named = {name: each for (_, name), each in known.store["classes"].items()}
        held = self._held.setdefault(node, set())
        ids = (NEW,) * len(grant.gpus)
        try:
            found = rows.of(one.specs[role.request], named, known.live.catalog(), machine, grant, ids, held)
        except needs.RequestError as problem:
            raise FleetChanged(f"node {node} has changed meanwhile ({problem}); ask again") from problem
        if grant.accelerators:
            held.update(row.device for given in found.values() for row in given)
        return [plan.PlannedClaim(name, "", given) for name, given in found.items()]


def _gang(one: manifest.Wanted) -> gangs.Gang:
    if one.workload.gang is None:
        raise AssertionError(f"{one.workload.identity.key} was accepted without a gang")
    return one.workload.gang


def _prioritised(one: manifest.Wanted, priority: int) -> manifest.Wanted:
    gang = replace(_gang(one), priority=priority) if priority else _gang(one)
    return replace(one, workload=replace(one.workload, gang=gang))


def _devices(one: manifest.Wanted) -> bool:
    asked = [role.request for role in _gang(one).roles]
    return any(each.gpus or each.nics or each.accelerators for each in asked)


def _told(one: manifest.Wanted) -> str:
    return f"{one.workload.identity.kind} {one.workload.identity.key}"


def _clearing(found: preempt.Preemption, gang: gangs.Gang, told: explain.Explain) -> explained.Clearing:
    """Return who would have to go; the leader does it by itself where all have a lower priority and it may preempt."""
    lower = all(one.gang.priority < gang.priority for one in found.victims)
    return explained.Clearing(
        allowed=lower and told.shell.machine.config.preempt,
        gangs=[
            explained.Victim(gang=one.gang.name, tenant=one.gang.tenant, priority=one.gang.priority, gpus=one.gang.gpus)
            for one in found.victims
        ],
    )
