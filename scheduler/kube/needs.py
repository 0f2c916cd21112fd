"""What one request of a claim means to a plan: how many GPUs of which models, which partitions, NICs, accelerators."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from scheduler.kube import catalog as catalogs
from scheduler.kube import claim, classes
from scheduler.model import claim as model
from scheduler.model import device, quantity

Classes = Mapping[str, classes.DeviceClass]

PLAIN = {"gpu": {"type"}, "mig": {"type", "profile"}, "nic": {"type"}, "accelerator": {"type", "kind"}}
"""Attributes that a selector may read and still mean every model."""


class RequestError(ValueError):
    """A request can't be planned by Muster; the message names the object, the field and the remedy.

    Attributes
    ----------
    passing : bool
        The request itself is fine, and the cluster lacks something (a class, a device) that may still come.
    """

    def __init__(self, where: str, problem: str, passing: bool = False) -> None:
        super().__init__(f"{where}: {problem}")
        self.passing = passing


@dataclass(frozen=True, slots=True)
class Need:
    """Devices of one request.

    Attributes
    ----------
    claim, request : str
        The request is named as allocation results name it: ``request`` or ``request/alternative``.
    kind : str
        ``gpu``, ``mig``, ``nic`` or ``accelerator``.
    models : tuple of str or None
        GPU models that suit, sorted; None for any.
    sort : str
        MIG profile, or kind of accelerator.
    milli : int
        Of each GPU.
    consumed : tuple of (str, Fraction)
        Other consumable capacity asked of each device.
    wanted : Wanted
        What makes a device suit.
    """

    claim: str
    request: str
    kind: str
    count: int
    models: tuple[str, ...] | None
    sort: str
    milli: int
    consumed: tuple[tuple[str, Fraction], ...]
    wanted: catalogs.Wanted

    @property
    def where(self) -> str:
        """Return what error messages begin with."""
        return place(self.claim, self.request)


def place(claim_name: str, request: str) -> str:
    """Return how messages name a request."""
    return f"claim {claim_name}: request {request}" if claim_name else f"extended resource {request}"


def of_spec(name: str, spec: claim.Spec, found: Classes, catalog: catalogs.Catalog) -> tuple[Need, ...]:
    """Return what a claim needs, request by request; a claim of admin access needs nothing, and kube-scheduler allocates it.

    Raises
    ------
    RequestError
    """
    if len({one.admin for one in spec.requests}) > 1:
        problem = "mixes admin access with devices of its own: can't be planned by Muster; use two claims"
        raise RequestError(f"claim {name}", problem)
    needs = tuple(_of_request(name, one, found, catalog) for one in spec.requests if not one.admin)
    if sum(need.count for need in needs) > model.MAX_RESULTS:
        total = sum(need.count for need in needs)
        raise RequestError(
            f"claim {name}", f"{total} devices, a claim can have {model.MAX_RESULTS}: use several claims"
        )
    return needs


def _of_request(name: str, request: claim.Request, found: Classes, catalog: catalogs.Catalog) -> Need:
    """Return the need of a request; of a prioritised list that of the first alternative that a machine can serve.

    An alternative that can't be planned is an error where it comes before one that can: it would be preferred.
    """
    if not request.alternatives:
        return of_exact(name, request, found, catalog)
    for one in request.alternatives:
        try:
            need = of_exact(name, one, found, catalog)
        except RequestError as error:
            if not error.passing:
                raise
            continue
        if catalog.match(need.wanted).most >= need.count:
            return need
    tried = ", ".join(one.name for one in request.alternatives)
    raise RequestError(place(name, request.name), f"no machine of the cluster can serve any of {tried}", passing=True)


def of_exact(name: str, request: claim.Request, found: Classes, catalog: catalogs.Catalog) -> Need:
    """Return the need of a request of one class."""
    where = place(name, request.name)
    own = found.get(request.device_class)
    if own is None:
        problem = f"there is no DeviceClass {request.device_class}; create it, or name another in deviceClassName"
        raise RequestError(where, problem, passing=True)
    milli, rest = _shares(where, request)
    wanted = catalogs.Wanted((*own.selectors, *request.selectors), rest)
    try:
        match = catalog.match(wanted)
    except catalogs.Unselectable as error:
        owner = f"DeviceClass {own.name}" if error.expression in own.selectors else "selectors"
        shown = error.expression if len(error.expression) <= 200 else error.expression[:197] + "..."
        raise RequestError(
            where, f"can't be planned by Muster; {owner}: {shown!r}: {error}; write it otherwise"
        ) from error
    if wanted not in catalog.meanings:
        catalog.meanings[wanted] = _meaning(where, match, catalog)
    kind, sorts, profile = catalog.meanings[wanted]
    if milli and kind != "gpu":
        raise RequestError(
            where, f"capacity.requests.{model.MILLI}: only whole GPUs can be shared, not devices of type {kind}"
        )
    return Need(
        claim=name,
        request=request.name,
        kind=kind,
        count=_count(where, request, match, catalog),
        models=None if kind in ("nic", "accelerator") else sorts,
        sort=profile,
        milli=milli or device.WHOLE_GPU_MILLI,
        consumed=rest,
        wanted=wanted,
    )


def _shares(where: str, request: claim.Request) -> tuple[int, tuple[tuple[str, Fraction], ...]]:
    """Return the share of each GPU in milli, 0 where none is asked for, and the other capacities."""
    milli, rest = 0, []
    for name, text in request.capacity:
        try:
            amount = quantity.parse(text)
        except quantity.QuantityError as error:
            raise RequestError(where, f"capacity.requests.{name}: {error}") from error
        if name in (model.MILLI, f"{model.DRIVER}/{model.MILLI}"):
            milli = max(1, -int(-amount // 1))
        else:
            rest.append((name, amount))
    if milli > device.WHOLE_GPU_MILLI:
        raise RequestError(where, f"capacity.requests.{model.MILLI}: {milli}, a GPU has {device.WHOLE_GPU_MILLI}")
    if 0 < milli < device.WHOLE_GPU_MILLI and rest:
        names = ", ".join(name for name, _ in rest)
        raise RequestError(
            where, f"capacity.requests: {names} of a shared GPU can't be planned by Muster: ask for milli only"
        )
    return milli, tuple(rest)


def _count(where: str, request: claim.Request, match: catalogs.Match, catalog: catalogs.Catalog) -> int:
    """Return how many devices; all of a node only where that is the same number everywhere."""
    if request.mode != "All":
        return request.count
    counts = {len(names): shape.example for names, shape in zip(match.devices, catalog.shapes, strict=True) if names}
    if len(counts) > 1:
        told = ", ".join(f"{count} on {example}" for count, example in sorted(counts.items()))
        raise RequestError(
            where, f"allocationMode All is {told}: can't be planned by Muster; narrow it or give a count"
        )
    return next(iter(counts))


def _meaning(where: str, match: catalogs.Match, catalog: catalogs.Catalog) -> tuple[str, tuple[str, ...] | None, str]:
    """Return the kind of the devices that suit, their models (None for all), and profile or kind of accelerator."""
    suit = [shape.devices[n] for shape, names in zip(catalog.shapes, match.devices, strict=True) for n in sorted(names)]
    if not suit:
        raise RequestError(where, "no device of the cluster suits its class and selectors", passing=True)
    kinds = sorted({one.kind for one in suit})
    if len(kinds) > 1:
        raise RequestError(
            where, f"means devices of types {' and '.join(kinds)}: select one by device.attributes[...].type"
        )
    (kind,) = kinds
    profiles = sorted({one.real.profile.name for one in suit if isinstance(one.real, model.Partition)})
    if len(profiles) > 1:
        told = ", ".join(profiles)
        raise RequestError(where, f"means MIG profiles {told}: select one by device.attributes[...].profile == '...'")
    profile = profiles[0] if profiles else ""
    taken, left = _sorted(where, kind, profile, match, catalog)
    if kind == "accelerator":
        if len(taken) > 1:
            raise RequestError(where, f"means accelerators of kinds {', '.join(taken)}: select one by kind")
        return kind, None, taken[0]
    everything = not left and not (kind == "gpu" and catalog.plugged) and match.read <= PLAIN[kind]
    return kind, None if everything else taken, profile


def _sorted(
    where: str, kind: str, profile: str, match: catalogs.Match, catalog: catalogs.Catalog
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the models of which all devices suit, and those of which none does.

    Raises
    ------
    RequestError
        Of one model some suit and some don't: a plan does not tell them apart.
    """
    yes: dict[str, str] = {}
    no: dict[str, str] = {}
    for shape, names in zip(catalog.shapes, match.devices, strict=True):
        for name, one in _rivals(shape, kind, profile):
            (yes if name in names else no).setdefault(one.sort, f"{name} of node {shape.example}")
        for model_name in sorted(shape.unpublished) if kind == "gpu" else ():
            no.setdefault(model_name, f"a GPU of node {shape.example} that is published by its partitions alone")
    both = sorted(yes.keys() & no.keys())
    if both:
        what, first = both[0] or "this kind", f"{yes[both[0]]} suits and {no[both[0]]} does not"
        raise RequestError(where, f"its selectors tell apart devices of {what} ({first}): can't be planned by Muster")
    return tuple(sorted(yes)), tuple(sorted(no))


def _rivals(shape: catalogs.Shape, kind: str, profile: str) -> Iterator[tuple[str, catalogs.Published]]:
    """Yield the devices of a shape among which a plan would choose."""
    for name, one in shape.devices.items():
        if one.kind == kind and (not isinstance(one.real, model.Partition) or one.real.profile.name == profile):
            yield name, one


def narrowed(needs: Sequence[Need]) -> tuple[str, ...] | None:
    """Return the GPU models that suit several needs at once, None for any.

    Raises
    ------
    RequestError
        There are none.
    """
    common: set[str] | None = None
    for need in needs:
        if need.models is not None:
            common = set(need.models) if common is None else common & set(need.models)
            if not common:
                told = ", ".join(need.models)
                raise RequestError(
                    need.where, f"wants {told}, and another request of the pod another model: use two pods"
                )
    return None if common is None else tuple(sorted(common))
