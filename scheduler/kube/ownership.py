"""Whether a claim asks for devices that Muster plans."""

from scheduler.kube import catalog, classes, world
from scheduler.kube import claim as claims
from scheduler.kube import pod as pods


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
