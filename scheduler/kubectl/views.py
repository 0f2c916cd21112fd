"""Answers of the scheduler as people read them: what matters first, details in tables below."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from scheduler.kubectl import tables

Answer = Mapping[str, Any]


def gangs(paper: tables.Paper, answer: Answer, everywhere: bool) -> None:
    """Write a list of gangs."""
    lines = answer["gangs"]
    if not lines:
        paper.line("No gangs found.")
        return
    heads = ["NAME", "KIND", "STATE", "PODS", "GPUS", "NODES", "DOMAIN", "AGE", "WHY"]
    rows = [_gang_row(one) for one in lines]
    if everywhere:
        heads, rows = ["NAMESPACE", *heads], [[one["namespace"], *row] for one, row in zip(lines, rows, strict=True)]
    paper.table(heads, rows)
    if answer["total"] > len(lines):
        paper.line(f"{answer['total'] - len(lines)} more; list them with --limit {answer['total']}.")


def gang(paper: tables.Paper, answer: Answer) -> None:
    """Write one gang in full."""
    one = answer["gang"]
    paper.line(f"{one['kind']} {one['namespace']}/{one['owner'] or one['name']}", "bold")
    _facts(
        paper,
        {
            "gang": one["name"],
            "state": one["state"] + (f" for {age(one['since'])}" if one["since"] else ""),
            "why": one["why"],
            "tenant": f"{one['tenant']}, priority {one['priority']}",
            "asks": "; ".join(_role(each) for each in answer["roles"]),
            "domain": f"{one['level']} {one['domain']}".strip(),
            "bandwidth": f"{one['bandwidthMbS'] / 1000:.0f} GB/s predicted" if one["bandwidthMbS"] else "",
            "decision": str(answer["decision"] or ""),
            "decision id": answer["decisionId"],
        },
    )
    _refusal(paper, answer["refusal"])
    _members(paper, answer["members"])
    _compared(paper, answer["compared"])
    _passed_over(paper, answer["passedOver"])
    if answer["history"]:
        paper.line()
        paper.line("What happened:", "bold")
        rows = [[one["at"], one["what"], one["because"], one["text"]] for one in answer["history"]]
        paper.table(["AT", "WHAT", "BECAUSE", "TEXT"], rows)


def pod(paper: tables.Paper, answer: Answer) -> None:
    """Write one pod."""
    paper.line(f"pod {answer['namespace']}/{answer['name']}", "bold")
    one, member = answer["gang"], answer["member"]
    _facts(
        paper,
        {
            "phase": answer["phase"],
            "answer": answer["text"],
            "asks": answer["asks"],
            "gates": ", ".join(answer["gates"]),
            "gang": f"{one['name']} ({one['state']}): {one['why']}" if one else "",
            "rank": f"{member['rank']} of role {member['role']}" if member else "",
            "planned on": member["node"] if member else "",
            "devices": ", ".join(each["device"] for each in member["devices"]) if member else "",
        },
    )
    if answer["nodes"]:
        paper.line()
        best = f"; the best are {', '.join(answer['best'])}" if answer["best"] else ""
        paper.line(f"The extender lets it go to {answer['feasible']} of {answer['nodes']} nodes{best}.")
    if answer["refused"]:
        rows = [[one["nodes"], ", ".join(one["examples"]), one["reason"]] for one in answer["refused"]]
        paper.table(["NODES", "SUCH AS", "REASON"], rows)


def topology(paper: tables.Paper, answer: Answer) -> None:
    """Write the tree of domains."""
    depth: dict[str, int] = {}
    rows = []
    for one in answer["domains"]:
        depth[one["name"]] = depth.get(one["parent"], -1) + 1
        name = "  " * depth[one["name"]] + one["name"].rpartition("/")[2]
        rows.append(
            [name, one["level"], one["nodes"], one["gpus"], one["free"], one["used"], one["failed"], one["closed"]]
        )
    paper.table(["DOMAIN", "LEVEL", "NODES", "GPUS", "FREE", "USED", "FAILED", "CLOSED NODES"], rows)
    if answer["cut"]:
        paper.line("Deeper domains are left out; see --depth and --under.")
    if answer["leftOut"]:
        paper.line()
        paper.line("Nodes that can't be planned on:", "bold")
        paper.table(["NODE", "WHY"], [[one["node"], one["why"]] for one in answer["leftOut"]])


def top(paper: tables.Paper, answer: Answer) -> None:
    """Write the fleet at a glance."""
    use = answer["devices"]
    names = ("gpus", "free", "whole", "shared", "partitioned", "failed", "closed", "others")
    heads = ["GPUS", "FREE", "WHOLE", "SHARED", "PARTITIONED", "FAILED", "ON CLOSED NODES", "HELD BY OTHERS"]
    paper.table(heads, [[use[name] for name in names]], last_wraps=False)
    told = [f"{one['unusable']} ({one['share']:.0%}) for pods of {one['size']}" for one in answer["fragmentation"]]
    paper.line(f"Free GPUs that are left over: {', '.join(told)}.")
    if answer["tenants"]:
        paper.line()
        rows = [[o["tenant"], f"{o['gpuMilli'] / 1000:g}", o["running"], o["waiting"]] for o in answer["tenants"]]
        paper.table(["TENANT", "GPUS", "RUNNING", "WAITING"], rows)
    if answer["nodes"]:
        paper.line()
        heads = ["NODE", "DOMAIN", "GPUS", "FREE", "WHOLE", "SHARED", "PARTITIONED", "FAILED", "CPU", "MEMORY", "GANGS"]
        paper.table(heads, [_node(one) for one in answer["nodes"]])
    if answer["totalNodes"] > len(answer["nodes"]):
        paper.line(f"{answer['totalNodes'] - len(answer['nodes'])} more nodes, less busy; list them with --limit.")


def whatif(paper: tables.Paper, answer: Answer) -> None:
    """Write what would become of a manifest."""
    for at, one in enumerate(answer["gangs"]):
        if at:
            paper.line()
        fits = "would fit now" if one["fits"] else "would not fit now"
        style = "bold green" if one["fits"] else "bold red"
        paper.line(f"{one['kind']} {one['namespace']}/{one['name']}: {fits}", style)
        ahead = f"{one['ahead']} gangs wait with the same or a higher priority" if one["ahead"] else ""
        speed = f"{one['bandwidthMbS'] / 1000:.0f} GB/s predicted" if one["bandwidthMbS"] else ""
        asks = "; ".join(_role(each) for each in one["roles"])
        _facts(paper, {"answer": one["text"], "asks": asks, "bandwidth": speed, "queue": ahead})
        _refusal(paper, one["refusal"])
        _clearing(paper, one["needsToGo"])
        _members(paper, one["members"])
        _compared(paper, one["compared"])
        _passed_over(paper, one["passedOver"] if not one["fits"] else [])
    if answer["ignored"]:
        paper.line(f"Asks for no device of Muster's: {', '.join(answer['ignored'])}.")


def age(stamp: str) -> str:
    """Return how long ago a time was, as kubectl writes it: two units at most."""
    try:
        then = datetime.datetime.fromisoformat(stamp)
    except ValueError:
        return ""
    seconds = max(0, int((datetime.datetime.now(datetime.UTC) - then).total_seconds()))
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    parts = [f"{n}{unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")) if n]
    return "".join(parts[:2]) or "0s"


def _gang_row(one: Answer) -> list[object]:
    domain = f"{one['level']} {one['domain']}".strip()
    pods = f"{one['pods']}/{one['wanted']}"
    return [
        one["name"],
        one["kind"],
        one["state"],
        pods,
        one["gpus"],
        one["nodes"],
        domain,
        age(one["since"]),
        one["why"],
    ]


def _facts(paper: tables.Paper, facts: Mapping[str, str]) -> None:
    """Write named facts; those without a value are left out."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if value:
            paper.line(f"  {name + ':':<{width + 1}} {value}")


def _role(one: Answer) -> str:
    each = f" x {one['asks']}" if one["asks"] else ""
    return f"{one['name']} {one['count']}{each}"


def _refusal(paper: tables.Paper, one: Answer | None) -> None:
    if one is None or not one["nearest"]:
        return
    lacks = f"{one['missing']} {one['resource']}"
    paper.line(f"  Nearest is {one['nearest']}, which lacks {lacks}.")


def _clearing(paper: tables.Paper, one: Answer | None) -> None:
    if one is None:
        return
    who = "Muster would evict for it" if one["allowed"] else "It would fit without"
    listed = (f"{each['gang']} ({each['gpus']} GPUs, priority {each['priority']})" for each in one["gangs"])
    paper.line(f"  {who}: {', '.join(listed)}.")


def _members(paper: tables.Paper, members: Sequence[Answer]) -> None:
    if not members:
        return
    paper.line()
    rows = [
        [one["rank"], one["role"], one["pod"], one["node"] or "-", ",".join(row["device"] for row in one["devices"])]
        for one in members
    ]
    paper.table(["RANK", "ROLE", "POD", "NODE", "DEVICES"], rows)


def _compared(paper: tables.Paper, compared: Sequence[Answer]) -> None:
    """Write the score of the chosen domain and of those that came next."""
    if not any(one["terms"] for one in compared):
        return
    paper.line()
    paper.line("Score, lower is better, terms in the order in which they count:", "bold")
    rows = [
        [at or "chosen", one["level"], one["domain"], ", ".join(f"{t['name']} {t['value']}" for t in one["terms"])]
        for at, one in enumerate(compared)
    ]
    paper.table(["", "LEVEL", "DOMAIN", "TERMS"], rows)


def _passed_over(paper: tables.Paper, passed: Sequence[Answer]) -> None:
    if not passed:
        return
    paper.line()
    paper.line("Why not there:", "bold")
    paper.table(["LEVEL", "DOMAIN", "WHY"], [[one["level"], one["domain"], one["why"]] for one in passed])


def _node(one: Answer) -> list[object]:
    cpu = f"{(one['cpuMilli'] - one['cpuFreeMilli']) / 1000:g}/{one['cpuMilli'] / 1000:g}"
    memory = f"{(one['memoryMib'] - one['memoryFreeMib']) >> 10}/{one['memoryMib'] >> 10}Gi"
    told = ", ".join(one["gangs"]) + (f" closed: {one['closed']}" if one["closed"] else "")
    counts = [one[name] for name in ("gpus", "free", "whole", "shared", "partitioned", "failed")]
    return [one["node"], one["domain"], *counts, cpu, memory, told.strip()]
