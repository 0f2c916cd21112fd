"""What the gating webhook may ask of the mirror: whose claims these are, and what is known of a pod's gang."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.kube import claim as claims
from scheduler.kube import ownership, world
from scheduler.kube import pod as pods
from scheduler.kube.gangs import identity
from scheduler.model import names

CLAIM = "ResourceClaim"


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
        """Return the decision id of a pod of the same gang, else a new one."""
        found = self.known()
        namespace = pod["metadata"].get("namespace", "")
        for other in found.gangs.members(f"{namespace}/{gang}") if found and gang else ():
            told = other.annotations.get(names.DECISION)
            if told:
                return told
        return uuid.uuid4().hex
