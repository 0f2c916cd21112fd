"""Domains that others have chosen for a gang, as the domain or the places that the engine keeps to."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from scheduler.kube import workload
from scheduler.model import fabric, levels
from scheduler.model import gang as gangs
from scheduler.snapshot import topology, tree


def confined(found: workload.Workload, fleet: topology.Topology, spellings: Mapping[str, str]) -> workload.Workload:
    """Return a workload whose gang is bound to what was chosen for it.

    One domain for all roles binds the gang as a whole; several bind each role rank by rank.
    """
    if not found.within or found.gang is None:
        return found
    named = [(one, _domain(one, fleet, spellings)) for one in found.within]
    domains = {domain for _, domain in named}
    bound = {one.role for one in found.within}
    if len(domains) == 1 and bound == {role.name for role in found.gang.roles}:
        return replace(found, gang=replace(found.gang, within=domains.pop()))
    roles = []
    for role in found.gang.roles:
        places = tuple(gangs.Place(domain, one.count or role.count) for one, domain in named if one.role == role.name)
        if places and sum(place.count for place in places) != role.count:
            total = sum(place.count for place in places)
            where = f"{found.identity.kind} {found.identity.key}, role {role.name}"
            return replace(found, problem=f"{where}: places were chosen for {total} pods, but {role.count} have to run")
        roles.append(replace(role, places=places))
    return replace(found, gang=replace(found.gang, roles=tuple(roles)))


def _domain(one: workload.Within, fleet: topology.Topology, spellings: Mapping[str, str]) -> str:
    """Return the name of a chosen domain in the fleet; what was written where the fleet has no such domain."""
    compiled = fleet.tree
    level = fabric.NODE_LEVEL if one.level in ("", levels.HOSTNAME) else spellings.get(one.level, one.level)
    index = compiled.level_index(level)
    if index is None or (level == fabric.NODE_LEVEL and one.domain):
        return one.domain or one.node
    if one.node:
        row = fleet.row.get(one.node)
        vertex = -1 if row is None else int(compiled.ancestor[index][row])
        return compiled.names[vertex] if vertex >= 0 else one.node
    above = [(compiled.level_index(spellings.get(label, label)), value) for label, value in one.above]
    for vertex in _called(compiled, index).get(one.domain, ()):
        node = int(compiled.first_node[vertex])
        if all(at is None or _is_called(compiled, int(compiled.ancestor[at][node]), value) for at, value in above):
            return compiled.names[vertex]
    return one.domain


@lru_cache(maxsize=64)
def _called(compiled: tree.CompiledTree, level: int) -> dict[str, list[int]]:
    """Return the domains of a level by their full name and by its last part, which is the value of their label."""
    found: dict[str, list[int]] = {}
    for vertex in compiled.domains_at(level):
        name = compiled.names[vertex]
        for called in dict.fromkeys((name, name.rpartition("/")[2])):
            found.setdefault(called, []).append(int(vertex))
    return found


def _is_called(compiled: tree.CompiledTree, vertex: int, value: str) -> bool:
    return vertex >= 0 and value in (compiled.names[vertex], compiled.names[vertex].rpartition("/")[2])
