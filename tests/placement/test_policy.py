"""Policy documents are values, and strict ones: what nobody reads is refused with the words to mend it."""

from typing import Any

import pydantic
import pytest

from scheduler.placement import policy


def document(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "muster.dev/v1alpha1", "kind": "ScoringPolicy", "metadata": {"name": "x"}, "spec": spec}


def test_defaults_fill_in_what_is_left_out() -> None:
    read = policy.ScoringPolicy.model_validate(document(pods={"weights": {"value": 7}}))
    assert read.spec.pods.rule == "opportunity-cost"
    weights = policy.pod_weights(read)
    assert weights["value"] == 7
    assert {name: weights[name] for name in weights if name != "value"} == {
        name: value for name, value in policy.POD_WEIGHTS["opportunity-cost"].items() if name != "value"
    }


def test_rules_without_weights_have_none() -> None:
    read = policy.ScoringPolicy.model_validate(document(pods={"rule": "fgd"}, gangs={"domains": "first-fit"}))
    assert policy.pod_weights(read) == {} and policy.gang_weights(read.spec.gangs) == {}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"pods": {"weights": {"velocity": 1}}}, "has no weight velocity; it reads "),
        ({"pods": {"rule": "fgd", "weights": {"value": 1}}}, "rule fgd has no weight value; it reads none"),
        ({"gangs": {"weights": {"value": 1}}}, "has no weight value; it reads bandwidth, domains, nodes, span"),
        ({"pods": {"rule": "worst-fit"}}, "Input should be 'opportunity-cost'"),
        ({"pods": {"weights": {"value": -1}}}, "greater than or equal to 0"),
        ({"pods": {"weights": {"value": 1.5}}}, "valid integer"),
        ({"pods": {"weights": {"value": True}}}, "valid integer"),
        ({"pods": {"weights": {"value": 1_000_001}}}, "less than or equal to 1000000"),
        ({"pods": {"colour": "red"}}, "Extra inputs are not permitted"),
        ({"nodes": {}}, "Extra inputs are not permitted"),
        ({"gangs": {"devices": "random"}}, "Input should be 'best-subset'"),
    ],
)
def test_unknown_and_absurd_values_are_refused(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=says.replace(".", r"\.")):
        policy.ScoringPolicy.model_validate(document(**spec))


@pytest.mark.parametrize(
    "change",
    [
        {"apiVersion": "muster.dev/v2"},
        {"kind": "Policy"},
        {"metadata": {}},
        {"metadata": {"name": "Two Words"}},
        {"metadata": {"name": "-x"}},
        {"metadata": {"name": "x" * 64}},
        {"surprise": 1},
    ],
)
def test_documents_of_another_kind_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        policy.ScoringPolicy.model_validate(document() | change)


def test_policies_are_frozen() -> None:
    read = policy.ScoringPolicy.model_validate(document())
    with pytest.raises(pydantic.ValidationError):
        read.spec = policy.Spec()  # type: ignore[misc]
