"""Which accelerators of a node are given out already: the machine only counts them, so their names are chosen here."""

from collections.abc import Container, Iterable, Mapping

from scheduler.kube import plan, world
from scheduler.placement import placement
from scheduler.snapshot import topology


def accelerators(
    known: world.World,
    found: placement.Placement,
    fleet: topology.Topology,
    in_force: Iterable[plan.Plan],
    leaving: Container[str],
) -> Mapping[str, set[str]]:
    """Return device names by node, for the nodes on which a placement has accelerators.

    Parameters
    ----------
    in_force : iterable of Plan
        Plans whose devices are promised, written or not.
    leaving : container of str
        UIDs of claims whose devices the machine has given on: they are free before the plan is written.
    """
    nodes = {fleet.nodes[grant.node].name for grant in found.grants if grant.accelerators}
    names: dict[str, set[str]] = {node: set() for node in nodes}
    for node in nodes:
        for claim in known.on_pool.get(node, {}).values():
            if claim.uid not in leaving:
                names[node].update(row.device for row in claim.rows or () if row.pool == node)
    for one in in_force if nodes else ():
        for row in (row for pod in one.pods if pod.node in nodes for claim in pod.claims for row in claim.rows):
            if row.pool in nodes:
                names[row.pool].add(row.device)
    return names
