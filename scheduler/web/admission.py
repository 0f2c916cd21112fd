"""What the gating webhook does to a pod at its creation, pure: a gate until there is a plan, and the labels to find it by.

A pod is gated when one of its claims is ours, or when nobody knows yet whose it is: a claim template that was applied in
the same breath as its pods has not reached our cache. Whoever drives the gates takes such a gate off again as soon as
all claims turn out to be foreign. The other way round would be worse: on servers without device taints, a pod that comes
without a gate gets our devices from kube-scheduler. If nobody answers here at all, pods come without gate and labels;
they wait for the taint, and are adopted.

The same pod may be asked about twice (another webhook changed it) or never be kept (dry run): nothing is remembered, and
what is right already is left alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from scheduler.model import names, wishes
from scheduler.web import review, wire

CLAIM = "ResourceClaim"
TEMPLATE = "ResourceClaimTemplate"

Item = Mapping[str, Any]
Operation = dict[str, Any]

Trace = Callable[[str, str], str]
"""Returns the traceparent for a pod, by its decision id and the traceparent that it has; "" to leave it as it is."""


class Knowledge(Protocol):
    """What is known of the cluster. Every method answers from memory at once, and changes nothing."""

    def ours(self, namespace: str, kind: str, name: str) -> bool | None:
        """Tell whether a ResourceClaim or ResourceClaimTemplate asks for our devices; None where it is not known."""

    def gang(self, pod: Item) -> str:
        """Return the name of the pod's GangPlacement, "" where only a later look can tell.

        `pod` is the object as it came, with ``metadata.namespace`` set; ``metadata.name`` is "" where the API server is
        going to make it from ``generateName``.

        Raises
        ------
        Contradiction
            Annotations of pod and owner together that cannot be followed; the pod is refused.
        ValueError
            The pod can't be read; it comes ungated, as the webhook's failure policy says.
        """

    def tenant(self, namespace: str) -> str:
        """Return the tenant of pods that name none: the namespace's, or else the namespace's name."""

    def decision_id(self, pod: Item, gang: str) -> str:
        """Return the decision id of the pod's owner or gang where there is one, else a new one."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What ties a gated pod to the rest of its gang, as the pod has it afterwards.

    Attributes
    ----------
    traceparent : str
        "" where nothing is traced.
    """

    where: str
    gang: str
    decision_id: str
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a pod.

    Attributes
    ----------
    denied : str
        Why it may not be created; "" where it may.
    patch : tuple of dict
        Operations of a JSON patch.
    """

    denied: str = ""
    patch: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()
    stamp: Stamp | None = None

    @property
    def outcome(self) -> str:
        """Return the word for it: ``denied``, ``gated`` or ``left``."""
        return "denied" if self.denied else "gated" if self.stamp else "left"


def untraced(decision_id: str, given: str) -> str:
    """Return no traceparent for a pod: nothing is traced."""
    return ""


def answer(known: Knowledge, body: bytes | bytearray) -> bytes:
    """Answer one review.

    Raises
    ------
    BadRequest
        Not a review of a pod.
    """
    return decided(known, body)[0]


def decided(known: Knowledge, body: bytes | bytearray, trace: Trace = untraced) -> tuple[bytes, Verdict]:
    """Answer one review, and tell what was decided.

    Raises
    ------
    BadRequest
        Not a review of a pod.
    """
    asked = review.read(body)
    if asked.operation != "CREATE" or asked.sub_resource:
        return review.allowed(asked.uid), Verdict()
    verdict = judged(known, asked.namespace, review.pod(asked), lambda: review.whole(asked), trace)
    if verdict.denied:
        return review.denied(asked.uid, verdict.denied), verdict
    return review.allowed(asked.uid, verdict.patch, verdict.warnings), verdict


def judged(
    known: Knowledge, namespace: str, pod: review.Pod, whole: Callable[[], Item], trace: Trace = untraced
) -> Verdict:
    """Decide about a pod; `whole` gives all its fields, and is called only for pods that are gated.

    Raises
    ------
    BadRequest
        A pod that `known` can't read.
    """
    if not _waits(known, namespace, pod.spec.resource_claims or ()):
        return Verdict()
    if pod.spec.node_name:  # the API server refuses a gate beside a node
        return Verdict(warnings=(f"Muster places no pod that names its node itself ({pod.spec.node_name[:60]})",))
    where = f"pod {namespace}/{pod.metadata.name or pod.metadata.generate_name + '*'}"
    annotations = pod.metadata.annotations or {}
    try:
        wishes.read(annotations, where, whole=False)
        stamp = _stamp(known, where, pod.metadata, whole(), trace)
        patch = (*_gate(pod.spec), *_stamps(known.tenant, namespace, pod.metadata, stamp))
    except wishes.Contradiction as error:
        return Verdict(denied=str(error))
    except ValueError as error:
        raise wire.BadRequest(f"{where}: {error}") from error
    return Verdict(patch=patch, warnings=wishes.unread(annotations), stamp=stamp)


def _waits(known: Knowledge, namespace: str, claims: Sequence[wire.PodClaim]) -> bool:
    """Return whether a pod with these claims has to wait for a plan."""
    return any(_may_be_ours(known, namespace, one) for one in claims)


def _may_be_ours(known: Knowledge, namespace: str, claim: wire.PodClaim) -> bool:
    if claim.resource_claim_name:
        return known.ours(namespace, CLAIM, claim.resource_claim_name) is not False
    if claim.resource_claim_template_name:
        return known.ours(namespace, TEMPLATE, claim.resource_claim_template_name) is not False
    return True  # a kind of reference that is newer than this version


def _gate(spec: review.Spec) -> Iterator[Operation]:
    gates = spec.scheduling_gates or ()
    if all(one.name != names.GATE for one in gates):
        gate = {"name": names.GATE}
        yield _add(("spec", "schedulingGates", "-"), gate) if gates else _add(("spec", "schedulingGates"), [gate])


def _stamp(known: Knowledge, where: str, metadata: review.Metadata, whole: Item, trace: Trace) -> Stamp:
    """Return the pod's gang, decision id and trace; those that it has already are kept."""
    annotations, gang = metadata.annotations or {}, known.gang(whole)
    decision_id = annotations.get(names.DECISION) or known.decision_id(whole, gang)
    given = annotations.get(names.TRACEPARENT, "")
    return Stamp(where, gang, decision_id, trace(decision_id, given) or given)


def _stamps(
    tenant: Callable[[str], str], namespace: str, metadata: review.Metadata, stamp: Stamp
) -> Iterator[Operation]:
    """Yield the labels and the annotations.

    The gang label is ours alone: a pod that names another's gang would otherwise be taken for its member.
    """
    labels = metadata.labels or {}
    wanted = {names.GANG: stamp.gang} if stamp.gang else {}
    if not labels.get(names.TENANT):
        wanted[names.TENANT] = tenant(namespace)
    if not stamp.gang and names.GANG in labels:
        yield {"op": "remove", "path": _pointer(("metadata", "labels", names.GANG))}
    yield from _entries("labels", metadata.labels, wanted)
    notes = {names.DECISION: stamp.decision_id}
    if stamp.traceparent:
        notes[names.TRACEPARENT] = stamp.traceparent
    yield from _entries("annotations", metadata.annotations, notes)


def _entries(field: str, there: Mapping[str, str] | None, wanted: Mapping[str, str]) -> Iterator[Operation]:
    """Yield what brings entries into a map of the metadata that may be missing, null, or right already."""
    if there is None and wanted:
        yield _add(("metadata", field), dict(wanted))
        return
    for key, value in wanted.items():
        if there is None or there.get(key) != value:
            yield _add(("metadata", field, key), value)


def _add(path: Sequence[str], value: Any) -> Operation:
    return {"op": "add", "path": _pointer(path), "value": value}


def _pointer(path: Sequence[str]) -> str:
    """Return a JSON pointer (RFC 6901), in which ~ and / of a key are written ~0 and ~1."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
