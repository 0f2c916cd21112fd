"""One measured value, its bound, and whether it holds."""

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

BOUNDS = Path(__file__).with_name("bounds.toml")


class Missing(Exception):
    """A part or an input that a figure needs is absent; the message says which."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must keep: at most, at least or more than a value; none of them for one that is only shown."""

    unit: str
    at_most: float | None = None
    at_least: float | None = None
    more_than: float | None = None

    @property
    def value(self) -> float | None:
        """Return the bound's number, None for a figure that is only shown."""
        found = (self.at_most, self.at_least, self.more_than)
        return next((one for one in found if one is not None), None)

    def holds(self, value: float) -> bool | None:
        """Tell whether the value keeps the bound, None where there is none; NaN never does."""
        if self.at_most is not None:
            return value <= self.at_most
        if self.at_least is not None:
            return value >= self.at_least
        return value > self.more_than if self.more_than is not None else None

    def __str__(self) -> str:
        if self.value is None:
            return ""
        return f"{'≤' if self.at_most is not None else '≥' if self.at_least is not None else '>'} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the result: `value` is None when it could not be measured, and `note` says why."""

    figure: str
    value: float | None
    bound: Bound
    note: str = ""

    @property
    def ok(self) -> bool | None:
        """Tell whether the figure was measured and keeps its bound; None where it was measured and has no bound."""
        return False if self.value is None else self.bound.holds(self.value)

    def as_json(self) -> dict[str, object]:
        """Return the fields that result files hold; the bound is text with its direction, null where there is none."""
        return {
            "figure": self.figure,
            "value": self.value,
            "unit": self.bound.unit,
            "bound": str(self.bound) or None,
            "ok": self.ok,
            **({"note": self.note} if self.note else {}),
        }


Measurement = Callable[[], float | tuple[float, str]]
"""Takes one figure; returns its value, or the value and a note."""


def bounds(section: str) -> dict[str, Bound]:
    """Read the bounds of one benchmark, in file order."""
    table = tomllib.loads(BOUNDS.read_text(encoding="utf-8"))[section]
    return {
        name: Bound(entry["unit"], **{way: entry[way] for way in ("at_most", "at_least", "more_than") if way in entry})
        for name, entry in table.items()
    }


def bound_of(known: Mapping[str, Bound], name: str) -> Bound:
    """Return the bound of a figure: its own, or that of all figures which are called so before the " @" or ": ".

    Raises
    ------
    KeyError
        The file has none.
    """
    return known[name] if name in known else known[name.split(" @")[0].split(": ")[0]]


def take(section: str, measurements: Iterable[tuple[str, Measurement]]) -> Iterator[Figure]:
    """Yield the figures one by one; what fails becomes a figure without a value, so that the others are still taken."""
    known = bounds(section)
    for name, measure in measurements:
        bound = bound_of(known, name)
        try:
            answer = measure()
        except Exception as error:
            yield Figure(name, None, bound, f"{type(error).__name__}: {error}")
            continue
        value, note = answer if isinstance(answer, tuple) else (answer, "")
        yield Figure(name, value, bound, note)
