"""The verifier of ownership: whether any device is given out to two claims at once.

It reads allocated claims and nothing that a plan is made of, so that it can't share a plan's mistake. What claims of others
hold is told to the machine by `occupants`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from scheduler.kube import claim, fleet
from scheduler.model import claim as model
from scheduler.model import device

Place = tuple[str, str, str]
"""Driver, pool and device."""


@dataclass(frozen=True, slots=True, order=True)
class Conflict:
    """A device that claims hold together though they can't.

    Attributes
    ----------
    device : str
        ``driver/pool/device``; of overlapping partitions the GPU.
    claims : tuple of str
        ``namespace/name``, sorted.
    why : str
    """

    device: str
    claims: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class _Use:
    """One row of a claim."""

    claim: str
    row: model.Allocation

    @property
    def place(self) -> Place:
        return self.row.driver, self.row.pool, self.row.device


def conflicts(claims: Iterable[claim.Claim], live: fleet.Fleet) -> list[Conflict]:
    """Return all devices that are given out twice, sorted; rows of admin access are never among a claim's rows.

    A device is held alone without a share id. Shares of one device may not exceed any of its capacities, nor partitions of a
    GPU overlap each other or the whole GPU. Of nodes that are not in the fleet only single devices are compared.
    """
    by_device: dict[Place, list[_Use]] = {}
    for one in claims:
        for row in one.rows or ():
            by_device.setdefault((row.driver, row.pool, row.device), []).append(_Use(one.key, row))
    found = [clash for place, uses in by_device.items() for clash in _of_device(place, uses, live)]
    return sorted([*found, *_of_gpus(by_device, live)])


def _of_device(place: Place, uses: Sequence[_Use], live: fleet.Fleet) -> Iterator[Conflict]:
    """Yield what is wrong with the uses of one device."""
    alone = [use for use in uses if not use.row.share_id]
    if alone and len(uses) > 1:
        yield _conflict(place, uses, f"{len(uses)} allocations of a device that {alone[0].claim} holds alone")
    ids = [use.row.share_id for use in uses if use.row.share_id]
    if len(set(ids)) < len(ids):
        yield _conflict(place, uses, "two allocations have one share id")
    for name, has in _capacities(place, live).items():
        taken = sum(dict(use.row.consumed).get(name, 0) for use in uses if use.row.share_id)
        if taken > has:
            yield _conflict(place, uses, f"shares take {taken} of {int(has)} {name}")


def _capacities(place: Place, live: fleet.Fleet) -> dict[str, Fraction]:
    """Return what a device has to divide; of an unknown one the whole GPU."""
    driver, pool, name = place
    machine = live.machine(pool)
    shape = live.catalog().shape(machine) if machine and machine.driver == driver else None
    whole = {model.MILLI: Fraction(device.WHOLE_GPU_MILLI)}
    if shape is None or name not in shape.devices:
        return whole
    own = shape.devices[name].seen.capacity.get(driver, {})
    return whole | {key: value for key, value in own.items() if isinstance(value, Fraction)}


def _of_gpus(by_device: dict[Place, list[_Use]], live: fleet.Fleet) -> Iterator[Conflict]:
    """Yield the GPUs whose partitions overlap each other or the whole GPU."""
    parts: dict[tuple[str, str, int], list[tuple[int, _Use]]] = {}
    real: dict[str, dict[str, model.Device]] = {}
    for (driver, pool, name), uses in by_device.items():
        machine = live.machine(pool)
        if machine is None or machine.driver != driver:
            continue
        if pool not in real:
            real[pool] = machine.devices()
        match real[pool].get(name):
            case model.Partition() as part:
                parts.setdefault((driver, pool, part.gpu.index), []).extend((part.slices, use) for use in uses)
            case device.Gpu(index=index, mig_enabled=True):
                parts.setdefault((driver, pool, index), []).extend((-1, use) for use in uses)
    for (driver, pool, index), held in parts.items():
        clash = {use.place: use for i, (a, use) in enumerate(held) for j, (b, _) in enumerate(held) if i != j and a & b}
        if len(clash) > 1:
            names = ", ".join(sorted(place[2] for place in clash))
            gpu = live.machine(pool)
            where = gpu.topology.gpus[index].name if gpu else str(index)
            yield _conflict((driver, pool, where), list(clash.values()), f"{names} overlap")


def _conflict(place: Place, uses: Sequence[_Use], why: str) -> Conflict:
    return Conflict("/".join(place), tuple(sorted({use.claim for use in uses})), why)
