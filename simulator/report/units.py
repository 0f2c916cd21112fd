"""Times, shares and counts as short words: every output of the simulator writes them the same way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeUnit:
    """A unit of time for an axis or a column."""

    name: str
    seconds: float


SECONDS = TimeUnit("s", 1.0)
MINUTES = TimeUnit("min", 60.0)
HOURS = TimeUnit("h", 3600.0)
DAYS = TimeUnit("d", 86400.0)


def time_unit(span_s: float) -> TimeUnit:
    """Return the largest unit of which the span holds one and a half."""
    return next((unit for unit in (DAYS, HOURS, MINUTES) if span_s >= 1.5 * unit.seconds), SECONDS)


def duration(seconds: float) -> str:
    """Write a time with three figures at most: ``0 s``, ``42 s``, ``3.5 min``, ``6.5 h``, ``2.1 d``."""
    if math.isnan(seconds):
        return "-"
    unit = time_unit(abs(seconds))
    amount = seconds / unit.seconds
    if (unit is SECONDS and abs(amount) >= 10) or amount == int(amount):
        return f"{amount:.0f} {unit.name}"
    return f"{amount:.1f} {unit.name}"


def percent(share: float, digits: int = 1) -> str:
    """Write a share of one as per cent."""
    return "-" if math.isnan(share) else f"{100 * share:.{digits}f} %"


def count(number: int) -> str:
    """Write a whole number with thin groups of three."""
    return f"{number:,}".replace(",", "\u202f")


def bandwidth(mb_s: float) -> str:
    """Write MB/s as GB/s."""
    return "-" if mb_s <= 0 else f"{mb_s / 1000:.0f} GB/s" if mb_s >= 10_000 else f"{mb_s / 1000:.1f} GB/s"


def listing(names: Sequence[str], limit: int = 5) -> str:
    """Join names with commas; above `limit`, say how many more there are."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
