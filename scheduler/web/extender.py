"""What the extender answers: from decisions to wire types, pure.

kube-scheduler may ask in a tentative cycle and ask the same again, so nothing here, and nothing behind `Decisions`,
may change anything.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scheduler.web import sheet, wire

PLUGIN_POINTS = 1200
"""The most that all in-tree score plugins of the default configuration give a node: 100 times the sum of their weights."""

POINTS_PER_SCORE = 10
"""kube-scheduler adds an extender's score times its weight times this to the node's total, and clamps nothing."""

FITS = -1
"""Cause of a node that can take the pod."""


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What filter decided.

    Attributes
    ----------
    names : sequence of str
        In the order in which they were asked for.
    causes : ndarray of int64, or None
        For each name the sentence that says why it falls, `FITS` for one that does not; None where none falls.
    passing : int
        From this sentence on, evicting pods could help.
    quoted : ndarray of bytes, or None
        The names as JSON, where they are known so.
    """

    names: Sequence[str]
    causes: sheet.Ints | None = None
    sentences: Sequence[str] = ()
    passing: int = 0
    quoted: sheet.Objects | None = None

    @property
    def feasible(self) -> list[str]:
        """Return the names of those that fit, in order."""
        return list(
            self.names if self.causes is None else itertools.compress(self.names, (self.causes == FITS).tolist())
        )

    @property
    def failed(self) -> dict[str, str]:
        """Return the reason by node where evicting pods could help."""
        return self._told(range(self.passing, len(self.sentences)))

    @property
    def hopeless(self) -> dict[str, str]:
        """Return the reason by node where it could not."""
        return self._told(range(self.passing))

    @property
    def outcome(self) -> str:
        """Return whether ``all``, ``some`` or ``none`` of the nodes fit; ``none`` of no nodes."""
        fitting = len(self.names) if self.causes is None else int(np.count_nonzero(self.causes == FITS))
        return "none" if not fitting else "all" if fitting == len(self.names) else "some"

    def encoded(self) -> bytes:
        """Return the answer of filter."""
        if self.quoted is None or self.causes is None:
            return wire.encode(wire.ExtenderFilterResult(None, self.feasible, self.failed, self.hopeless))
        groups = [(sentence, self.quoted[self.causes == cause]) for cause, sentence in enumerate(self.sentences)]
        return sheet.filtered(self.quoted[self.causes == FITS], groups[self.passing :], groups[: self.passing])

    def _told(self, among: range) -> dict[str, str]:
        causes = [] if self.causes is None else self.causes.tolist()
        return {name: self.sentences[cause] for name, cause in zip(self.names, causes, strict=False) if cause in among}


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """What prioritize decided.

    Attributes
    ----------
    places : ndarray of int64
        For each name, higher is better, at least 0; different nodes that differ at all differ in it.
    rows : ndarray of int64, or None
        For each name the node's row of `known`, which has it as JSON.
    """

    names: Sequence[str]
    places: sheet.Ints
    rows: sheet.Ints | None = None
    known: sheet.Sheet | None = None

    def encoded(self, between: int) -> bytes:
        """Return the answer of prioritize; `between` is the score from one place to the next."""
        if self.rows is None or self.known is None:
            scores = (self.places * between).tolist()
            return wire.encode(list(itertools.starmap(wire.HostPriority, zip(self.names, scores, strict=True))))
        return self.known.priorities(self.names, self.rows, self.places, between)


class Decisions(Protocol):
    """Who decides. Every method is read-only and idempotent, and raises `wire.BadRequest` for a pod that it can't read."""

    def filter(self, pod: wire.Pod, names: Sequence[str]) -> Verdict:
        """Tell which nodes can take the pod."""

    def ranks(self, pod: wire.Pod, names: Sequence[str]) -> Ranks:
        """Tell how good the nodes are."""

    def preempt(self, pod: wire.Pod, victims: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """Return those candidate nodes on which evicting victims (UIDs) lets the pod in, with those who have to go."""


def step(weight: int) -> int:
    """Return the score that lies between neighbours, so that one place in the order outweighs all in-tree plugins.

    >>> step(13), step(121)
    (10, 1)
    """
    return PLUGIN_POINTS // (POINTS_PER_SCORE * weight) + 1


def filtered(decisions: Decisions, asked: wire.ExtenderArgs) -> Verdict:
    """Answer filter."""
    return decisions.filter(asked.pod, asked.node_names or ())


def prioritized(decisions: Decisions, asked: wire.ExtenderArgs, weight: int) -> bytes:
    """Answer prioritize, encoded."""
    return decisions.ranks(asked.pod, asked.node_names or ()).encoded(step(weight))


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
