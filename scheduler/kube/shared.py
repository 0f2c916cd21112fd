"""Claims of ours that several pods name: a plan gives each pod its own devices, so Muster plans none of these."""

from collections.abc import Iterable, Iterator

from scheduler.kube import claim as claims
from scheduler.kube import ownership, world
from scheduler.kube import pod as pods

NAMED = 3
"""Pods that a message names."""


def problem(members: Iterable[pods.Pod], known: world.World) -> str:
    """Say which claim of some pods others use too, and what to do; "" where each has its own."""
    for claim, users in _shared(members, known):
        several = ", ".join(one.name for one in users[:NAMED])
        rest = f" and {len(users) - NAMED} more" if len(users) > NAMED else ""
        return (
            f"ResourceClaim {claim.namespace}/{claim.name} is used by pods {several}{rest}: Muster gives every pod devices of "
            "its own; name a ResourceClaimTemplate in spec.resourceClaims, or use one pod"
        )
    return ""


def all_run(members: Iterable[pods.Pod], known: world.World) -> bool:
    """Return whether pods share a claim and all of its users are on nodes: what it holds is a stranger's, counted once."""
    found = list(_shared(members, known))
    return bool(found) and all(one.node for _, users in found for one in users)


def _shared(members: Iterable[pods.Pod], known: world.World) -> Iterator[tuple[claims.Claim, list[pods.Pod]]]:
    """Yield the claims of ours that several living pods name, with the pods."""
    names = {(pod.namespace, ref.claim) for pod in members for ref in pod.claims if ref.claim and not ref.template}
    for namespace, name in sorted(names):
        claim = known.claim(namespace, name)
        if claim is None or ownership.concerns(claim.spec, known) is not True:
            continue
        found = (known.pod(key) for key in known.gangs.users(claim))
        users = [one for one in found if one is not None and not one.gone]
        if len(users) > 1:
            yield claim, users
