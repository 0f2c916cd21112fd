"""JSON of AdmissionReview, version 1: what of a pod the webhook reads, and what it answers.

The pod is never decoded and encoded again: fields that this version does not know would be lost. The answer carries only
the operations of a JSON patch.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from scheduler.web import wire

API_VERSION = "admission.k8s.io/v1"
KIND = "AdmissionReview"

MAX_BYTES = 4 * 1024 * 1024
"""The API server takes request bodies of at most 3 MiB; a review of a pod adds a page to that."""

WARNING_LENGTH = 120
"""Characters; the API server cuts longer warnings, and drops all of them above 4096 in sum."""

MAX_WARNINGS = 8


class Owner(msgspec.Struct, gc=False):
    """An owner reference."""

    kind: str = ""
    name: str = ""


class Metadata(msgspec.Struct, rename="camel"):
    """Who the pod is; `name` is empty until the API server has made it from `generate_name`."""

    name: str = ""
    generate_name: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[Owner] | None = None


class Gate(msgspec.Struct, gc=False):
    """A scheduling gate."""

    name: str


class Spec(msgspec.Struct, rename="camel"):
    """What decides whether the pod waits for a plan."""

    node_name: str = ""
    scheduling_gates: list[Gate] | None = None
    resource_claims: list[wire.PodClaim] | None = None


class Pod(msgspec.Struct):
    """The pod that is being created."""

    metadata: Metadata
    spec: Spec


class GroupKind(msgspec.Struct, gc=False):
    """The kind of the object under review."""

    group: str = ""
    version: str = ""
    kind: str = ""


class Asked(msgspec.Struct, rename="camel"):
    """The question. `uid` comes back in the answer; `object` stays as it came."""

    uid: str
    kind: GroupKind
    namespace: str = ""
    operation: str = ""
    dry_run: bool | None = None
    sub_resource: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")


class Envelope(msgspec.Struct, rename="camel"):
    """A whole request body."""

    api_version: str
    kind: str
    request: Asked


class Status(msgspec.Struct):
    """Why a pod is refused; `message` is what the user reads."""

    code: int
    reason: str
    message: str


class Answer(msgspec.Struct, rename="camel", omit_defaults=True):
    """The answer to one question."""

    uid: str
    allowed: bool
    patch_type: str | None = None
    patch: str | None = None
    status: Status | None = None
    warnings: list[str] | None = None


class Reply(msgspec.Struct, rename="camel"):
    """A whole answer."""

    response: Answer
    api_version: str = API_VERSION
    kind: str = KIND


T = TypeVar("T")

_ENVELOPE = msgspec.json.Decoder(Envelope)
_POD = msgspec.json.Decoder(Pod)
_OBJECT = msgspec.json.Decoder(dict[str, Any])


def read(body: bytes | bytearray) -> Asked:
    """Read the question.

    Raises
    ------
    BadRequest
        Not an AdmissionReview of version 1.
    """
    envelope = _decoded(_ENVELOPE, body, "body")
    if (envelope.api_version, envelope.kind) != (API_VERSION, KIND):
        got = f"{envelope.api_version[:80]} {envelope.kind[:80]}"
        raise wire.BadRequest(f"body: {got} is not {API_VERSION} {KIND}; set admissionReviewVersions: [v1]")
    return envelope.request


def pod(asked: Asked) -> Pod:
    """Read what decides about the pod.

    Raises
    ------
    BadRequest
        The object is no pod; the webhook's rules name something else, or its fields are no pod's.
    """
    kind = asked.kind
    if (kind.group, kind.version, kind.kind) != ("", "v1", "Pod"):
        got = f"{kind.group[:80]}/{kind.version[:80]} {kind.kind[:80]}"
        raise wire.BadRequest(f"request.kind: {got} is no v1 Pod; let the webhook's rules name pods only")
    return _decoded(_POD, asked.object, "request.object")


def whole(asked: Asked) -> dict[str, Any]:
    """Return the pod with all its fields, its namespace filled in (controllers leave it to the request)."""
    obj = _decoded(_OBJECT, asked.object, "request.object")
    metadata = obj["metadata"]
    metadata["namespace"] = asked.namespace
    metadata.setdefault("name", "")
    return obj


def allowed(uid: str, patch: Sequence[Mapping[str, Any]] = (), warnings: Sequence[str] = ()) -> bytes:
    """Encode that the pod may be created, changed by the operations of `patch`."""
    answer = Answer(uid, True, warnings=[one[:WARNING_LENGTH] for one in warnings[:MAX_WARNINGS]] or None)
    if patch:
        answer.patch_type = "JSONPatch"
        answer.patch = base64.b64encode(wire.encode(patch)).decode()
    return wire.encode(Reply(answer))


def denied(uid: str, message: str) -> bytes:
    """Encode that the pod may not be created."""
    return wire.encode(Reply(Answer(uid, False, status=Status(422, "Invalid", message))))


def _decoded(decoder: msgspec.json.Decoder[T], text: bytes | bytearray | msgspec.Raw, where: str) -> T:
    try:
        return decoder.decode(text)
    except RecursionError:
        raise wire.BadRequest(f"{where}: nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise wire.BadRequest(f"{where}: {error}") from None
