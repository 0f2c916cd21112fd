"""Methods of the values in expressions: of quantities, versions, texts, lists and optional values."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from scheduler.kube import cel_device


def call(receiver: Any, name: str, arguments: list[Any]) -> Any:
    """Call a method.

    Raises
    ------
    CelError
        There is no such method of such a value here.
    """
    for kind, methods in METHODS:
        if isinstance(receiver, kind) and name in methods:
            count, run = methods[name]
            if len(arguments) != count:
                raise cel_device.CelError(f"{name}: {count} arguments expected, got {len(arguments)}")
            return run(receiver, *arguments)
    raise cel_device.CelError(f"{cel_device.kind_of(receiver)} has no {name}() here")


def _ordered(kind: type, answer: Callable[[Any, Any], Any]) -> tuple[int, Callable[..., Any]]:
    def run(one: Any, other: Any) -> Any:
        if not isinstance(other, kind):
            raise cel_device.CelError(f"no order between {kind.__name__.lower()} and {cel_device.kind_of(other)}")
        return answer(one, other)

    return 1, run


def _text(answer: Callable[[str, str], bool]) -> tuple[int, Callable[..., Any]]:
    def run(one: str, other: Any) -> bool:
        if not isinstance(other, str):
            raise cel_device.CelError(f"a string is expected, got {cel_device.kind_of(other)}")
        return answer(one, other)

    return 1, run


def _matches(text: str, pattern: str) -> bool:
    """Search for a regular expression without groups, whose cost is bounded."""
    repeats = sum(pattern.count(sign) for sign in "*+{")
    if len(pattern) > 128 or "(" in pattern or repeats > 3:
        raise cel_device.CelError(
            "matches(): only patterns without groups, with at most 3 repetitions and 128 characters"
        )
    try:
        return re.search(pattern, text, re.ASCII) is not None
    except re.error as error:
        raise cel_device.CelError(f"matches(): {error}") from error


def _value_of(one: cel_device.Optional) -> Any:
    if not one.found:
        raise cel_device.CelError("value(): there is none")
    return one.found[0]


def _includes(of: Any, item: Any) -> bool:
    return cel_device.holds(item, of) if isinstance(of, list) else cel_device.same(of, item)


_ORDER = {
    "compareTo": lambda a, b: (a > b) - (a < b),
    "isGreaterThan": lambda a, b: a > b,
    "isLessThan": lambda a, b: a < b,
}

METHODS: tuple[tuple[Any, dict[str, tuple[int, Callable[..., Any]]]], ...] = (
    (cel_device.Quantity, {name: _ordered(cel_device.Quantity, answer) for name, answer in _ORDER.items()}),
    (cel_device.Version, {name: _ordered(cel_device.Version, answer) for name, answer in _ORDER.items()}),
    (
        cel_device.Version,
        {"major": (0, lambda v: v.order[0]), "minor": (0, lambda v: v.order[1]), "patch": (0, lambda v: v.order[2])},
    ),
    (
        str,
        {
            "startsWith": _text(str.startswith),
            "endsWith": _text(str.endswith),
            "contains": _text(lambda a, b: b in a),
            "matches": _text(_matches),
            "lowerAscii": (0, str.lower),
            "upperAscii": (0, str.upper),
        },
    ),
    (
        cel_device.Optional,
        {
            "orValue": (1, lambda one, other: one.found[0] if one.found else other),
            "hasValue": (0, lambda one: bool(one.found)),
            "value": (0, _value_of),
        },
    ),
    ((str, list, Mapping), {"size": (0, len)}),
    ((str, list, int), {"includes": (1, _includes)}),
)
