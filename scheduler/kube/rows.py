"""Allocation rows: the devices of a grant dealt to the requests of a pod's claims."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.kube import catalog as catalogs
from scheduler.kube import cel, cel_device, constraints, machine, needs, requests
from scheduler.model import claim, device


@dataclass(slots=True, eq=False)
class _Deal:
    """What is left of a grant.

    Attributes
    ----------
    gpus, partitions, nics : list of str
        Device names in the order in which they are dealt.
    accelerators : dict of kind to list of str
    share_ids : list of str
    """

    gpus: list[str]
    partitions: list[str]
    nics: list[str]
    accelerators: dict[str, list[str]]
    share_ids: list[str] = field(default_factory=list)

    def take(self, need: needs.Need) -> list[str]:
        """Take the devices of a need.

        Raises
        ------
        RequestError
            The grant has too few.
        """
        pile = {"gpu": self.gpus, "mig": self.partitions, "nic": self.nics}.get(need.kind)
        pile = self.accelerators.get(need.sort, []) if pile is None else pile
        if len(pile) < need.count:
            problem = f"{need.count} devices of type {need.kind} are needed, and the plan has {len(pile)} left"
            raise needs.RequestError(need.where, problem, passing=True)
        taken = pile[: need.count]
        del pile[: need.count]
        return taken

    def rest(self) -> list[str]:
        """Return what nobody asked for; accelerators are only counted in grants, so none of them is left over."""
        return [*self.gpus, *self.partitions, *self.nics]


def of(
    specs: requests.Specs,
    found: needs.Classes,
    catalog: catalogs.Catalog,
    own: machine.Machine,
    grant: claim.Holding,
    share_ids: Sequence[str],
    taken: Collection[str] = (),
) -> dict[str, tuple[claim.Allocation, ...]]:
    """Return the rows of every claim of a pod: together exactly the devices of its grant.

    Parameters
    ----------
    specs : dict of claim name to Spec
        From `requests.asked`; the same that the request was made of.
    own : Machine
        The node of the grant.
    share_ids : sequence of str
        At least one UUID for each GPU of the grant; used for GPUs that are published for several allocations.
    taken : collection of str
        Accelerators of the node that are held already; grants only count accelerators.

    Returns
    -------
    dict of claim name to rows
        GPUs in the grant's rank order over all claims. Claims without rows of ours, those of admin access, are left out:
        kube-scheduler allocates them.

    Raises
    ------
    RequestError
        The grant does not fit the requests, or a device does not suit: the fleet changed since it was planned (`passing`).
    """
    shape = catalog.shape(own)
    if shape is None:
        raise needs.RequestError(f"node {own.topology.name}", "publishes no devices", passing=True)
    wanted = requests.of_claims(specs, found, catalog)
    deal = _dealt(own, grant, wanted, share_ids, taken)
    rows: dict[str, list[claim.Allocation]] = {name: [] for name in specs}
    for need in wanted:
        for name in deal.take(need):
            _check_suits(need, shape, own, name)
            rows[need.claim].append(_row(need, shape, own, name, deal.share_ids))
    if deal.rest():
        problem = f"the plan has {', '.join(deal.rest())}, which no request asks for"
        raise needs.RequestError(f"node {own.topology.name}", problem, passing=True)
    for name, spec in specs.items():
        _check_constraints(name, spec.constraints, shape, own, rows[name])
    return {name: tuple(given) for name, given in rows.items() if given}


def _dealt(
    own: machine.Machine,
    grant: claim.Holding,
    wanted: Sequence[needs.Need],
    share_ids: Sequence[str],
    taken: Collection[str],
) -> _Deal:
    """Lay a grant out by device names."""
    found = own.topology
    profile = next((need.sort for need in wanted if need.kind == "mig"), "")
    free: dict[str, list[str]] = {}
    for one in found.accelerators:
        if one.device_name not in taken:
            free.setdefault(one.kind, []).append(one.device_name)
    return _Deal(
        gpus=[] if grant.partitions else [found.gpus[index].name for index in grant.gpus],
        partitions=[claim.find_partition(found, gpu, profile, slices).name for gpu, slices in grant.partitions],
        nics=[nic.device_name for nic in found.nics if grant.nic_mask >> nic.index & 1],
        accelerators=free,
        share_ids=list(share_ids),
    )


def _row(
    need: needs.Need, shape: catalogs.Shape, own: machine.Machine, name: str, share_ids: list[str]
) -> claim.Allocation:
    """Return the row of one device."""
    share_id, consumed = "", dict(_whole(need.consumed))
    if shape.devices[name].seen.multiple:
        if not share_ids:
            raise ValueError(f"{name} of node {own.topology.name}: no share id is left for it")
        share_id, consumed = share_ids.pop(0), consumed | {claim.MILLI: need.milli}
    elif need.kind == "gpu" and need.milli < device.WHOLE_GPU_MILLI:
        raise needs.RequestError(
            need.where, f"{name} of node {own.topology.name} is given out whole only", passing=True
        )
    amounts = tuple(sorted(consumed.items())) if share_id else ()
    return claim.Allocation(own.driver, own.topology.name, name, need.request, share_id, amounts)


def _whole(consumed: Sequence[tuple[str, object]]) -> Iterator[tuple[str, int]]:
    """Yield capacities in whole units, rounded up to MiB where they are large, as our slices publish their steps."""
    for name, amount in consumed:
        exact = -int(-amount // 1)  # type: ignore[operator]
        step = 1 << 20 if name.rpartition("/")[2] == "memory" else 1
        yield name.rpartition("/")[2], -(-exact // step) * step


def _check_suits(need: needs.Need, shape: catalogs.Shape, own: machine.Machine, name: str) -> None:
    """Check a device against the selectors of its class and request."""
    one = shape.devices.get(name)
    if one is None:
        raise needs.RequestError(need.where, f"node {own.topology.name} does not publish {name}", passing=True)
    for text in need.wanted.selectors:
        try:
            suits = cel.compile_expression(text).holds(one.seen)
        except cel_device.CelError as error:
            raise needs.RequestError(need.where, f"{text}: {error}") from error
        if not suits:
            problem = f"{name} of node {own.topology.name} does not suit {text!r}"
            raise needs.RequestError(need.where, problem, passing=True)


def _check_constraints(
    name: str,
    found: Sequence[Mapping[str, object]],
    shape: catalogs.Shape,
    own: machine.Machine,
    rows: Sequence[claim.Allocation],
) -> None:
    """Check the exact devices of a claim against its constraints."""
    for constraint in found:
        concerned = [row.device for row in rows if constraints.concerns(constraint, row.request)]
        if concerned and not constraints.fulfilled(constraint, shape, own, concerned, len(concerned)):
            told = constraint.get("matchAttribute") or constraint.get("distinctAttribute")
            problem = f"{', '.join(concerned)} of node {own.topology.name} do not fulfil it"
            raise needs.RequestError(f"claim {name}: constraint on {told}", problem, passing=True)
