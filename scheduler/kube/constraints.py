"""Constraints of claims: devices that agree, or differ, in an attribute.

A plan chooses GPUs by their wiring and does not know attributes. So a constraint is accepted where every choice that a plan
can make fulfils it, and refused where a choice could break it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scheduler.kube import catalog as catalogs
from scheduler.kube import cel_device, claim, machine, needs, part

Values = list[Any]


def check(name: str, spec: claim.Spec, wanted: Sequence[needs.Need], catalog: catalogs.Catalog) -> None:
    """Check that every plan fulfils the constraints of a claim.

    Raises
    ------
    RequestError
    """
    for constraint in spec.constraints:
        concerned = [need for need in wanted if concerns(constraint, need.request)]
        total = sum(need.count for need in concerned)
        attribute = str(constraint.get("matchAttribute") or constraint.get("distinctAttribute") or "")
        for shape, own, devices in _possible(concerned, catalog, attribute):
            if not fulfilled(constraint, shape, own, devices, total):
                problem = f"devices of {own.topology.name} need not fulfil it: can't be planned by Muster"
                remedy = "ask for a level by annotation, or leave the constraint out"
                raise needs.RequestError(f"claim {name}: constraint on {attribute}", f"{problem}; {remedy}")


def concerns(constraint: Mapping[str, Any], request: str) -> bool:
    """Tell whether a constraint is about a request, or an alternative of one."""
    named = constraint.get("requests") or ()
    return not named or request in named or request.partition("/")[0] in named


def fulfilled(
    constraint: Mapping[str, Any], shape: catalogs.Shape, own: machine.Machine, devices: Sequence[str], total: int
) -> bool:
    """Tell whether all choices of `total` among some devices of a machine fulfil a constraint."""
    same, different = constraint.get("matchAttribute"), constraint.get("distinctAttribute")
    if not same and not different:
        return False
    values = [value(shape, own, device, str(same or different)) for device in devices]
    if any(one is None for one in values):
        return False
    if total <= 1:
        return True
    pairs = ((a, b) for i, a in enumerate(values) for b in values[:i])
    return all(cel_device.same(a, b) is bool(same) for a, b in pairs)


def value(shape: catalogs.Shape, own: machine.Machine, device: str, attribute: str) -> Any:
    """Return the value of an attribute of a device of a machine, None where it has none."""
    domain, _, short = attribute.rpartition("/")
    found = shape.devices[device].seen.attributes.get(domain or shape.driver, {}).get(short)
    if found is cel_device.IDENTITY:
        return own.identities.get((device, short))
    return None if found is cel_device.BROKEN else found


def _possible(
    concerned: Sequence[needs.Need], catalog: catalogs.Catalog, attribute: str
) -> Iterator[tuple[catalogs.Shape, machine.Machine, list[str]]]:
    """Yield the machines that have enough devices for all concerned requests, with the devices that suit.

    Machines of one shape differ in identities only: one of them stands for all where another attribute is meant.
    """
    found = [(catalog.match(need.wanted).devices, need.count) for need in concerned]
    single = attribute.rpartition("/")[2] not in part.IDENTITIES
    for row, shape in enumerate(catalog.shapes):
        if found and all(len(devices[row]) >= count for devices, count in found):
            suit = sorted({name for devices, _ in found for name in devices[row]})
            for own in catalog.machines[row][:1] if single else catalog.machines[row]:
                yield shape, own, suit
