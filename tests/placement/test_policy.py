"""Policies as documents: strict, with errors that name file, line, field and what is known."""

from pathlib import Path
from typing import Any

import pydantic
import pytest

from scheduler import policies
from scheduler.placement import policy, scoring

BASELINES = {
    "random": "random",
    "dot-product": "dot-product",
    "clustering": "clustering",
    "packing": "packing",
    "best-fit": "best-fit",
    "fgd": "fgd",
    "least-allocated": "least-allocated",
    "most-allocated": "most-allocated",
    "dra-first-fit": "first-fit",
}

HEAD = "apiVersion: muster.dev/v1alpha1\nkind: ScoringPolicy\nmetadata:\n  name: mine\n"


def written(folder: Path, text: str) -> str:
    """Write a policy file and return its name."""
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(folder: Path, text: str) -> policies.PolicyError:
    """Return the error that a document deserves."""
    with pytest.raises(policies.PolicyError) as caught:
        policies.load(written(folder, text))
    assert caught.value.file.endswith("mine.yaml")
    return caught.value


def test_every_built_in_policy_loads_under_its_own_name() -> None:
    names = policies.names()
    assert names[0] == "muster" and names[1:] == sorted(names[1:])
    assert {policies.load(name).metadata.name for name in names} == set(names)
    assert set(names) == {"muster", *BASELINES, "kueue-tas-best-fit", "kueue-tas-least-free"}


@pytest.mark.parametrize(("name", "rule"), BASELINES.items())
def test_a_baseline_has_the_rule_of_its_name_and_no_weights(name: str, rule: str) -> None:
    chosen = policies.load(name)
    assert chosen.spec.pods.rule == rule
    assert policy.pod_weights(chosen) == {}


def test_the_kueue_policies_differ_in_the_order_of_domains_only() -> None:
    one, other = policies.load("kueue-tas-best-fit"), policies.load("kueue-tas-least-free")
    assert (one.spec.gangs.domains, other.spec.gangs.domains) == ("tas-best-fit", "tas-least-free")
    assert one.spec.pods == other.spec.pods


def test_the_default_policy_writes_the_default_weights_out() -> None:
    chosen = policies.load("muster")
    assert chosen.spec.pods.weights == policy.POD_WEIGHTS["opportunity-cost"]
    assert chosen.spec == policy.Spec(pods=policy.PodScoring(weights=chosen.spec.pods.weights))


def test_every_rule_has_an_implementation() -> None:
    literal: Any = policy.PodRule
    assert set(scoring.RULES) == set(literal.__args__)
    assert set(policy.POD_WEIGHTS) <= set(scoring.RULES)


def test_a_file_sets_some_weights_and_leaves_the_others(tmp_path: Path) -> None:
    text = HEAD + "spec:\n  pods:\n    rule: opportunity-cost\n    weights: {stranded: 7}\n"
    chosen = policies.load(written(tmp_path, text))
    assert policy.pod_weights(chosen) == policy.POD_WEIGHTS["opportunity-cost"] | {"stranded": 7}
    assert policy.gang_weights(chosen.spec.gangs) == policy.GANG_WEIGHTS["opportunity-cost"]


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(policies.PolicyError, match=r"no built-in policy.*'fdg'.*best-fit.*fgd.*random"):
        policies.load("fdg")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(policies.PolicyError, match=r"none\.yaml: cannot be read"):
        policies.load(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("spec", "line", "field", "words"),
    [
        ("spec:\n  pods:\n    rule: fdg\n", 7, "spec.pods.rule", "fgd"),
        ("spec:\n  pods:\n    rule: fgd\n    weights: {stranded: 1}\n", 6, "spec.pods", "no weight stranded"),
        ("spec:\n  pods:\n    weights: {strnded: 1}\n", 6, "spec.pods", "it reads .*stranded"),
        ("spec:\n  pods:\n    weights:\n      stranded: -1\n", 8, "spec.pods.weights.stranded", "greater than"),
        ("spec:\n  pods:\n    weights:\n      stranded: 1000001\n", 8, "spec.pods.weights.stranded", "less than"),
        ("spec:\n  pods:\n    weights:\n      stranded: 1.5\n", 8, "spec.pods.weights.stranded", "integer"),
        ("spec:\n  pods:\n    weights:\n      stranded: '7'\n", 8, "spec.pods.weights.stranded", "integer"),
        ("spec:\n  pods:\n    weights:\n      stranded: yes\n", 8, "spec.pods.weights.stranded", "integer"),
        ("spec:\n  gangs:\n    domains: tas\n", 7, "spec.gangs.domains", "tas-best-fit"),
        ("spec:\n  gangs:\n    devices: any\n", 7, "spec.gangs.devices", "first-fit"),
        ("spec:\n  pod:\n    rule: fgd\n", 6, "spec.pod", "unknown field"),
        ("specs: {}\n", 5, "specs", "unknown field"),
        ("spec: [1]\n", 5, "spec", "dictionary"),
    ],
)
def test_a_malformed_document_names_line_and_field(
    tmp_path: Path, spec: str, line: int, field: str, words: str
) -> None:
    error = refused(tmp_path, HEAD + spec)
    assert (error.line, error.field) == (line, field)
    with pytest.raises(policies.PolicyError, match=words):
        policies.load(error.file)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (HEAD.replace("v1alpha1", "v2"), "apiVersion"),
        (HEAD.replace("ScoringPolicy", "Policy"), "kind"),
        (HEAD.replace("mine", "Mine!"), "metadata.name"),
        ("apiVersion: muster.dev/v1alpha1\nkind: ScoringPolicy\n", "metadata"),
        (HEAD + "kind: ScoringPolicy\n", "kind"),
    ],
)
def test_the_head_of_a_document_is_checked(tmp_path: Path, text: str, field: str) -> None:
    assert refused(tmp_path, text).field == field


def test_a_policy_is_a_frozen_value() -> None:
    chosen = policies.load("muster")
    with pytest.raises(pydantic.ValidationError):
        chosen.spec = policy.Spec()  # type: ignore[misc]
    assert chosen == policies.load("muster")
