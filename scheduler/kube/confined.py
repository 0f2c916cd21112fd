"""Domains that others have chosen for a gang, as the one domain that the engine searches in."""

from collections.abc import Mapping
from dataclasses import replace

from scheduler.kube import workload
from scheduler.model import fabric, levels
from scheduler.snapshot import topology


def confined(found: workload.Workload, fleet: topology.Topology, spellings: Mapping[str, str]) -> workload.Workload:
    """Return a workload whose gang is bound to the domain that was chosen for it.

    Where several domains were chosen, or another one for each role, it has a problem instead: the engine binds a whole
    gang to one domain, and pods placed otherwise than Kueue's node selectors say would fit nowhere.
    """
    if not found.within or found.gang is None:
        return found
    names = sorted({_domain(one, fleet, spellings) for one in found.within})
    bound = {one.role for one in found.within}
    if len(names) == 1 and bound == {role.name for role in found.gang.roles}:
        return replace(found, gang=replace(found.gang, within=names[0]))
    problem = (
        f"{found.identity.kind} {found.identity.key}: {', '.join(names[:4])} were chosen for it, and Muster keeps to one "
        "domain for the whole gang; use Muster's AdmissionCheck without topology-aware scheduling, or require one domain"
    )
    return replace(found, problem=problem)


def _domain(one: workload.Within, fleet: topology.Topology, spellings: Mapping[str, str]) -> str:
    """Return the name of a chosen domain in the fleet; what was written where the fleet has no such domain."""
    tree = fleet.tree
    level = fabric.NODE_LEVEL if one.level in ("", levels.HOSTNAME) else spellings.get(one.level, one.level)
    index = tree.level_index(level)
    if index is None:
        return one.domain or one.node
    if one.node:
        row = fleet.row.get(one.node)
        vertex = -1 if row is None else int(tree.ancestor[index][row])
        return tree.names[vertex] if vertex >= 0 else one.node
    known = [tree.names[vertex] for vertex in tree.domains_at(index)]
    return next((name for name in known if name == one.domain or name.endswith(f"/{one.domain}")), one.domain)
