"""What people and programs are told about gangs and devices: the values of the explain answers.

The OpenAPI document of the server is made from these types; their docstrings are its descriptions.
"""

from typing import Literal

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Part of an answer."""


class Replica(Value, frozen=True):
    """Who answers.

    `leads` is false for a replica that stands by: it sees the cluster, plans nothing, and does not know what the leader has
    queued or reserved. `note` says so in words. `at` is the time of the answer, RFC 3339.
    """

    identity: str
    leads: bool
    at: str
    note: str


class Term(Value, frozen=True):
    """A part of a score; whole numbers, lower is better."""

    name: str
    value: int


class Candidate(Value, frozen=True):
    """A domain that was compared (`terms`) or passed over (`why`)."""

    domain: str
    level: str
    terms: list[Term]
    why: str


class Refusal(Value, frozen=True):
    """Why a gang does not start: the constraint that blocks, the nearest domain, and what is missing there.

    `permanent` means that not even the empty fleet can hold the gang. `text` is the whole in one sentence.
    """

    reason: str
    level: str
    nearest: str
    missing: int
    resource: str
    permanent: bool
    detail: str
    text: str


class Device(Value, frozen=True):
    """A device of a claim, in the order in which the container sees them; `share_id` "" for the whole device."""

    claim: str
    request: str
    driver: str
    pool: str
    device: str
    share_id: str


class Member(Value, frozen=True):
    """A pod of a gang by rank; `node` "" and no devices before it is planned."""

    rank: int
    role: str
    pod: str
    node: str
    devices: list[Device]


class Role(Value, frozen=True):
    """Equal pods of a gang and what each asks for, in words."""

    name: str
    count: int
    asks: str


class GangLine(Value, frozen=True):
    """A gang in a list.

    `name` is that of its GangPlacement, `owner` that of the object which tells about it. `since` is when it came to its
    state, as far as this replica knows; "" where it does not.
    """

    namespace: str
    kind: str
    name: str
    owner: str
    tenant: str
    priority: int
    state: str
    pods: int
    wanted: int
    gpus: int
    nodes: int
    level: str
    domain: str
    bandwidth_mb_s: int
    why: str
    since: str


class Gangs(Value, frozen=True):
    """Gangs that run or wait; `total` counts those that match, also where fewer are listed."""

    by: Replica
    total: int
    gangs: list[GangLine]


class Told(Value, frozen=True):
    """Something that happened to a gang: what was decided, in words, and which event asked for it or made room."""

    at: str
    what: str
    text: str
    because: str


class Gang(Value, frozen=True):
    """One gang in full.

    `compared` has the chosen domain first, then the runners-up; `passed_over` the domains that lack something, the nearest
    first. `refusal` is null unless the gang waits for room or can't run. `history` is what this process decided, oldest
    first.
    """

    by: Replica
    gang: GangLine
    roles: list[Role]
    decision: int
    decision_id: str
    members: list[Member]
    compared: list[Candidate]
    passed_over: list[Candidate]
    refusal: Refusal | None
    history: list[Told]


class NodesByReason(Value, frozen=True):
    """How many nodes the extender would refuse for a reason, with some of them."""

    reason: str
    nodes: int
    examples: list[str]


class Pod(Value, frozen=True):
    """One pod: its gang and its place in the plan, or what kube-scheduler would be told of the nodes.

    `feasible` counts the nodes that the extender would let it go to, of `nodes` in the fleet; both are 0 where the pod has
    its node already.
    """

    by: Replica
    namespace: str
    name: str
    phase: str
    node: str
    gates: list[str]
    gang: GangLine | None
    member: Member | None
    asks: str
    text: str
    nodes: int
    feasible: int
    best: list[str]
    refused: list[NodesByReason]


class Domain(Value, frozen=True):
    """A domain of the fleet, in depth-first order; `parent` is the name of the domain around it, "" for the fleet.

    `free` counts the GPUs that are wholly free on nodes that take pods, `used` those that gangs or others hold any part of,
    `failed` those that a taint keeps off. GPUs of closed nodes are neither free nor failed.
    """

    name: str
    level: str
    parent: str
    nodes: int
    closed: int
    gpus: int
    free: int
    used: int
    failed: int


class LeftOut(Value, frozen=True):
    """A node that can't be planned on, and why."""

    node: str
    why: str


class Topology(Value, frozen=True):
    """The fleet as a tree, coarsest level first; `cut` where deeper domains were left out to keep the answer short."""

    by: Replica
    levels: list[str]
    domains: list[Domain]
    cut: bool
    left_out: list[LeftOut]


class NodeUse(Value, frozen=True):
    """What a node has and who holds it; `closed` says why nothing new can start there, "" where it can."""

    node: str
    domain: str
    closed: str
    gpus: int
    free: int
    whole: int
    shared: int
    partitioned: int
    failed: int
    cpu_milli: int
    cpu_free_milli: int
    memory_mib: int
    memory_free_mib: int
    gangs: list[str]


class Devices(Value, frozen=True):
    """GPUs of the fleet by use. `others` counts those of them that are held by pods and claims of no gang."""

    gpus: int
    free: int
    whole: int
    shared: int
    partitioned: int
    failed: int
    closed: int
    others: int


class Tenant(Value, frozen=True):
    """What a tenant holds, and how many of its gangs run and wait; GPUs in thousandths."""

    tenant: str
    gpu_milli: int
    running: int
    waiting: int


class Fragment(Value, frozen=True):
    """How many of the free GPUs are left over where nodes are filled with pods of `size` GPUs; `share` of all free ones."""

    size: int
    unusable: int
    share: float


class Top(Value, frozen=True):
    """The fleet at a glance; `nodes` at most as many as were asked for, those with most in use first."""

    by: Replica
    devices: Devices
    fragmentation: list[Fragment]
    largest: list[Domain]
    tenants: list[Tenant]
    total_nodes: int
    nodes: list[NodeUse]


class Victim(Value, frozen=True):
    """A gang that would have to go, and what it holds."""

    gang: str
    tenant: str
    priority: int
    gpus: int


class Clearing(Value, frozen=True):
    """What would need to go so that a gang fits.

    `allowed` tells whether the leader would do that by itself: it may preempt, and all that go have a lower priority.
    """

    allowed: bool
    gangs: list[Victim]


class Wish(Value, frozen=True):
    """A gang of a manifest, as it would be placed now, after those before it in the same manifest."""

    namespace: str
    kind: str
    name: str
    pods: int
    gpus: int
    fits: bool
    ahead: int
    level: str
    domain: str
    bandwidth_mb_s: int
    text: str
    roles: list[Role]
    members: list[Member]
    compared: list[Candidate]
    passed_over: list[Candidate]
    refusal: Refusal | None
    needs_to_go: Clearing | None


class WhatIf(Value, frozen=True):
    """What would become of a manifest now; nothing was changed. `ignored` are objects that ask for no device of ours."""

    by: Replica
    fits: bool
    gangs: list[Wish]
    ignored: list[str]


class Problem(Value, frozen=True):
    """An error (RFC 9457): `detail` names the object, the field and the remedy."""

    type: Literal["about:blank"]
    title: str
    status: int
    detail: str
