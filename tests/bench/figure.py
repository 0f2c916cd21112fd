"""One measured value, its bound, and whether it holds."""

import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

BOUNDS = Path(__file__).with_name("bounds.toml")


class Missing(Exception):
    """A part or an input that a figure needs is absent; the message says which."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must keep: `at_most` or `at_least` a value."""

    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def value(self) -> float | None:
        """Return the bound's number, None for a figure that is only shown."""
        return self.at_most if self.at_most is not None else self.at_least

    def holds(self, value: float) -> bool:
        """Tell whether the value keeps the bound; NaN never does."""
        if self.at_most is not None:
            return value <= self.at_most
        return self.at_least is None or value >= self.at_least

    def __str__(self) -> str:
        if self.value is None:
            return ""
        return f"{'≤' if self.at_most is not None else '≥'} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the result: `value` is None when it could not be measured, and `note` says why."""

    figure: str
    value: float | None
    bound: Bound
    note: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether the figure was measured and keeps its bound."""
        return self.value is not None and self.bound.holds(self.value)

    def as_json(self) -> dict[str, object]:
        """Return the fields that result files hold."""
        return {
            "figure": self.figure,
            "value": self.value,
            "unit": self.bound.unit,
            "bound": self.bound.value,
            "ok": self.ok,
            **({"note": self.note} if self.note else {}),
        }


Measurement = Callable[[], float | tuple[float, str]]
"""Takes one figure; returns its value, or the value and a note."""


def bounds(section: str) -> dict[str, Bound]:
    """Read the bounds of one benchmark, in file order."""
    table = tomllib.loads(BOUNDS.read_text(encoding="utf-8"))[section]
    return {
        name: Bound(entry["unit"], at_most=entry.get("at_most"), at_least=entry.get("at_least"))
        for name, entry in table.items()
    }


def take(section: str, measurements: Iterable[tuple[str, Measurement]]) -> Iterator[Figure]:
    """Yield the figures one by one; what fails becomes a figure without a value, so that the others are still taken."""
    known = bounds(section)
    for name, measure in measurements:
        bound = known.get(name) or known[name.split(" @")[0].split(": ")[0]]
        try:
            answer = measure()
        except Exception as error:
            yield Figure(name, None, bound, f"{type(error).__name__}: {error}")
            continue
        value, note = answer if isinstance(answer, tuple) else (answer, "")
        yield Figure(name, value, bound, note)
