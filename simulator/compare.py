"""Two or more policies on the same jobs: paired differences with intervals, and where their decisions part."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special


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
