"""Two or more policies on the same jobs: paired differences with intervals, and where their decisions part."""

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from simulator import outcome, scenario


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean of `n` paired differences and the half width of its confidence interval; NaN half width when n < 2."""

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        """Return the lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Return the upper end."""
        return self.mean + self.half_width

    @property
    def decided(self) -> bool:
        """Tell whether the interval leaves out zero."""
        return self.n > 1 and (self.low > 0 or self.high < 0)

    def words(self, digits: int = 2, with_n: bool = True) -> str:
        """Write ``-0.31 [-0.38, -0.24], n=30``."""
        span = "" if self.n < 2 else f" [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"
        return f"{self.mean:+.{digits}f}{span}" + (f", n={self.n}" if with_n else "")


def interval(samples: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of independent samples and Student's t interval around it."""
    n = len(samples)
    mean = math.fsum(samples) / n
    if n < 2:
        return Interval(mean, math.nan, n)
    variance = math.fsum((x - mean) ** 2 for x in samples) / (n - 1)
    t = float(special.stdtrit(n - 1, 0.5 + confidence / 2))
    return Interval(mean, t * math.sqrt(variance / n), n)


def paired(ours: Sequence[float], baseline: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the interval of ``ours - baseline``, sample by sample: same seed, same jobs, same failures."""
    if len(ours) != len(baseline):
        raise ValueError(f"paired samples differ in number: {len(ours)} and {len(baseline)}")
    return interval([a - b for a, b in zip(ours, baseline, strict=True)], confidence)


@dataclass(slots=True, eq=False)
class Comparison:
    """Policies on the same scenarios: measures of every policy and seed, and the runs of the first seed.

    The first policy is the one that the others are compared with.
    """

    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    samples: dict[str, list[dict[str, float]]]
    runs: dict[str, scenario.Run]
    partial: str = ""

    def values(self, policy: str, measure: str) -> list[float]:
        """Return one measure of a policy, per seed."""
        return [sample[measure] for sample in self.samples[policy]]

    def difference(self, policy: str, measure: str) -> Interval:
        """Return the paired difference of a policy to the first one."""
        done = min(len(self.samples[policy]), len(self.samples[self.policies[0]]))
        return paired(self.values(policy, measure)[:done], self.values(self.policies[0], measure)[:done])


@dataclass(frozen=True, slots=True)
class Change:
    """A job that two policies treated differently."""

    job: str
    gpus: float
    wait_s: tuple[float, float]
    nodes: tuple[int, int]
    bandwidth_mb_s: tuple[int, int]


def changes(a: outcome.Outcome, b: outcome.Outcome) -> list[Change]:
    """Return the jobs whose start, nodes, bandwidth or fate differ, largest change of wait first."""
    columns = ("state", "start_s", "wait_s", "nodes", "level", "bandwidth_mb_s", "placed")
    differs = np.zeros(len(a.trace), dtype=np.bool_)
    for column in columns:
        mine, theirs = getattr(a.jobs, column), getattr(b.jobs, column)
        differs |= (mine != theirs) & ~(np.isnan(mine) & np.isnan(theirs))
    rows = np.flatnonzero(differs)
    order = rows[np.argsort(-np.abs(a.jobs.wait_s[rows] - b.jobs.wait_s[rows]), kind="stable")]
    gpus = a.trace.gpus()
    return [
        Change(
            str(a.trace.names[row]),
            float(gpus[row]),
            (float(a.jobs.wait_s[row]), float(b.jobs.wait_s[row])),
            (int(a.jobs.nodes[row]), int(b.jobs.nodes[row])),
            (int(a.jobs.bandwidth_mb_s[row]), int(b.jobs.bandwidth_mb_s[row])),
        )
        for row in order.tolist()
    ]


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first decision in which two logs differ: its number from 1, and what each says; None where one has ended."""

    number: int
    lines: tuple[dict[str, Any] | None, dict[str, Any] | None]


def divergence(a: Iterable[str], b: Iterable[str]) -> Divergence | None:
    """Compare two decision logs line by line; score terms alone make no difference.

    Notes
    -----
    Policies price the same choice differently, so a line is compared without its terms: when, who, what, which devices.
    """
    for number, (mine, theirs) in enumerate(itertools.zip_longest(a, b), 1):
        if mine == theirs:
            continue
        said = (json.loads(mine) if mine else None, json.loads(theirs) if theirs else None)
        if said[0] is None or said[1] is None or _decided(said[0]) != _decided(said[1]):
            return Divergence(number, said)
    return None


def _decided(line: dict[str, Any]) -> dict[str, Any]:
    """Return a log line without what only the policy's prices decide."""
    return {key: value for key, value in line.items() if key not in ("terms", "bandwidth_mb_s")}
