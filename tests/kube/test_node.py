"""Projections of nodes, and when nothing new can start on one."""

from dataclasses import replace
from typing import Any

import pytest

from scheduler.kube import node
from scheduler.model import admission

OPENED = node.Taint("dedicated", "ml", "NoSchedule")

OBJECT: dict[str, Any] = {
    "metadata": {"name": "n", "uid": "u", "resourceVersion": "7", "labels": {"b": "2", "a": "1"}},
    "spec": {
        "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}, {"key": "p", "effect": "PreferNoSchedule"}]
    },
    "status": {
        "allocatable": {"cpu": "63500m", "memory": "1Gi", "pods": "250", "nvidia.com/gpu": "8"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}


def test_fields() -> None:
    taints = (node.Taint("k", "v", "NoSchedule"),)
    labels = (("a", "1"), ("b", "2"))
    expected = node.Node("n", "u", "7", labels, 63_500, 1024, 250, (("nvidia.com/gpu", 8),), False, True, taints)
    assert node.read(OBJECT) == expected
    assert node.read(OBJECT).version == "7"
    assert replace(expected, version="8") == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "has taint k=v:NoSchedule"),
        ({"taints": ()}, ""),
        ({"taints": (node.Taint("nvidia.com/gpu", "", "NoSchedule"),)}, "has taint nvidia.com/gpu:NoSchedule"),
        (
            {"taints": (OPENED, node.Taint("z", "", "NoExecute"))},
            "has taint z:NoExecute",
        ),
        ({"taints": (OPENED,)}, ""),
        ({"taints": (OPENED,), "unschedulable": True}, "is cordoned"),
        ({"unschedulable": True}, "is cordoned"),
        ({"ready": False}, "is not ready"),
        ({"deleting": True, "ready": False}, "is being deleted"),
    ],
)
def test_closed(change: dict[str, Any], reason: str) -> None:
    assert node.closed(replace(node.read(OBJECT), **change), (OPENED,)) == reason


def test_a_taint_is_opened_by_who_tolerates_it_unless_the_node_is_not_well() -> None:
    sick = node.Taint("node.kubernetes.io/unreachable", "", "NoExecute")
    one = replace(node.read(OBJECT), taints=(OPENED, sick))
    tolerant = admission.Toleration("dedicated", "Equal", "ml")
    assert node.opened(one, [tolerant]) == (OPENED,)
    assert node.opened(one, admission.ANYTHING) == (OPENED,)
    assert node.opened(one, [replace(tolerant, value="web")]) == () == node.opened(one, [])


def test_node_that_never_reported_is_not_ready() -> None:
    assert node.closed(node.read({"metadata": {"name": "n"}})) == "is not ready"


def test_bad_quantity_names_node_and_field() -> None:
    with pytest.raises(ValueError, match=r"node n: status\.allocatable: 'much' is no quantity"):
        node.read(OBJECT | {"status": {"allocatable": {"cpu": "much"}}})
