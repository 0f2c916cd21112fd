"""Node selectors, affinities and tolerations by the rules of kube-scheduler."""

import pytest

from scheduler.model import admission
from scheduler.model.admission import Admission, Requirement, Toleration

TAINT = ("dedicated", "ml", "NoSchedule")


@pytest.mark.parametrize(
    ("operator", "values", "fit", "unfit"),
    [
        ("In", ("a", "b"), ("a", "b"), ("c", None)),
        ("NotIn", ("a", "b"), ("c", None), ("a", "b")),
        ("Exists", (), ("", "x"), (None,)),
        ("DoesNotExist", (), (None,), ("", "x")),
        ("Gt", ("7",), ("8", "10"), ("7", "-1", "x", "", None)),
        ("Lt", ("7",), ("6", "-1"), ("7", "10", "x", "", None)),
        ("Gt", ("x",), (), ("8",)),
        ("Gt", ("1", "2"), (), ("8",)),
        ("Like", ("a",), (), ("a", None)),
    ],
)
def test_requirements(
    operator: str, values: tuple[str, ...], fit: tuple[str | None, ...], unfit: tuple[str | None, ...]
) -> None:
    one = Requirement("k", operator, values)
    assert [one.holds(value) for value in fit] == [True] * len(fit)
    assert [one.holds(value) for value in unfit] == [False] * len(unfit)


@pytest.mark.parametrize(
    ("one", "covers"),
    [
        (Toleration("dedicated", "Equal", "ml", "NoSchedule"), True),
        (Toleration("dedicated", "Equal", "ml"), True),
        (Toleration("dedicated", "Exists"), True),
        (Toleration("", "Exists"), True),
        (Toleration("", "Exists", "", "NoExecute"), False),
        (Toleration("dedicated", "Equal", "web"), False),
        (Toleration("dedicated"), False),
        (Toleration("other", "Exists"), False),
        (Toleration("", "Equal", "ml"), False),
        (Toleration("dedicated", "Lt", "ml"), False),
    ],
)
def test_tolerations(one: Toleration, covers: bool) -> None:
    assert one.tolerates(TAINT) is covers
    assert Admission(tolerations=(one,)).tolerates([TAINT]) is covers
    assert not Admission(tolerations=(one,)).tolerates([TAINT, ("z", "", "NoExecute")]) or one.key == ""


def test_keys_words_and_what_is_left_out() -> None:
    name = Requirement("metadata.name", "In", ("n",), field=True)
    one = Admission(
        (Requirement("pool", "In", ("a",)), Requirement("zone", "In", ("z",))),
        ((Requirement("rack", "NotIn", ("r1", "r2")), Requirement("gpus", "Gt", ("4",))), (name,)),
    )
    assert one.keys == {"pool", "zone", "rack", "gpus"}
    assert str(one) == "pool=a, zone=z, rack not in (r1, r2) and gpus > 4 or metadata.name=n"
    assert one.without({"zone"}).keys == {"pool", "rack", "gpus"} and one.without({"none"}) is one
    assert str(Admission((Requirement("a", "Exists"), Requirement("b", "DoesNotExist")))) == "a, no b"
    assert admission.spelled(TAINT) == "dedicated=ml:NoSchedule" and admission.spelled(("k", "", "x")) == "k:x"
