"""Scripts of commands against one machine: what a command line means, and the whole state in a few printed lines."""

from dataclasses import dataclass, field

from scheduler.gang import config, effects, events, machine
from scheduler.model import gang as gangs
from scheduler.model import node, request
from scheduler.placement import placement, policy, scoring
from scheduler.snapshot import state, topology
from tests.placement import fleets


@dataclass
class Session:
    """One script: a machine, its clock, and the commands that drive it."""

    now: float = 0.0
    core: machine.Machine = field(init=False)

    def run(self, line: str) -> str:
        """Run a command line; return its effects and the state after it."""
        word, *rest = line.split()
        plain = [part for part in rest if "=" not in part]
        named = dict(part.split("=", 1) for part in rest if "=" in part)
        self.now = float(named.pop("t", self.now))
        if word == "fleet":
            quotas = _quotas(plain)
            self.core = machine.Machine(_scoring(named), _config(named, quotas))
            answer: list[effects.Effect] = []
        else:
            answer = self.core.handle(_event(word, plain, named), self.now)
        self.core.check_invariants()
        return "\n".join([*(_effect(self.core.snapshot.topology, one) for one in answer), *_state(self.core)])


def _scoring(named: dict[str, str]) -> scoring.Scoring:
    """Compile ``racks=2,1 gpus=4``: racks of equal machines; ``gpus=4,8`` gives each rack its own."""
    sizes = [int(size) for size in named.pop("racks").split(",")]
    gpus = [int(count) for count in named.pop("gpus", "4").split(",")]
    cpus = int(named.pop("cpus", "32"))
    paths: dict[str, tuple[str, str]] = {}
    built: dict[str, node.NodeTopology] = {}
    for rack, size in enumerate(sizes):
        for index in range(size):
            name = f"n{rack}{index}"
            built[name] = fleets.machine(name, gpus[rack % len(gpus)], cpus)
            paths[name] = ("b0", f"r{rack}")
    gang_rules = policy.GangScoring(domains="tas-best-fit", devices="first-fit")
    spec = policy.Spec(pods=policy.PodScoring(rule="best-fit"), gangs=gang_rules)
    return scoring.compile_scoring(
        policy.ScoringPolicy(metadata=policy.Metadata(name="test"), spec=spec), fleets.fleet(paths, built)
    )


def _config(named: dict[str, str], quotas: tuple[config.Quota, ...]) -> config.QueueConfig:
    return config.QueueConfig(
        mode=named.get("mode", "skip"),  # type: ignore[arg-type]
        quotas=quotas,
        preempt=named.get("preempt") == "yes",
        reservation_s=float(named.get("reservation", 0)),
    )


def _quotas(plain: list[str]) -> tuple[config.Quota, ...]:
    """Read ``ml:8+4``: tenant, nominal, borrowing limit."""
    found = []
    for one in plain:
        tenant, amount = one.split(":")
        nominal, _, borrow = amount.partition("+")
        found.append(config.Quota(tenant, int(nominal), int(borrow or 0)))
    return tuple(found)


def _gang(name: str, named: dict[str, str]) -> gangs.Gang:
    pod = request.PodRequest(
        cpu_milli=int(named.get("cpu", 0)) * 1000,
        gpus=int(named.get("gpus", 1)),
        gpu_milli=int(named.get("milli", 1000)),
        gpu_models=tuple(named["model"].split(",")) if "model" in named else (),
    )
    return gangs.Gang(
        name,
        (gangs.Role("worker", int(named.get("pods", 1)), pod),),
        tenant=named.get("tenant", "default"),
        priority=int(named.get("priority", 0)),
        constraint=gangs.TopologyConstraint(named.get("required", ""), named.get("preferred", "")),
        min_member=int(named.get("min", 0)),
        preemptible=named.get("preemptible", "yes") == "yes",
        expected_s=float(named.get("expected", 0)),
    )


def _event(word: str, plain: list[str], named: dict[str, str]) -> events.Event:
    match word:
        case "submit":
            return events.GangSubmitted(_gang(plain[0], named))
        case "finish":
            return events.GangFinished(plain[0])
        case "cancel":
            return events.GangCancelled(plain[0])
        case "bound":
            return events.Bound(plain[0])
        case "bind-failed":
            return events.BindFailed(plain[0])
        case "cordon":
            return events.NodeCordoned(plain[0])
        case "uncordon":
            return events.NodeUncordoned(plain[0])
        case "fail":
            return events.NodeFailed(plain[0])
        case "repair":
            return events.NodeRepaired(plain[0])
        case "fail-gpu":
            return events.DeviceFailed(plain[0], int(plain[1]))
        case "repair-gpu":
            return events.DeviceRepaired(plain[0], int(plain[1]))
        case "quotas":
            return events.QuotasChanged(_quotas(plain))
        case "topology":
            return events.TopologyChanged(_scoring(named))
        case "tick":
            return events.Tick()
    raise ValueError(f"unknown command {word}")


def _effect(fleet: topology.Topology, one: effects.Effect) -> str:
    match one:
        case effects.Start(gang, found, decision, because):
            return f"start {gang.name} #{decision} on {_devices(fleet, found)} in {found.domain} ({because})"
        case effects.Wait(gang, refused, because):
            return f"wait {gang.name}: {refused} ({because})"
        case effects.Reject(gang, refused, because):
            return f"reject {gang.name}: {refused} ({because})"
        case effects.Evict(gang, _, reason, because):
            return f"evict {gang.name}: {reason.value} ({because})"
        case effects.Expire(gang, _, because):
            return f"expire {gang.name} ({because})"


def _devices(fleet: topology.Topology, found: placement.Placement) -> str:
    return " ".join(f"{fleet.nodes[grant.node].name}[{_gpus(grant)}]" for grant in found.grants)


def _gpus(grant: state.Grant) -> str:
    share = f":{grant.milli}" if 0 < grant.milli < state.FULL else ""
    return "".join(str(gpu) for gpu in sorted(grant.gpus)) + share


def _state(core: machine.Machine) -> list[str]:
    """Print nodes, held gangs, the queue with its reasons, and the clock's next duty."""
    snapshot, fleet = core.snapshot, core.snapshot.topology
    nodes = []
    for row, one in enumerate(fleet.nodes):
        marks = [_gpu(snapshot, row, gpu) for gpu in range(len(one.gpus))]
        nodes.append(f"{one.name}={''.join(marks) or '-'}{'' if snapshot.up[row] else '(down)'}")
    held = [f"{one.gang.name}{'' if one.expires == float('inf') else f'(until {one.expires:g})'}" for one in core.held]
    waiting = [f"  {entry.gang.name} waits: {core.why(entry.gang.name)}" for entry in core.queue.in_order()]
    due = core.next_tick()
    lines = ["  " + " ".join(nodes), f"  holds: {' '.join(held) or '-'}", *waiting]
    return [*lines, f"  tick due at {due:g}"] if due < float("inf") else lines


def _gpu(snapshot: state.Snapshot, row: int, gpu: int) -> str:
    """Print one GPU: free, taken, failed, or the tenths of it that are left."""
    if int(snapshot.failed_gpus[row]) >> gpu & 1:
        return "!"
    left = int(snapshot.gpu_free[row, gpu])
    return "." if left == state.FULL else "#" if not left else str(left // 100)
