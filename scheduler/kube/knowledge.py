"""What the gating webhook may ask of the mirror: whose claims these are, and what is known of a pod's gang."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.kube import claim as claims
from scheduler.kube import ownership, world
from scheduler.kube import pod as pods
from scheduler.kube.gangs import identity, marks

CLAIM = "ResourceClaim"

IDS = uuid.UUID("6f0d3c9e-6f2b-5d0e-9d5a-0f1f6f5f9a11")
"""Namespace of decision ids (RFC 9562, version 5)."""


@dataclass(slots=True, eq=False)
class Knowledge:
    """Answers from memory; changes nothing.

    Parameters
    ----------
    known : callable
        The world as it is now; None before it is synced.
    """

    known: Callable[[], world.World | None]

    def ours(self, namespace: str, kind: str, name: str) -> bool | None:
        """Tell whether a claim or template asks for our devices; None where that is not known."""
        found = self.known()
        if found is None:
            return None
        key = namespace, name
        if kind == CLAIM:
            claim: claims.Claim | None = found.store["claims"].get(key)
            spec = claim.spec if claim else None
        else:
            spec = found.store["templates"].get(key)
        return None if spec is None else ownership.concerns(spec, found)

    def gang(self, pod: Mapping[str, Any]) -> str:
        """Return the name of the pod's GangPlacement, "" where only a later look can tell."""
        found = identity.of(pods.read(pod)) if pod["metadata"].get("name") is not None else None
        return found.name if found is not None and found.kind != "Pod" else ""

    def tenant(self, namespace: str) -> str:
        """Return the tenant of a namespace: its label, else its name."""
        found = self.known()
        return namespace if found is None else found.tenant(namespace)

    def decision_id(self, pod: Mapping[str, Any], gang: str) -> str:
        """Return the id that all pods of a gang get, from whichever replica, or a new one for a lone pod.

        It is made of the owner and the gang's name: the pods of a gang are created within milliseconds, before any of
        them is seen here. A gang without an owner whose name is used again gets its old id, unless the user gives one.
        """
        if not gang:
            return uuid.uuid4().hex
        metadata = pod["metadata"]
        owner = (metadata.get("labels") or {}).get(marks.JOBSET_UID) or pods.controller(metadata).uid
        return shared_id(owner, metadata.get("namespace", ""), gang)


def shared_id(owner: str, namespace: str, gang: str) -> str:
    """Return the decision id of a gang, by the UID of the JobSet or controller that owns its pods."""
    return uuid.uuid5(IDS, f"{owner}/{namespace}/{gang}").hex
