"""What the extender answers: from decisions to wire types, pure.

kube-scheduler may ask in a tentative cycle and ask the same again, so nothing here, and nothing behind `Decisions`,
may change anything.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from scheduler.web import wire

PLUGIN_POINTS = 1200
"""The most that all in-tree score plugins of the default configuration give a node: 100 times the sum of their weights."""

POINTS_PER_SCORE = 10
"""kube-scheduler adds an extender's score times its weight times this to the node's total, and clamps nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What filter decided.

    Attributes
    ----------
    feasible : sequence of str
        In the order in which they were asked for.
    failed : Mapping
        Reason by node where evicting pods could help.
    hopeless : Mapping
        Reason by node where it could not.
    """

    feasible: Sequence[str]
    failed: Mapping[str, str] = field(default_factory=dict)
    hopeless: Mapping[str, str] = field(default_factory=dict)


class Decisions(Protocol):
    """Who decides. Every method is read-only and idempotent, and raises `wire.BadRequest` for a pod that it can't read."""

    def filter(self, pod: wire.Pod, names: Sequence[str]) -> Verdict:
        """Tell which nodes can take the pod."""

    def scores(self, pod: wire.Pod, names: Sequence[str]) -> Sequence[int]:
        """Return a rank for each of `names`, higher is better, at least 0; different nodes that differ at all differ in it."""

    def preempt(self, pod: wire.Pod, victims: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """Return those candidate nodes on which evicting victims (UIDs) lets the pod in, with those who have to go."""


def step(weight: int) -> int:
    """Return the score that lies between neighbours, so that one place in the order outweighs all in-tree plugins.

    >>> step(13), step(121)
    (10, 1)
    """
    return PLUGIN_POINTS // (POINTS_PER_SCORE * weight) + 1


def filtered(decisions: Decisions, asked: wire.ExtenderArgs) -> wire.ExtenderFilterResult:
    """Answer filter."""
    verdict = decisions.filter(asked.pod, asked.node_names or ())
    return wire.ExtenderFilterResult(
        node_names=list(verdict.feasible),
        failed_nodes=dict(verdict.failed),
        failed_and_unresolvable_nodes=dict(verdict.hopeless),
    )


def prioritized(decisions: Decisions, asked: wire.ExtenderArgs, weight: int) -> list[wire.HostPriority]:
    """Answer prioritize."""
    names = asked.node_names or ()
    between = step(weight)
    scores = [rank * between for rank in decisions.scores(asked.pod, names)]
    return list(itertools.starmap(wire.HostPriority, zip(names, scores, strict=True)))


def preempted(decisions: Decisions, asked: wire.ExtenderPreemptionArgs) -> wire.ExtenderPreemptionResult:
    """Answer preempt: the candidates that help, with those of their victims who have to go."""
    found = wire.candidates(asked)
    victims = {name: [pod.uid for pod in one.pods or ()] for name, one in found.items()}
    kept = decisions.preempt(asked.pod, victims)
    return wire.ExtenderPreemptionResult({name: _listed(found[name], uids) for name, uids in kept.items()})


def _listed(victims: wire.MetaVictims, uids: Sequence[str]) -> wire.MetaVictims:
    """Return those who go with a list, also where it is empty: that is a valid candidate, which breaks no budget."""
    pods = [pod for pod in victims.pods or () if pod.uid in uids]
    return wire.MetaVictims(pods, victims.broken_budgets if pods else 0)
