"""GangPlacement: the record of a gang's plan, written before anything else, and what people read about it."""

import datetime
from collections.abc import Mapping
from enum import Enum
from typing import Any

from scheduler.gang import room
from scheduler.kube import names, plan, workload
from scheduler.model import claim as rows

Item = dict[str, Any]

MESSAGE = 1024
"""Characters of a message that are kept."""


VICTIMS = 64
"""Gangs of an offer that are named."""


class Phase(Enum):
    """How far a gang is, for people."""

    WAITING = "Waiting"
    ALLOCATING = "Allocating"
    RUNNING = "Running"
    REJECTED = "Rejected"


def body(gang: workload.Workload, planned: plan.Plan | None, epoch: int, traceparent: str = "") -> Item:
    """Return the object without its status."""
    identity = gang.identity
    metadata: Item = {"name": identity.name, "namespace": identity.namespace}
    if traceparent:
        metadata["annotations"] = {names.TRACEPARENT: traceparent}
    if gang.owner.uid:
        owner = gang.owner
        metadata["ownerReferences"] = [
            {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
        ]
    spec: Item = {"kind": identity.kind}
    if gang.gang is not None:
        spec["tenant"], spec["priority"] = gang.gang.tenant, gang.gang.priority
        spec["roles"] = [{"name": role.name, "count": role.count} for role in gang.gang.roles]
    if planned is not None:
        spec["plan"] = _plan(planned, epoch)
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": spec}


def status(item: Mapping[str, Any], phase: Phase, reason: str, text: str, offered: Item | None = None) -> Item:
    """Return the status that says how far a gang is; conditions keep their times until they change.

    It is merged into the status that is there: None takes an offer away that does not hold any more.
    """
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = item["spec"].get("plan") or {}
    planned, mb_s = told.get("pods") or (), told.get("bandwidthMBs", 0)
    before = {one["type"]: one for one in (item.get("status") or {}).get("conditions") or ()}
    runs = phase is Phase.RUNNING
    holds = {"Planned": bool(planned), "Allocated": runs, "Released": runs}
    why = reason or phase.value
    return {
        "phase": phase.value,
        "reason": why,
        "message": text[:MESSAGE],
        "observedDecision": told.get("decision", 0),
        "pods": len(planned),
        "bandwidth": f"{mb_s / 1000:.0f}" if mb_s else "",
        "changedAt": now,
        "offer": offered,
        "conditions": [_condition(before.get(name), name, true, why, text, now) for name, true in holds.items()],
    }


def offer(found: room.Offer) -> Item:
    """Return what would let a gang start: where, whom it would cost its place, and where those would run then."""
    moves = {one.running.gang.name: one.placement for one in found.moves}
    gone: list[Item] = []
    for one in found.gone[:VICTIMS]:
        told: Item = {"gang": one.gang.name, "priority": one.gang.priority, "domain": one.placement.domain}
        if one.gang.name in moves:
            told["movesTo"] = moves[one.gang.name].domain
        gone.append(told)
    return {"way": found.way, "level": found.placement.level, "domain": found.placement.domain, "gangs": gone}


def _condition(before: Mapping[str, Any] | None, name: str, true: bool, reason: str, text: str, now: str) -> Item:
    status = "True" if true else "False"
    since = before["lastTransitionTime"] if before and before["status"] == status else now
    return {"type": name, "status": status, "reason": reason, "message": text[:MESSAGE], "lastTransitionTime": since}


def epoch(item: Mapping[str, Any]) -> int:
    """Return the term of the leader whose plan is on a record, 0 without a plan."""
    return int((item["spec"].get("plan") or {}).get("epoch") or 0)


def phase(item: Mapping[str, Any]) -> str:
    """Return what a record says how far its gang is."""
    return str((item.get("status") or {}).get("phase") or "")


def read_plan(item: Mapping[str, Any]) -> plan.Plan | None:
    """Return the plan of a record."""
    told = item["spec"].get("plan")
    if not told:
        return None
    metadata = item["metadata"]
    identity = workload.Identity(metadata["namespace"], metadata["name"], item["spec"].get("kind", ""))
    return plan.Plan(
        identity,
        tuple(_read_pod(one) for one in told.get("pods") or ()),
        told.get("decision", 0),
        told.get("decisionID", ""),
        told.get("domain", ""),
        told.get("level", ""),
        told.get("bandwidthMBs", 0),
    )


def _plan(one: plan.Plan, epoch: int) -> Item:
    return {
        "epoch": epoch,
        "decision": one.decision,
        "decisionID": one.decision_id,
        "because": one.because,
        "domain": one.domain,
        "level": one.level,
        "bandwidthMBs": one.bandwidth_mb_s,
        "terms": [{"name": name, "value": value} for name, value in one.terms],
        "runnersUp": list(one.runners_up),
        "pods": [_pod(pod) for pod in one.pods],
    }


def _pod(one: plan.PlannedPod) -> Item:
    claims = [
        {"name": claim.name, "uid": claim.uid, "devices": [_device(row, one.node) for row in claim.rows]}
        for claim in one.claims
    ]
    return {"rank": one.rank, "role": one.role, "name": one.name, "uid": one.uid, "node": one.node, "claims": claims}


def _device(row: rows.Allocation, node: str) -> Item:
    """Return a device; a pool that is called as the pod's node is left out, a third of the whole record."""
    found: Item = {"request": row.request, "driver": row.driver, "device": row.device}
    if row.pool != node:
        found["pool"] = row.pool
    if row.share_id:
        found |= {"shareID": row.share_id, "consumed": dict(row.consumed)}
    return found


def _read_pod(item: Mapping[str, Any]) -> plan.PlannedPod:
    claims = tuple(
        plan.PlannedClaim(
            one["name"], one["uid"], tuple(_read_device(row, item["node"]) for row in one.get("devices") or ())
        )
        for one in item.get("claims") or ()
    )
    return plan.PlannedPod(item["rank"], item["role"], item["name"], item["uid"], item["node"], claims)


def _read_device(row: Mapping[str, Any], node: str) -> rows.Allocation:
    consumed = tuple(sorted((row.get("consumed") or {}).items()))
    return rows.Allocation(
        row["driver"], row.get("pool") or node, row["device"], row["request"], row.get("shareID", ""), consumed
    )
