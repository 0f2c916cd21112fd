"""Whether a claim asks for devices that Muster plans, and whether those devices are kept for it by the ownership taint."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from scheduler.kube import catalog, classes, names, needs, part, taint_rule, world
from scheduler.kube import claim as claims
from scheduler.kube import pod as pods
from scheduler.model import extended


def concerns(spec: claims.Spec, found: world.World) -> bool | None:
    """Tell whether a claim asks for devices of a driver that we plan; None for a class that is not known yet."""
    answers = [
        _ours(one, found) for request in spec.requests for one in (request.alternatives or (request,)) if not one.admin
    ]
    if any(answers):
        return True
    return None if None in answers else False


def _ours(request: claims.Request, found: world.World) -> bool | None:
    """Tell it of one request: its selectors name a driver of ours, or select devices that one has published."""
    own: classes.DeviceClass | None = found.store["classes"].get(("", request.device_class))
    if own is None:
        return None
    selectors = (*own.selectors, *request.selectors)
    if any(driver in text for driver in found.options.drivers for text in selectors):
        return True
    try:
        return found.live.catalog().match(catalog.Wanted(selectors, ())).most > 0
    except catalog.Unselectable:
        return None


def foreign(pod: pods.Pod, found: world.World) -> bool:
    """Return whether it is certain that no claim of a pod asks for our devices."""
    if not pod.claims:
        return True
    specs = []
    for ref in pod.claims:
        made = found.claim(pod.namespace, ref.claim) if ref.claim else None
        spec = made.spec if made else found.store["templates"].get((pod.namespace, ref.template))
        if spec is None:
            return False
        specs.append(spec)
    return all(concerns(spec, found) is False for spec in specs)


def backed(pod: pods.Pod, found: world.World) -> tuple[str, classes.DeviceClass] | None:
    """Return the extended resource of a pod for which only devices of ours can stand, with its class; None for none.

    A pod that has a node has been served otherwise, and so is one whose resource some node offers by a device plugin.
    """
    if pod.node or not pod.extended:
        return None
    known = [one for _, one in sorted(found.store["classes"].items())]
    for resource, count in pod.extended:
        own = classes.of_resource(known, resource)
        if own is None or not count or found.live.anywhere(resource):
            continue
        if _ours(claims.Request(resource, own.name, count=count), found):
            return resource, own
    return None


def check_claims(pod: pods.Pod, found: world.World) -> None:
    """Refuse a pod that asks for GPUs otherwise than by claims, for which no plan could be written.

    Raises
    ------
    RequestError
        Names the resource and the remedy.
    """
    told = backed(pod, found)
    if told is not None:
        resource, own = told
        raise needs.RequestError(
            f"pod {pod.key}: resources.requests {resource}",
            f"stands for DeviceClass {own.name}, and Muster plans claims: name a ResourceClaimTemplate with a request of "
            f"class {own.name} in spec.resourceClaims instead",
        )
    if pod.claims and not pod.node and dict(pod.extended).get(extended.GPU_RESOURCE):
        raise needs.RequestError(
            f"pod {pod.key}: resources.requests {extended.GPU_RESOURCE}",
            "GPUs of a device plugin beside claims can't be planned by Muster: ask for all of them by claims",
        )


def left_alone(pod: pods.Pod, found: world.World) -> bool:
    """Return whether an ungated pod leaves its devices to kube-scheduler: all its requests tolerate the ownership taint."""
    made = [found.claim(pod.namespace, ref.claim) for ref in pod.claims if ref.claim]
    specs = [one.spec for one in made if one is not None]
    if names.GATE in pod.gates or not specs or len(specs) < len(pod.claims):
        return False
    asked = [one for spec in specs for request in spec.requests for one in (request.alternatives or (request,))]
    return all(any(_tolerates(item) for item in one.tolerations) for one in asked)


def _tolerates(item: claims.Item) -> bool:
    return item.get("operator") == "Exists" and item.get("key", names.OWNED) == names.OWNED


TAINT = f"{names.OWNED}:NoSchedule"


@dataclass(slots=True, eq=False)
class Owned:
    """Which published devices lack the ownership taint; a slice is read again only where it or a rule has changed."""

    _seen: dict[str, tuple[part.Part, tuple[str, ...]]] = field(default_factory=dict)
    _rules: list[taint_rule.Rule] = field(default_factory=list)

    def missing(self, found: world.World) -> dict[str, tuple[str, ...]]:
        """Return the devices of ours that neither their slice nor a taint rule marks, by node, both sorted."""
        rules = [rule for rule in found.store["taintrules"].values() if rule.taint and _marks(rule.taint)]
        seen = self._seen if rules == self._rules else {}
        self._seen, self._rules = {}, rules
        bare: dict[str, list[str]] = {}
        for (_, name), one in found.store["slices"].items():
            if one.driver in found.options.drivers and one.node:
                last = seen.get(name)
                last = last if last and last[0] is one else (one, tuple(_left(one, _bare(one), rules)))
                self._seen[name] = last
                if last[1]:
                    bare.setdefault(one.node, []).extend(last[1])
        return {node: tuple(sorted(devices)) for node, devices in sorted(bare.items())}


def _bare(one: part.Part) -> Iterator[str]:
    """Yield the devices that their slice does not mark."""
    marked = {name for name, taint in one.taints if _marks(taint)}
    return (entry["name"] for entry in one.content.entries() if entry["name"] not in marked)


def _left(one: part.Part, devices: Iterable[str], rules: list[taint_rule.Rule]) -> Iterator[str]:
    """Yield those of some devices that no rule marks either."""
    return (name for name in devices if not any(rule.selects(one.driver, one.pool, name) for rule in rules))


def _marks(taint: part.Taint) -> bool:
    return taint.key == names.OWNED
