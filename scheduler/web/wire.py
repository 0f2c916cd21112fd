"""JSON of the kube-scheduler extender, version 1: what comes, what goes, and nothing of a Pod that is not read.

The Go structs have no tags, so their keys are capitalised; the objects inside them keep the usual Kubernetes spelling.
Go sends `null` for every empty list and map.
"""

from typing import Annotated, TypeVar

import msgspec

MAX_BYTES = 16 * 1024 * 1024
"""Largest request body. A preemption request with 5,000 nodes and their whole victims stays below it."""

NodeName = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
"""Checked while decoding; the longest is that of a DNS subdomain."""


class BadRequest(ValueError):
    """A request that was refused; the message names the field and the remedy."""


class Metadata(msgspec.Struct, gc=False):
    """Who a pod is."""

    name: str = ""
    namespace: str = ""
    uid: str = ""


class Resources(msgspec.Struct):
    """Quantities as Kubernetes writes them."""

    limits: dict[str, str | int] | None = None
    requests: dict[str, str | int] | None = None


class Container(msgspec.Struct):
    """What a container asks for."""

    resources: Resources | None = None


class PodClaim(msgspec.Struct, rename="camel"):
    """An entry of `spec.resourceClaims`."""

    name: str
    resource_claim_name: str | None = None
    resource_claim_template_name: str | None = None


class ClaimStatus(msgspec.Struct, rename="camel"):
    """An entry of `status.resourceClaimStatuses`: the claim that was generated for the pod."""

    name: str
    resource_claim_name: str | None = None


class Gate(msgspec.Struct):
    """What keeps a pod from being scheduled."""

    name: str = ""


class PodSpec(msgspec.Struct, rename="camel"):
    """What a pod asks for."""

    containers: list[Container] | None = None
    init_containers: list[Container] | None = None
    resource_claims: list[PodClaim] | None = None
    scheduling_gates: list[Gate] | None = None


class PodStatus(msgspec.Struct, rename="camel"):
    """Which claims a pod got."""

    resource_claim_statuses: list[ClaimStatus] | None = None


class Pod(msgspec.Struct):
    """The pod that is being scheduled."""

    metadata: Metadata
    spec: PodSpec | None = None
    status: PodStatus | None = None

    @property
    def key(self) -> str:
        """Return namespace and name, for messages."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


class Victim(msgspec.Struct):
    """A victim that came as a whole Pod."""

    metadata: Metadata


class MetaPod(msgspec.Struct, gc=False):
    """A victim that came as its UID."""

    uid: str = msgspec.field(default="", name="UID")


class Victims(msgspec.Struct):
    """The pods to evict from one node, whole."""

    pods: list[Victim] | None = msgspec.field(default=None, name="Pods")
    broken_budgets: int = msgspec.field(default=0, name="NumPDBViolations")


class MetaVictims(msgspec.Struct):
    """The pods to evict from one node, by UID."""

    pods: list[MetaPod] | None = msgspec.field(default=None, name="Pods")
    broken_budgets: int = msgspec.field(default=0, name="NumPDBViolations")


class ExtenderArgs(msgspec.Struct, rename="pascal"):
    """Request of filter and prioritize; `Nodes`, which come instead of names where nothing is cached, are not read."""

    pod: Pod
    node_names: list[NodeName] | None = None


class ExtenderFilterResult(msgspec.Struct, rename="pascal"):
    """Answer of filter. A node in neither map nor list would vanish without a reason, so each is in exactly one."""

    nodes: None = None
    node_names: list[str] | None = None
    failed_nodes: dict[str, str] = {}
    failed_and_unresolvable_nodes: dict[str, str] = {}
    error: str = ""


class HostPriority(msgspec.Struct, rename="pascal", gc=False):
    """Score of one node; the answer of prioritize is a bare list of them."""

    host: str
    score: int


class ExtenderPreemptionArgs(msgspec.Struct, rename="pascal"):
    """Request of preempt: UIDs where the extender is `nodeCacheCapable`, whole pods otherwise."""

    pod: Pod
    node_name_to_victims: dict[NodeName, Victims] | None = None
    node_name_to_meta_victims: dict[NodeName, MetaVictims] | None = None


class ExtenderPreemptionResult(msgspec.Struct, rename="pascal"):
    """Answer of preempt, always by UID."""

    node_name_to_meta_victims: dict[str, MetaVictims]


class Refusal(msgspec.Struct, rename="pascal"):
    """Body of every answer but 200."""

    error: str


Args = TypeVar("Args", ExtenderArgs, ExtenderPreemptionArgs)

_ARGS = msgspec.json.Decoder(ExtenderArgs)
_PREEMPTION = msgspec.json.Decoder(ExtenderPreemptionArgs)
_ENCODER = msgspec.json.Encoder()

encode = _ENCODER.encode


def read_args(body: bytes | bytearray) -> ExtenderArgs:
    """Read a request of filter or prioritize.

    Raises
    ------
    BadRequest
        Not such a request, or one that carries Node objects instead of names.
    """
    asked = _decode(_ARGS, body)
    if asked.node_names is None:
        raise BadRequest("NodeNames: missing; set nodeCacheCapable: true in the extender's configuration")
    return asked


def read_preemption(body: bytes | bytearray) -> ExtenderPreemptionArgs:
    """Read a request of preempt.

    Raises
    ------
    BadRequest
        Not such a request.
    """
    return _decode(_PREEMPTION, body)


def candidates(asked: ExtenderPreemptionArgs) -> dict[str, MetaVictims]:
    """Return the candidates of a preemption by UID, however they came."""
    if asked.node_name_to_meta_victims is not None:
        return asked.node_name_to_meta_victims
    whole = asked.node_name_to_victims or {}
    return {name: MetaVictims(_uids(victims), victims.broken_budgets) for name, victims in whole.items()}


def _uids(victims: Victims) -> list[MetaPod]:
    return [MetaPod(victim.metadata.uid) for victim in victims.pods or ()]


def _decode(decoder: msgspec.json.Decoder[Args], body: bytes | bytearray) -> Args:
    """Decode a body; whatever is wrong with it becomes a `BadRequest`."""
    if len(body) > MAX_BYTES:
        raise BadRequest(f"body of {len(body)} bytes is larger than {MAX_BYTES}")
    try:
        return decoder.decode(body)
    except RecursionError:
        raise BadRequest("body: nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"body: {error}") from None
