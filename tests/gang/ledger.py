"""What a decision machine's effects add up to, in plain dictionaries: a second opinion that shares no code with it."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from scheduler.gang import config, effects
from scheduler.model import gang as gangs
from scheduler.model import node as machines
from scheduler.model import reasons, request
from scheduler.placement import placement
from scheduler.snapshot import topology

Pod = tuple[str, tuple[int, ...], int, int]
"""Node name, GPUs, milli of each, milli-CPU."""


@dataclass
class Ledger:
    """The fleet by name, and where every gang is: waiting, running, resting, or gone for a reason."""

    nodes: dict[str, machines.NodeTopology] = field(default_factory=dict)
    paths: dict[str, tuple[str, str]] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)
    known: dict[str, gangs.Gang] = field(default_factory=dict)
    pods: dict[str, list[Pod]] = field(default_factory=dict)
    down: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    failed: set[tuple[str, int]] = field(default_factory=set)
    quotas: dict[str, config.Quota] = field(default_factory=dict)
    reserved_until: dict[str, float] = field(default_factory=dict)
    decisions: int = 0

    def apply(self, fleet: topology.Topology, effect: effects.Effect, now: float, reservation: float) -> None:
        """Take note of an effect; anything that may never be is an assertion."""
        name = effect.gang.name
        match effect:
            case effects.Start(gang, found, decision, _):
                assert self.state[name] == "waiting"
                self.decisions += 1
                assert decision == self.decisions
                self._check_quota(gang)
                self.start(fleet, gang, found)
                if reservation:
                    self.reserved_until[name] = now + reservation
            case effects.Refill(gang, found, ranks, decision, _):
                assert self.state[name] == "running"
                self.decisions += 1
                assert decision == self.decisions
                self.refill(fleet, gang, found, ranks)
            case effects.Evict(gang, _, reason, _):
                assert self.state[name] == "running"
                self._check_eviction(fleet, gang, reason)
                self.leave(name, "waiting")
            case effects.Expire():
                assert self.state[name] == "running" and self.reserved_until[name] <= now
                self.leave(name, "waiting")
            case effects.Reject(_, refused, _):
                assert self.state[name] == "waiting" and refused.permanent
                self.state[name] = "rejected"
            case effects.Wait():
                assert self.state[name] == "waiting"

    def start(self, fleet: topology.Topology, gang: gangs.Gang, found: placement.Placement) -> None:
        """Check a start against the fleet, and remember it."""
        pods = [
            (fleet.nodes[grant.node].name, tuple(sorted(grant.gpus)), grant.milli, grant.cpu_milli)
            for grant in found.grants
        ]
        # S3: the whole gang, or at least the minimum that it allows.
        assert (gang.min_member or gang.size) <= len(pods) <= gang.size
        wanted = [role.request for role in gang.roles for _ in range(role.count)]
        for pod, (node, gpus, milli, cpu) in zip(wanted, pods, strict=False):
            self._check_pod(pod, node, gpus, milli, cpu)
        # S4: all members in one domain of the required level.
        column = {"block": 0, "rack": 1}.get(gang.constraint.required)
        if column is not None:
            assert len({self.paths[node][: column + 1] for node, *_ in pods}) == 1
        assert gang.constraint.required != "node" or len({node for node, *_ in pods}) == 1
        self.state[gang.name], self.pods[gang.name] = "running", pods

    def refill(
        self, fleet: topology.Topology, gang: gangs.Gang, found: placement.Placement, ranks: tuple[int, ...]
    ) -> None:
        """Check that only pods without devices got others, beside the ones that stay as they were."""
        before, down, self.down = self.pods.pop(gang.name), self.down, defaultdict(set)
        self.start(fleet, gang, found)  # what stays may be on a node that is down
        self.down = down
        after = self.pods[gang.name]
        assert ranks and all(pod == before[rank] for rank, pod in enumerate(after) if rank not in ranks)
        for rank in ranks:
            assert rank >= len(before) or before[rank] != after[rank]
            assert not self.down[after[rank][0]]

    def leave(self, name: str, to: str) -> None:
        """Take a gang out of its devices, if it has any."""
        self.pods.pop(name, None)
        self.reserved_until.pop(name, None)
        self.state[name] = to

    def _check_pod(self, pod: request.PodRequest, node: str, gpus: tuple[int, ...], milli: int, cpu: int) -> None:
        """S5: the pod gets what it asked for, on devices that are there and up."""
        assert not self.down[node]
        assert len(gpus) == pod.gpus and milli == (pod.gpu_milli if pod.gpus else 0) and cpu == pod.cpu_milli
        assert all(gpu < len(self.nodes[node].gpus) and (node, gpu) not in self.failed for gpu in gpus)

    def _check_quota(self, gang: gangs.Gang) -> None:
        """S5: within the tenant's own share, or borrowed from what the others leave idle."""
        need = milli(gang)
        if not self.quotas or not need:
            return
        mine = self.quotas.get(gang.tenant, config.Quota(gang.tenant, 0))
        used = self.used()
        after = used[gang.tenant] + need
        if after > mine.nominal * 1000:
            assert after <= (mine.nominal + mine.borrow) * 1000
            assert sum(used.values()) + need <= 1000 * sum(quota.nominal for quota in self.quotas.values())

    def _check_eviction(self, fleet: topology.Topology, gang: gangs.Gang, reason: effects.Eviction) -> None:
        """S5: nobody leaves without the cause that is given."""
        nodes = {node for node, *_ in self.pods[gang.name]}
        match reason:
            case effects.Eviction.NODE_FAILED:
                assert any("failed" in self.down[node] for node in nodes)
            case effects.Eviction.DEVICE_FAILED:
                held = {(node, gpu) for node, gpus, *_ in self.pods[gang.name] for gpu in gpus}
                assert held & self.failed
            case effects.Eviction.PREEMPTED:
                assert gang.preemptible
                assert any(
                    self.known[name].priority > gang.priority
                    for name, where in self.state.items()
                    if where == "waiting"
                )
            case effects.Eviction.RECLAIMED:
                quota = self.quotas.get(gang.tenant, config.Quota(gang.tenant, 0))
                assert gang.preemptible and self.used()[gang.tenant] > quota.nominal * 1000
            case effects.Eviction.NODE_REMOVED:
                assert any(
                    node not in self.nodes or any(gpu >= len(self.nodes[node].gpus) for gpu in gpus)
                    for node, gpus, *_ in self.pods[gang.name]
                )

    def used(self) -> Counter[str]:
        """Return GPU milli per tenant."""
        found: Counter[str] = Counter()
        for name in self.pods:
            found[self.known[name].tenant] += milli(self.known[name])
        return found

    def free(self) -> tuple[dict[tuple[str, int], int], dict[str, int]]:
        """Return what the pods leave of every GPU (milli; 0 for failed ones) and of every node's CPU."""
        gpus = {
            (name, gpu): 0 if (name, gpu) in self.failed else 1000
            for name, machine in self.nodes.items()
            for gpu in range(len(machine.gpus))
        }
        cpu = {name: machine.cpu_milli for name, machine in self.nodes.items()}
        for pods in self.pods.values():
            for node, indices, share, cores in pods:
                cpu[node] -= cores
                for gpu in indices:
                    gpus[node, gpu] -= share
        return gpus, cpu

    def over_quota(self, gang: gangs.Gang) -> bool:
        """Tell whether the quotas alone hold a gang back."""
        try:
            self._check_quota(gang)
        except AssertionError:
            return True
        return False

    def true_reason(self, refused: reasons.Rejection) -> bool:
        """Re-check the count that a refusal gives, where it is one of GPUs over the whole fleet."""
        if refused.reason is not reasons.Reason.GPUS or refused.level or refused.resource != "GPUs":
            return True
        gpus, _ = self.free()
        whole = sum(left == 1000 and not self.down[node] for (node, _), left in gpus.items())
        gang = self.known[refused.gang]
        asked = [role for role in gang.roles if refused.detail in ("", "all roles together", f"role {role.name}")]
        if gang.minimum < gang.size or any(role.request.kind is not request.RequestKind.WHOLE for role in asked):
            return True
        return sum(role.count * role.request.gpus for role in asked) - whole == refused.missing


def milli(gang: gangs.Gang) -> int:
    """Return the GPU milli of all pods of a gang."""
    return sum(role.count * role.request.gpus * role.request.gpu_milli for role in gang.roles)
