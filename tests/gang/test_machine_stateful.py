"""The decision machine under any order of events, watched by a model in plain dictionaries.

S1-S7, S9 and S11 of the design's list of invariants, recomputed from effects alone.
"""

import pickle
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.gang import config, events, machine
from scheduler.model import gang as gangs
from scheduler.model import reasons, request
from scheduler.placement import engine, placement, policy, scoring
from scheduler.snapshot import topology
from simulator import oracle
from tests.gang import ledger
from tests.placement import fleets

PODS = {
    "whole": request.PodRequest(gpus=1, cpu_milli=1000),
    "pair": request.PodRequest(gpus=2),
    "node": request.PodRequest(gpus=4),
    "wide": request.PodRequest(gpus=8),
    "half": request.PodRequest(gpus=1, gpu_milli=500),
    "quarter": request.PodRequest(gpus=1, gpu_milli=250),
    "odd": request.PodRequest(gpus=1, gpu_milli=700, cpu_milli=500),
    "cpu": request.PodRequest(cpu_milli=3000),
}
ALIVE = ("waiting", "running", "resting")
PICK = st.integers(0, 31)
RACKS = st.lists(st.lists(st.sampled_from((0, 2, 4, 4, 8)), min_size=1, max_size=3), min_size=1, max_size=4)


def fleet(racks: list[list[int]]) -> tuple[topology.Topology, dict[str, tuple[str, str]]]:
    """Compile unequal racks, two to a block."""
    paths = {f"n{r}{i}": (f"b{r // 2}", f"r{r}") for r, rack in enumerate(racks) for i in range(len(rack))}
    built = {
        f"n{r}{i}": fleets.machine(f"n{r}{i}", gpus, 8) for r, rack in enumerate(racks) for i, gpus in enumerate(rack)
    }
    return fleets.fleet(paths, built), paths


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, Any]:
    """Draw roles and constraints in words, short enough to read in a failing example."""
    kinds = draw(st.lists(st.sampled_from(sorted(PODS)), min_size=1, max_size=2, unique=True))
    pods = {kind: draw(st.sampled_from((1, 1, 2, 2, 4))) for kind in kinds}
    return {
        "pods": pods,
        "required": draw(st.sampled_from(("", "", "", "rack", "block", "node"))),
        "preferred": draw(st.sampled_from(("", "rack"))),
        "min_member": draw(st.sampled_from((0, 0, 1, sum(pods.values())))),
        "priority": draw(st.integers(0, 2)),
        "tenant": draw(st.sampled_from(("ml", "ml", "ml", "web", "web", "web", "guest"))),
        "preemptible": draw(st.sampled_from((True, True, False))),
        "expected_s": draw(st.sampled_from((0.0, 5.0, 50.0))),
    }


def gang(name: str, pods: dict[str, int], required: str = "", preferred: str = "", **fields: Any) -> gangs.Gang:
    """Build the gang that a wish describes."""
    roles = tuple(gangs.Role(kind, count, PODS[kind]) for kind, count in pods.items())
    return gangs.Gang(name, roles, constraint=gangs.TopologyConstraint(required, preferred), **fields)


class Fleet(RuleBasedStateMachine):
    """Events in any order, also twice, too late, and about nobody."""

    @initialize(
        racks=RACKS,
        mode=st.sampled_from(("fifo", "skip", "easy")),
        preempt=st.booleans(),
        reservation=st.sampled_from((0.0, 0.0, 3.0)),
        quotas=st.sampled_from((None, None, None, (4, 4), (8, 16))),
        pods=st.sampled_from(("best-fit", "fgd", "first-fit", "opportunity-cost")),
        domains=st.sampled_from(fleets.DOMAINS),
        crowd=st.lists(wishes(), min_size=4, max_size=12),
    )
    def start(
        self, racks: Any, mode: Any, preempt: Any, reservation: Any, quotas: Any, pods: Any, domains: Any, crowd: Any
    ) -> None:
        self.racks, self.now, self.book = racks, 0.0, ledger.Ledger()
        spec = policy.Spec(pods=policy.PodScoring(rule=pods), gangs=policy.GangScoring(domains=domains))
        self.policy = policy.ScoringPolicy(metadata=policy.Metadata(name="test"), spec=spec)
        given = () if quotas is None else (config.Quota("ml", *quotas), config.Quota("web", quotas[0]))
        self.book.quotas = {quota.tenant: quota for quota in given}
        self.core = machine.Machine(
            self.compiled(racks), config.QueueConfig(mode, given, preempt, reservation, easy_depth=20)
        )
        self.submit(crowd)

    def compiled(self, racks: list[list[int]]) -> scoring.Scoring:
        built, paths = fleet(racks)
        self.book.nodes = {node.name: node for node in built.nodes}
        self.book.paths = paths
        return scoring.compile_scoring(self.policy, built)

    def tell(self, event: events.Event) -> list[Any]:
        answer = self.core.handle(event, self.now)
        for effect in answer:
            self.book.apply(self.core.snapshot.topology, effect, self.now, self.core.config.reservation_s)
        return answer

    @rule(crowd=st.lists(wishes(), min_size=1, max_size=4))
    def submit(self, crowd: list[dict[str, Any]]) -> None:
        for wish in crowd:
            name = f"g{len(self.book.known)}"
            self.offer(gang(name, **wish))

    @rule(rack=st.integers(0, 3), more=st.integers(0, 1))
    def submit_rack(self, rack: int, more: int) -> None:
        """A gang exactly as large as a rack, or one pod larger."""
        chosen = self.racks[rack % len(self.racks)]
        if sum(chosen) + more:
            self.offer(gang(f"g{len(self.book.known)}", {"pair": sum(chosen) // 2 + more}, "rack"))

    @rule(pick=PICK)
    def submit_again(self, pick: int) -> None:
        """Twice the same: known ones are ignored, those that are gone are new."""
        names = sorted(self.book.known)
        if names:
            self.offer(self.book.known[names[pick % len(names)]])

    def offer(self, one: gangs.Gang) -> None:
        if self.book.state.get(one.name) in ALIVE:
            assert not self.tell_nothing(events.GangSubmitted(one))
            return
        self.book.known[one.name], self.book.state[one.name] = one, "waiting"
        answer = self.tell(events.GangSubmitted(one))
        told = [effect for effect in answer if effect.gang.name == one.name]
        assert told, "a gang that was submitted starts, waits or is rejected, and is told which"

    def gang(self, pick: int, *states: str) -> str:
        """Return a gang that is in one of some states, or else one that nobody knows."""
        names = sorted(name for name, where in self.book.state.items() if where in (states or ALIVE))
        return names[pick % len(names)] if names else "ghost"

    @rule(pick=PICK)
    def finish(self, pick: int) -> None:
        name = self.gang(pick)
        was = self.book.state.get(name)
        if was is None:
            assert not self.tell_nothing(events.GangFinished(name))
            return
        self.book.leave(name, "finished" if was == "running" else "cancelled")
        self.tell(events.GangFinished(name) if was == "running" else events.GangCancelled(name))

    @rule(pick=PICK)
    def repeat_the_end(self, pick: int) -> None:
        name = self.gang(pick, "finished", "cancelled", "rejected")
        assert not self.tell_nothing(events.GangFinished(name))
        assert not self.tell_nothing(events.BindFailed(name))

    @rule(pick=PICK)
    def bound(self, pick: int) -> None:
        name = self.gang(pick)
        self.book.reserved_until.pop(name, None)
        assert not self.tell(events.Bound(name))

    @rule(pick=PICK)
    def bind_failed(self, pick: int) -> None:
        name = self.gang(pick, "running")
        if name == "ghost":
            assert not self.tell_nothing(events.BindFailed(name))
            return
        self.book.leave(name, "resting")
        self.tell(events.BindFailed(name))

    @rule(seconds=st.integers(1, 70))
    def wait(self, seconds: int) -> None:
        """Let time pass, but never past a tick that is due."""
        target = self.now + seconds
        while (due := self.core.next_tick()) <= target:
            assert due > self.now
            self.now = due
            self.wake()
            self.tell(events.Tick())
        self.now = target
        assert not self.tell_nothing(events.Tick())

    def wake(self) -> None:
        for name, (until, _, _) in self.core._resting.items():
            if until <= self.now:
                self.book.state[name] = "waiting"

    def node(self, index: int) -> str:
        """Return a node, every other time one that holds something."""
        busy = sorted({node for pods in self.book.pods.values() for node, *_ in pods})
        names = busy if busy and index % 2 else sorted(self.book.nodes)
        return names[index // 2 % len(names)]

    @rule(index=PICK)
    def fail_node(self, index: int) -> None:
        node = self.node(index)
        if "failed" in self.book.down[node]:
            assert not self.tell_nothing(events.NodeFailed(node))
        self.book.down[node].add("failed")
        self.tell(events.NodeFailed(node))

    @rule(index=PICK)
    def repair_node(self, index: int) -> None:
        node = self.node(index)
        self.book.down[node].discard("failed")
        self.tell(events.NodeRepaired(node))

    @rule(index=PICK, on=st.booleans())
    def cordon(self, index: int, on: bool) -> None:
        node = self.node(index)
        if on:
            self.book.down[node].add("cordoned")
            self.tell(events.NodeCordoned(node))
            assert not self.tell_nothing(events.NodeCordoned(node))
        else:
            self.book.down[node].discard("cordoned")
            self.tell(events.NodeUncordoned(node))

    @rule(index=PICK, gpu=st.integers(0, 8))
    def fail_gpu(self, index: int, gpu: int) -> None:
        node = self.node(index)
        if gpu >= len(self.book.nodes[node].gpus) or (node, gpu) in self.book.failed:
            assert not self.tell_nothing(events.DeviceFailed(node, gpu))
            return
        self.book.failed.add((node, gpu))
        self.tell(events.DeviceFailed(node, gpu))

    @rule(index=PICK, gpu=st.integers(0, 8))
    def repair_gpu(self, index: int, gpu: int) -> None:
        node = self.node(index)
        self.book.failed.discard((node, gpu))
        self.tell(events.DeviceRepaired(node, gpu))

    @rule(racks=RACKS)
    def rebuild(self, racks: list[list[int]]) -> None:
        """Another fleet: names stay, machines come, go, grow and shrink."""
        self.racks = racks
        compiled = self.compiled(racks)
        names = self.book.nodes
        self.book.failed = {(n, g) for n, g in self.book.failed if n in names and g < len(names[n].gpus)}
        for node in [node for node in self.book.down if node not in names]:
            del self.book.down[node]
        self.tell(events.TopologyChanged(compiled))

    @precondition(lambda self: self.book.quotas)
    @rule(ml=st.integers(0, 8), web=st.integers(0, 8), borrow=st.integers(0, 8))
    def change_quotas(self, ml: int, web: int, borrow: int) -> None:
        given = (config.Quota("ml", ml, borrow), config.Quota("web", web))
        self.book.quotas = {quota.tenant: quota for quota in given}
        self.tell(events.QuotasChanged(given))

    @rule()
    def restart(self) -> None:
        """A machine that was written down and read back goes on as the one it was."""
        self.core = pickle.loads(pickle.dumps(self.core))

    def tell_nothing(self, event: events.Event) -> list[Any]:
        """S9: an event that says nothing new has no effect and changes nothing."""
        before = fleets.image(self.core.snapshot), sorted(self.core.queue.waiting), self.core.decisions
        answer = self.tell(event)
        assert before == (fleets.image(self.core.snapshot), sorted(self.core.queue.waiting), self.core.decisions)
        return answer

    @invariant()
    def capacity_is_kept(self) -> None:
        """S1, S2: no GPU over-used; free and taken make the whole, recomputed from the pods."""
        gpus, cpu = self.book.free()
        assert all(0 <= left <= 1000 for left in gpus.values()) and all(left >= 0 for left in cpu.values())
        snapshot = self.core.snapshot
        for (node, gpu), left in gpus.items():
            row = snapshot.topology.row[node]
            assert int(snapshot.gpu_free[row, gpu]) == left
            assert bool(int(snapshot.free_mask[row]) >> gpu & 1) == (left == 1000 and not self.book.down[node])
        for node, cores in cpu.items():
            assert int(snapshot.cpu_free[snapshot.topology.row[node]]) == cores
        whole = sum(left == 1000 and not self.book.down[node] for (node, _), left in gpus.items())
        assert snapshot.free_gpus == whole

    @invariant()
    def every_gang_is_in_one_place(self) -> None:
        """S6: waiting, running, resting or gone, and the machine agrees."""
        places = {where: {n for n, at in self.book.state.items() if at == where} for where in ALIVE}
        assert set(self.core.queue.waiting) == places["waiting"]
        assert {one.gang.name for one in self.core.held} == places["running"] == set(self.book.pods)
        assert set(self.core._resting) == places["resting"]
        self.core.check_invariants()

    @invariant()
    def who_waits_has_to(self) -> None:
        """S7, S11: a reason for everybody, and true: by quota, by the engine and, for whole gangs, by the solver."""
        blocked = False
        for entry in self.core.queue.in_order():
            one = entry.gang
            why = self.core.why(one.name)
            assert why is not None and why.gang == one.name
            if why.reason is reasons.Reason.QUOTA:
                assert self.book.over_quota(one)
                continue
            assert not self.book.over_quota(one)
            if why.reason is reasons.Reason.QUEUED:
                assert blocked and self.core.config.mode != "skip"
                continue
            answer = engine.place(self.core.snapshot, one, self.core.scoring, self.core.tiers)
            assert not isinstance(answer, placement.Placement)
            assert (answer.reason, answer.missing, answer.nearest) == (why.reason, why.missing, why.nearest)
            assert self.book.true_reason(why), str(why)
            if not blocked and len(one.roles) == 1 and one.minimum == one.size:
                assert not oracle.feasible(self.core.snapshot, one)
            blocked = True


TestFleet = Fleet.TestCase
TestFleet.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
