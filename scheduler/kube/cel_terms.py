"""What the terms of an expression do: functions of a device, put together by the parser in `cel`."""

import ast
import re
from collections.abc import Callable, Sequence
from typing import Any

from scheduler.kube import cel_device, cel_methods
from scheduler.kube.cel_device import CelError, Device

Run = Callable[[Device], Any]


def literal(word: str) -> Any:
    """Return the value of a number or a text."""
    if word[0].isdigit():
        return int(word)
    if word[0] != "r" and re.search(r"\\[^\\'\"ntr]", word):
        raise CelError(f"the escape in {word} is not understood")
    return ast.literal_eval(word)


def logic(terms: Sequence[Run], decisive: bool) -> Run:
    """Return ``a || b || ...`` (decisive true) or ``a && b && ...``: one decisive term wins over the others' errors."""

    def run(device: Device) -> bool:
        failed: CelError | None = None
        for term in terms:
            try:
                if _bool(term(device)) is decisive:
                    return decisive
            except CelError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return not decisive

    return run if len(terms) > 1 else terms[0]


def relation(sign: str, a: Run, b: Run) -> Run:
    """Return a comparison, or ``a in b``."""
    if sign == "in":
        return lambda device: cel_device.holds(a(device), b(device))
    if sign in ("==", "!="):
        return lambda device: cel_device.same(a(device), b(device)) is (sign == "==")
    wanted = {"<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (1, 0)}[sign]
    return lambda device: cel_device.compare(a(device), b(device)) in wanted


def choice(test: Run, yes: Run, no: Run) -> Run:
    """Return ``test ? yes : no``."""
    return lambda device: (yes if _bool(test(device)) else no)(device)


def negated(run: Run) -> Run:
    """Return ``!a``."""
    return lambda device: not _bool(run(device))


def truth(run: Run) -> Run:
    """Return ``!!a``."""
    return lambda device: _bool(run(device))


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise CelError("a truth value is expected")
    return value


def item(of: Run, key: Run) -> Run:
    """Return ``of.key`` or ``of[key]``; CelError where it is missing."""

    def run(device: Device) -> Any:
        found, name = of(device), key(device)
        if not isinstance(found, dict):
            raise CelError(f"{name!r}: only attributes and capacities have members here")
        if not cel_device.holds(name, found):
            raise cel_device.Missing(f"device {device.name} has no attribute or capacity {name}")
        return cel_device.known(device, found[name], name)

    return run


def optional(of: Run, name: str) -> Run:
    """Return ``of.?name``."""

    def run(device: Device) -> cel_device.Optional:
        found = of(device)
        if not isinstance(found, dict):
            raise CelError(f".?{name}: only attributes and capacities have members here")
        return cel_device.Optional((cel_device.known(device, found[name], name),) if name in found else ())

    return run


def call(of: Run, name: str, arguments: list[Run]) -> Run:
    """Return ``of.name(arguments)``."""
    return lambda device: cel_methods.call(of(device), name, [argument(device) for argument in arguments])


def _has(argument: Run, device: Device) -> bool:
    """Tell whether a member is there; an identity is, though its value can't be read."""
    try:
        argument(device)
    except cel_device.IdentityRead:
        return True
    except cel_device.Missing:
        return False
    return True


FUNCTIONS: dict[str, Callable[[Run, Device], Any]] = {
    "has": _has,
    "quantity": lambda argument, device: cel_device.to_quantity(argument(device)),
    "semver": lambda argument, device: cel_device.to_version(argument(device)),
    "size": lambda argument, device: cel_methods.call(argument(device), "size", []),
}
