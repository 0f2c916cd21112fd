"""Small fleets and gangs for placement tests, and a brute force that knows nothing of the engine's arrays."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from hypothesis import strategies as st
from numpy.typing import NDArray

from scheduler.model import device, fabric, gang, gpu_models, node, reasons, request
from scheduler.placement import placement, policy, scoring
from scheduler.snapshot import state, topology

LEVELS = ("block", "rack")

SMALL = device.GpuModel("SMALL", "Ampere", 40_000)


def machine(
    name: str, gpus: int = 4, cpus: int = 32, nics: int = 2, model: device.GpuModel = SMALL
) -> node.NodeTopology:
    """Return a machine with pairs of linked GPUs and, from two GPUs on, NICs."""
    return node.NodeTopology(
        name=name,
        machine=f"small-{gpus}",
        cpu_milli=cpus * 1000,
        memory_mib=64_000,
        gpus=tuple(device.Gpu(i, model, f"{name}/{i}", numa=i // 2) for i in range(gpus)),
        nics=tuple(device.Nic(i, f"mlx{i}", 100, numa=i) for i in range(nics if gpus else 0)),
        nvlinks=tuple(node.NvLink(i, i + 1, 4, 25.0) for i in range(0, gpus - 1, 2)),
        max_pods=110,
    )


def fleet(
    paths: Mapping[str, Sequence[str]], built: Mapping[str, node.NodeTopology], levels: Sequence[str] = LEVELS
) -> topology.Topology:
    """Compile a fleet from a path per node."""
    return topology.compile_topology(fabric.from_paths(built, paths, levels))


def racks(*sizes: int, gpus: int = 4, blocks: int = 1) -> topology.Topology:
    """Compile a fleet with racks of the given numbers of equal machines, dealt to blocks in turn."""
    paths, built = {}, {}
    for rack, size in enumerate(sizes):
        for index in range(size):
            name = f"n{rack}{index}"
            built[name] = machine(name, gpus)
            paths[name] = (f"b{rack * blocks // len(sizes)}", f"r{rack}")
    return fleet(paths, built)


def capacities(tree: dict[str, int], levels: Sequence[str] = LEVELS) -> topology.Topology:
    """Compile a fleet of CPU nodes from ``"b1/r1/x3": CPUs``, in the order given."""
    paths = {path.rsplit("/", 1)[-1]: path.split("/")[:-1] for path in tree}
    built = {path.rsplit("/", 1)[-1]: machine(path.rsplit("/", 1)[-1], 0, cpus) for path, cpus in tree.items()}
    return fleet(paths, built, levels)


def compiled(
    fleet_topology: topology.Topology, domains: str = "opportunity-cost", devices: str = "best-subset"
) -> scoring.Scoring:
    """Compile a policy with a domain rule."""
    gangs = policy.GangScoring(domains=domains, devices=devices)
    chosen = policy.ScoringPolicy(metadata=policy.Metadata(name="test"), spec=policy.Spec(gangs=gangs))
    return scoring.compile_scoring(chosen, fleet_topology)


def workers(count: int, name: str = "g", required: str = "", preferred: str = "", **fields: Any) -> gang.Gang:
    """Return a gang of one role; `fields` are those of the role's request, `segment`, `spread` and the gang's own."""
    own = {key: fields.pop(key) for key in ("segment", "spread") if key in fields}
    outer = {key: fields.pop(key) for key in ("min_member", "priority", "preemptible") if key in fields}
    role = gang.Role("worker", count, request.PodRequest(**fields), **own)
    return gang.Gang(name, (role,), constraint=gang.TopologyConstraint(required, preferred), **outer)


def image(snapshot: state.Snapshot) -> tuple[bytes, ...]:
    """Return every byte of a snapshot."""
    s = snapshot
    arrays: list[NDArray[Any]] = [
        s.gpu_free,
        s.free_mask,
        s.slices_used,
        s.cpu_free,
        s.memory_free,
        s.pods_free,
        s.nic_mask,
        s.up,
    ]
    arrays += [s.failed_gpus, s.tags, s.free_in, s.changed, *s.accelerators_free.values()]
    return (*(array.tobytes() for array in arrays), str(s.version).encode())


def take_all(snapshot: state.Snapshot, grants: Sequence[state.Grant]) -> state.Snapshot:
    """Take grants on a copy; a grant that is not free raises."""
    work = snapshot.copy()
    for grant in grants:
        work.take(grant)
    return work


DOMAINS = ("opportunity-cost", "tas-best-fit", "tas-least-free", "first-fit")


@st.composite
def fleets(draw: st.DrawFn) -> topology.Topology:
    """Draw up to six machines in unequal racks; some hang directly below a block or the root."""
    paths, built = {}, {}
    for index in range(draw(st.integers(1, 6))):
        name = f"n{draw(st.integers(0, 9))}-{index}"
        gpus = draw(st.sampled_from((0, 2, 4, 4)))
        built[name] = machine(name, gpus, draw(st.integers(2, 8)), draw(st.integers(0, 3)))
        block, rack = draw(st.sampled_from(("b0", "b0", "b1", ""))), draw(st.sampled_from(("r0", "r1", "r1", "")))
        paths[name] = (block, rack)
    return fleet(paths, built)


@st.composite
def snapshots(draw: st.DrawFn) -> state.Snapshot:
    """Draw a fleet and what is taken of it already."""
    snapshot = state.empty(draw(fleets()))
    for row, one in enumerate(snapshot.topology.nodes):
        mask = draw(st.integers(0, (1 << len(one.gpus)) - 1))
        milli = draw(st.sampled_from((1000, 1000, 400)))
        cpu = draw(st.integers(0, one.cpu_milli // 1000)) * 1000
        nics = draw(st.integers(0, (1 << len(one.nics)) - 1))
        if draw(st.booleans()):
            snapshot.take(state.Grant(row, mask, milli if mask else 0, cpu, 0, (), (), nics))
        if draw(st.integers(0, 7)) == 0:
            snapshot.set_up(row, False)
    return snapshot


@st.composite
def gangs(draw: st.DrawFn) -> gang.Gang:
    """Draw a gang of one role with any mix of constraints."""
    size = draw(st.sampled_from((1, 1, 2, 3)))
    count = size * draw(st.integers(1, 4))
    levels = st.sampled_from((*LEVELS, "node"))
    gpus = draw(st.sampled_from((0, 1, 1, 2, 4)))
    share = gpus == 1 and draw(st.booleans())
    return workers(
        count,
        required=draw(st.sampled_from(("", "", *LEVELS, "node"))),
        preferred=draw(st.sampled_from(("", "", *LEVELS))),
        gpus=gpus,
        gpu_milli=draw(st.sampled_from((300, 600))) if share else 1000,
        cpu_milli=draw(st.integers(0, 3)) * 1000,
        nics=draw(st.sampled_from((0, 0, 1))),
        segment=gang.Segment(size, draw(levels)) if size > 1 else None,
        spread=draw(st.none() | st.builds(gang.Spread, levels, st.integers(1, 3))),
    )


def room(snapshot: state.Snapshot, row: int, pod: request.PodRequest) -> int:
    """Count the pods that fit on a node by putting one after the other."""
    if not snapshot.up[row]:
        return 0
    gpus = [int(free) for free in snapshot.gpu_free[row][: len(snapshot.topology.nodes[row].gpus)]]
    cpu, memory = int(snapshot.cpu_free[row]), int(snapshot.memory_free[row])
    nics, slots, count = int(snapshot.nic_mask[row]).bit_count(), int(snapshot.pods_free[row]), 0
    while True:
        able = [i for i, free in enumerate(gpus) if free >= pod.gpu_milli]
        if len(able) < pod.gpus or cpu < pod.cpu_milli or memory < pod.memory_mib or nics < pod.nics or slots < 1:
            return count
        for index in able[: pod.gpus]:
            gpus[index] -= pod.gpu_milli
        cpu, memory, nics, slots, count = (
            cpu - pod.cpu_milli,
            memory - pod.memory_mib,
            nics - pod.nics,
            slots - 1,
            count + 1,
        )


def domain_of(fleet_topology: topology.Topology, row: int, level: str) -> str:
    """Return the domain of a level above a node, "" where its branch leaves the level out."""
    tree = fleet_topology.tree
    vertex = int(tree.vertex[row])
    while vertex >= 0:
        if tree.levels[tree.level[vertex]] == level:
            return tree.names[vertex]
        vertex = int(tree.parent[vertex])
    return ""


def obeys(fleet_topology: topology.Topology, one: gang.Gang, role: gang.Role, counts: Sequence[int]) -> bool:
    """Tell whether pods per node satisfy the constraints of a role."""

    def tally(level: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for row, count in enumerate(counts):
            if count:
                domain = domain_of(fleet_topology, row, level)
                found[domain] = found.get(domain, 0) + count
        return found

    for level in (one.constraint.required, role.constraint.required):
        if level and (len(tally(level)) > 1 or "" in tally(level)):
            return False
    if role.spread:
        per_domain = tally(role.spread.level)
        if "" in per_domain or max(per_domain.values()) > role.spread.max_pods:
            return False
    if role.segment and role.segment.size > 1:
        per_domain = tally(role.segment.level)
        return "" not in per_domain and not any(count % role.segment.size for count in per_domain.values())
    return True


def solutions(snapshot: state.Snapshot, one: gang.Gang) -> Iterator[tuple[int, ...]]:
    """Yield all ways to put a gang of one role on nodes, as pods per node."""
    role = one.roles[0]
    most = [min(room(snapshot, row, role.request), role.count) for row in range(len(snapshot.up))]
    for counts in product(*(range(limit + 1) for limit in most)):
        if sum(counts) == role.count and obeys(snapshot.topology, one, role, counts):
            yield counts


def possible(snapshot: state.Snapshot, one: gang.Gang) -> bool:
    """Tell whether a gang of one role has any placement."""
    return next(solutions(snapshot, one), None) is not None


def check(snapshot: state.Snapshot, one: gang.Gang, answer: placement.Placement | reasons.Rejection) -> None:
    """Check a whole placement: free, complete, within all constraints, every rank map contiguous."""
    assert isinstance(answer, placement.Placement), str(answer)
    assert len(answer.grants) == one.size
    take_all(snapshot, answer.grants)
    at = 0
    for role in one.roles:
        own = answer.grants[at : at + role.count]
        at += role.count
        counts = [sum(grant.node == row for grant in own) for row in range(len(snapshot.up))]
        assert obeys(snapshot.topology, one, role, counts)
        if role.segment:
            for start in range(0, role.count, role.segment.size):
                part = own[start : start + role.segment.size]
                assert len({domain_of(snapshot.topology, g.node, role.segment.level) for g in part}) == 1
        for grant in own:
            assert grant.cpu_milli == role.request.cpu_milli
            assert grant.nic_mask.bit_count() == role.request.nics
            if not role.request.mig:
                assert grant.mask.bit_count() == role.request.gpus
                assert sorted(grant.gpus) == [i for i in range(32) if grant.mask >> i & 1]
        contiguous(snapshot.topology, own)


def contiguous(fleet_topology: topology.Topology, grants: Sequence[state.Grant]) -> None:
    """Check that the ranks of every domain of every level follow each other."""
    for level in fleet_topology.tree.levels:
        names = [domain_of(fleet_topology, grant.node, level) for grant in grants]
        runs = [name for at, name in enumerate(names) if name and (not at or names[at - 1] != name)]
        assert len(runs) == len(set(runs)), (level, names)


def mig_node(name: str, gpus: int = 2) -> node.NodeTopology:
    """Return a machine whose GPUs are all in MIG mode."""
    own = tuple(device.Gpu(i, gpu_models.A100_SXM4_80, f"{name}/{i}", mig_enabled=True) for i in range(gpus))
    return node.NodeTopology(name, "mig", 64_000, 64_000, own)
