"""Waits until the devices of a plan are nobody else's: what a gang gave back is still allocated for a moment.

The machine frees a gang's devices when it decides, the API when the last pod is gone. A claim is written only after that,
so that no device is ever in two claims.
"""

import asyncio
from typing import NamedTuple

from scheduler.kube import claim as claims
from scheduler.kube import mirror, plan, world
from scheduler.model import claim as rows
from scheduler.model import device
from scheduler.model import node as machines

WAIT_S = 90.0
"""Longer than pods are given to end by default (30 s), twice over."""

POLL_S = 0.05


class Holder(NamedTuple):
    """A claim that has devices of a node, as the mirror has it."""

    node: str
    key: mirror.Key
    claim: claims.Claim


async def wait(known: world.World, new: plan.Plan, timeout_s: float = WAIT_S) -> None:
    """Return when no other claim has a device of the plan.

    Raises
    ------
    TimeoutError
        Names the claims that still have some.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while found := holders(known, new):  # all are looked at again once each of these has changed
        while found := [one for one in found if known.on_pool.get(one.node, {}).get(one.key) is one.claim]:
            if loop.time() >= end:
                told = sorted({one.claim.key for one in found})
                raise TimeoutError(
                    f"its devices are still allocated to {', '.join(told[:3])}; delete the claims or wait"
                )
            await asyncio.sleep(POLL_S)


def holders(known: world.World, new: plan.Plan) -> list[Holder]:
    """Return the claims that have a device which a plan gives to another."""
    own = {claim.uid for pod in new.pods for claim in pod.claims}
    wanted: dict[str, list[rows.Allocation]] = {}
    for pod in new.pods:
        wanted.setdefault(pod.node, []).extend(row for claim in pod.claims for row in claim.rows)
    found = []
    for node, devices in wanted.items():
        machine = known.live.machine(node)
        if machine is None:
            continue
        mine = rows.held(machine.topology, devices)
        for key, claim in known.on_pool.get(node, {}).items():
            if claim.uid not in own and overlap(mine, _held(claim.rows or (), machine.topology)):
                found.append(Holder(node, key, claim))
    return found


def overlap(one: rows.Held, other: rows.Held) -> bool:
    """Return whether two holders can't have their devices at the same time."""
    if one.nic_mask & other.nic_mask or set(one.accelerators) & set(other.accelerators):
        return True
    mine, theirs = dict.fromkeys(one.gpus), dict.fromkeys(other.gpus)
    shared = mine.keys() & theirs.keys()
    if shared and one.milli + other.milli > device.WHOLE_GPU_MILLI:
        return True
    cut, others_cut = {gpu for gpu, _ in one.partitions}, {gpu for gpu, _ in other.partitions}
    if cut & theirs.keys() or others_cut & mine.keys():
        return True
    return any(a == b and x & y for a, x in one.partitions for b, y in other.partitions)


def _held(found: tuple[rows.Allocation, ...], machine: machines.NodeTopology) -> rows.Held:
    """Return what a claim has of a machine, devices that it does not publish any more left out."""
    known = rows.devices(machine)
    return rows.held(machine, [row for row in found if row.pool == machine.name and row.device in known])
