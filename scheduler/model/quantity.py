"""Kubernetes quantities as exact integers."""

import functools
import re
from fractions import Fraction

SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
SUFFIXES |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}

_PATTERN = re.compile(r"([+-]?)(\d+(?:\.\d*)?|\.\d+)(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,3}))?")
_SMALL = {"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000)}


class QuantityError(ValueError):
    """The text is no quantity."""


def parse(text: str | int) -> Fraction:
    """Return the value of a quantity, exactly.

    Raises
    ------
    QuantityError

    Examples
    --------
    >>> parse("4864Mi"), parse("1500m"), parse("2e3"), parse(7)
    (Fraction(5100273664, 1), Fraction(3, 2), Fraction(2000, 1), Fraction(7, 1))
    """
    if isinstance(text, bool):
        raise QuantityError(f"{text!r} is no quantity")
    return _parse(str(text))


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> Fraction:
    """The same few are read again and again."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise QuantityError(f"{text!r} is no quantity")
    sign, digits, suffix, exponent = match.groups()
    scale = Fraction(10) ** int(exponent) if exponent else _SMALL.get(suffix or "", SUFFIXES.get(suffix or "", 0))
    return Fraction(digits if not digits.endswith(".") else digits[:-1]) * scale * (-1 if sign == "-" else 1)


def milli(text: str | int) -> int:
    """Return a quantity in thousandths, rounded up as Kubernetes rounds, for example milli-CPU."""
    return -int(-parse(text) * 1000 // 1)


def mib(text: str | int) -> int:
    """Return a quantity of bytes in whole MiB, rounded down.

    Examples
    --------
    >>> mib("80Gi"), mib("16370328Ki"), mib(5100273664)
    (81920, 15986, 4864)
    """
    return int(parse(text) // SUFFIXES["Mi"])


def of_mib(size: int) -> str:
    """Return whole MiB as a quantity."""
    return f"{size}Mi"
