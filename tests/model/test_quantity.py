"""Quantities are exact, and what is none is refused."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1.5", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("2.", 2),
        ("-3Ki", -3072),
        ("+1k", 1000),
        ("1e3", 1000),
    ]
    + [("5E", 5 * 10**18), ("1E2", 100), ("250m", Fraction(1, 4)), ("1n", Fraction(1, 10**9)), ("2Ei", 2**61)],
)
def test_known_forms(text: str, value: Fraction) -> None:
    assert quantity.parse(text) == value


@pytest.mark.parametrize("text", ["", "1 Gi", "1gi", "Gi", "1e", "--1", "0x10", "nan", "1.2.3", True])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(quantity.QuantityError):
        quantity.parse(text)


@given(st.integers(0, 2**40))
def test_mib_come_back(size: int) -> None:
    assert quantity.mib(quantity.of_mib(size)) == size


def test_rounding_is_up_for_milli_and_down_for_mib() -> None:
    assert quantity.milli("1500u") == 2
    assert quantity.milli("0.5") == 500
    assert quantity.mib("2097151") == 1
