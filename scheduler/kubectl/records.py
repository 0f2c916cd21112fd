"""The answers about gangs, as far as GangPlacements and Events tell them: for when the scheduler can't be reached."""

from collections.abc import Mapping
from typing import Any

from scheduler.apiserver import client, errors, paths
from scheduler.kubectl import reach
from scheduler.model import names

Item = Mapping[str, Any]

NOTE = (
    "from GangPlacements and Events: what waits without one, and who would have to make room, only the scheduler knows"
)

KINDS = ("jobset-", "job-", "lws-", "podgroup-", "sigs-podgroup-", "kueue-podgroup-", "gang-", "pod-")
"""What names of GangPlacements begin with."""

EVENTS = 50
"""Events of a gang that are told, the newest."""

BY = {"identity": "", "leads": False, "at": "", "note": NOTE}


async def gangs(api: client.Client, namespace: str, state: str, most: int) -> reach.Answer:
    """Return the list of gangs as the scheduler would; "" for all namespaces and states."""
    items, _ = await api.list(paths.of(names.API_VERSION, names.PLURAL, namespace))
    lines = [line(one) for one in items]
    found = [one for one in lines if state.lower() in ("", str(one["state"]).lower())]
    found.sort(key=lambda one: (one["namespace"], one["name"]))
    return {"by": BY, "total": len(found), "gangs": found[:most]}


async def gang(api: client.Client, namespace: str, name: str) -> reach.Answer:
    """Return one gang, by its own name or by that of its owner.

    Raises
    ------
    Refused
        There is none, or there are several.
    """
    items, _ = await api.list(paths.of(names.API_VERSION, names.PLURAL, namespace))
    found = [one for one in items if one["metadata"]["name"] == name] or [
        one for one in items if name in (_owner(one), *_called(one["metadata"]["name"]))
    ]
    if not found:
        raise reach.Refused(f"gang {namespace}/{name}: there is no GangPlacement of it, or of an owner called so", True)
    if len(found) > 1:
        listed = ", ".join(sorted(one["metadata"]["name"] for one in found)[:8])
        raise reach.Refused(f"gang {namespace}/{name} is several gangs: {listed}; name one of them")
    return _story(found[0], await _events(api, namespace, _subjects(found[0])))


async def pod(api: client.Client, namespace: str, name: str) -> reach.Answer:
    """Return one pod with its place in a plan.

    Raises
    ------
    Refused
        There is no such pod.
    """
    try:
        item: Item = await api.get(paths.of("v1", "pods", namespace, name))
    except errors.ApiError as error:
        if error.missing:
            raise reach.Refused(f"pod {namespace}/{name}: there is no such pod; check the name and -n", True) from error
        raise
    items, _ = await api.list(paths.of(names.API_VERSION, names.PLURAL, namespace))
    uid, spec, status = item["metadata"]["uid"], item["spec"], item.get("status") or {}
    placed = next((one for one in items for planned in _planned(one) if planned["uid"] == uid), None)
    member = next((_member(one) for one in _planned(placed) if one["uid"] == uid), None) if placed else None
    told = await _events(api, namespace, [name])
    node = spec.get("nodeName") or ""
    text = f"it runs on {node}" if node else told[-1]["text"] if told else "no Event tells about it"
    return {
        "by": BY,
        "namespace": namespace,
        "name": name,
        "phase": status.get("phase") or "Pending",
        "node": node,
        "gates": [one["name"] for one in spec.get("schedulingGates") or ()],
        "gang": line(placed) if placed else None,
        "member": member,
        "asks": "",
        "text": text,
        "nodes": 0,
        "feasible": 0,
        "best": [],
        "refused": [],
    }


def line(item: Item) -> reach.Answer:
    """Return a GangPlacement as a gang is listed."""
    metadata, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    plan, roles = spec.get("plan") or {}, spec.get("roles") or ()
    planned = plan.get("pods") or ()
    return {
        "namespace": metadata["namespace"],
        "kind": spec.get("kind", ""),
        "name": metadata["name"],
        "owner": _owner(item),
        "tenant": spec.get("tenant", ""),
        "priority": spec.get("priority", 0),
        "state": status.get("phase") or "Unknown",
        "pods": len(planned),
        "wanted": sum(one.get("count", 0) for one in roles),
        "gpus": sum(len(claim.get("devices") or ()) for one in planned for claim in one.get("claims") or ()),
        "nodes": len({one["node"] for one in planned}),
        "level": plan.get("level", ""),
        "domain": plan.get("domain", ""),
        "bandwidthMbS": plan.get("bandwidthMBs", 0),
        "why": status.get("message", ""),
        "since": status.get("changedAt", ""),
    }


def _story(item: Item, told: list[reach.Answer]) -> reach.Answer:
    plan, status, listed = item["spec"].get("plan") or {}, item.get("status") or {}, line(item)
    chosen = {"domain": listed["domain"], "level": listed["level"], "terms": plan.get("terms") or [], "why": ""}
    others = [{"domain": one, "level": "", "terms": [], "why": ""} for one in plan.get("runnersUp") or ()]
    return {
        "by": BY,
        "gang": listed,
        "roles": [{"name": one["name"], "count": one["count"], "asks": ""} for one in item["spec"].get("roles") or ()],
        "decision": plan.get("decision", 0),
        "decisionId": plan.get("decisionID", ""),
        "members": [_member(one) for one in _planned(item)],
        "compared": [chosen, *others] if plan else [],
        "passedOver": [],
        "refusal": None if plan or not status.get("reason") else _refusal(status),
        "history": told,
    }


def _refusal(status: Item) -> reach.Answer:
    return {
        "reason": status["reason"],
        "level": "",
        "nearest": "",
        "missing": 0,
        "resource": "",
        "permanent": status.get("phase") == "Rejected",
        "detail": "",
        "text": status.get("message", ""),
    }


def _planned(item: Item) -> list[dict[str, Any]]:
    return (item["spec"].get("plan") or {}).get("pods") or []


def _member(one: Item) -> reach.Answer:
    found = [
        {
            "claim": claim["name"],
            "request": row["request"],
            "driver": row["driver"],
            "pool": row.get("pool") or one["node"],
            "device": row["device"],
            "shareId": row.get("shareID", ""),
        }
        for claim in one.get("claims") or ()
        for row in claim.get("devices") or ()
    ]
    return {"rank": one["rank"], "role": one["role"], "pod": one["name"], "node": one["node"], "devices": found}


def _owner(item: Item) -> str:
    owners = item["metadata"].get("ownerReferences") or ()
    return str(owners[0]["name"]) if owners else ""


def _called(name: str) -> list[str]:
    """Return what a gang's owner may be called, by the gang's own name: without the kind before it."""
    return [name.removeprefix(kind) for kind in KINDS if name.startswith(kind)]


def _subjects(item: Item) -> list[str]:
    """Return the names of those whose Events tell about a gang."""
    return [name for name in (_owner(item), *(one["name"] for one in _planned(item)[:1])) if name]


async def _events(api: client.Client, namespace: str, subjects: list[str]) -> list[reach.Answer]:
    """Return what Muster's Events say of some objects, oldest first, each sentence once."""
    items, _ = await api.list(paths.of("events.k8s.io/v1", "events", namespace))
    found: dict[str, reach.Answer] = {}
    for one in items:
        if (one.get("regarding") or {}).get("name") in subjects and "muster" in (one.get("reportingController") or ""):
            at = str((one.get("series") or {}).get("lastObservedTime") or one.get("eventTime") or "")
            text = str(one.get("note") or "")
            found[text] = {"at": at, "what": str(one.get("reason") or ""), "text": text, "because": ""}
    return sorted(found.values(), key=lambda one: str(one["at"]))[-EVENTS:]
