"""What makes a gang worth another look, and what does not."""

from dataclasses import replace

from scheduler.kube import claim as claims
from scheduler.kube import index, mirror
from scheduler.kube import pod as pods
from scheduler.model import claim as model

POD = pods.Pod("ml", "w", "uid-w", "1", {}, {}, gates=("g",), claims=(pods.ClaimRef("gpus", "t", "c"),))
CLAIM = claims.Claim("ml", "c", "uid-c", "1", claims.Spec(), owner=pods.Owner("v1", "Pod", "w", "uid-w"))
ROW = model.Allocation("gpu.muster.dev", "n", "gpu-0", "gpus")


def settled() -> index.Index:
    """Return an index that knows a pod and its claim, and has been looked at."""
    found = index.Index()
    found.change(mirror.Change("pods", ("ml", "w"), None, POD))
    found.change(mirror.Change("claims", ("ml", "c"), None, CLAIM))
    assert len(found.dirty) == 1
    found.dirty.clear()
    return found


def test_a_new_version_alone_is_kept_but_is_no_news() -> None:
    found, newer = settled(), replace(POD, version="2")
    found.change(mirror.Change("pods", ("ml", "w"), POD, newer))
    assert not found.dirty
    [identity] = found.identities()
    assert found.members(identity.key) == [newer]


def test_whatever_a_gang_can_see_of_a_pod_is_news() -> None:
    changes = {"node": "n", "gates": (), "phase": "Running", "deleting": True, "annotations": {"a": "b"}, "claims": ()}
    for name, value in changes.items():
        found = settled()
        found.change(mirror.Change("pods", ("ml", "w"), POD, replace(POD, version="2", **{name: value})))
        assert len(found.dirty) == 1, name
    found = settled()
    found.change(mirror.Change("pods", ("ml", "w"), POD, None))
    assert len(found.dirty) == 1


def test_of_a_claim_neither_version_nor_finalizers_are_news_but_its_devices_are() -> None:
    found, ours = settled(), replace(CLAIM, version="2", finalizers=("f",))
    found.change(mirror.Change("claims", ("ml", "c"), CLAIM, ours))
    assert not found.dirty
    for changed in (replace(ours, rows=(ROW,)), replace(ours, deleting=True), replace(ours, reserved=("u",)), None):
        found = settled()
        found.change(mirror.Change("claims", ("ml", "c"), ours, changed))
        assert len(found.dirty) == 1


def test_a_template_concerns_the_gangs_whose_pods_name_it() -> None:
    for key, concerned in ((("ml", "t"), 1), (("ml", "other"), 0), (("elsewhere", "t"), 0)):
        found = settled()
        found.change(mirror.Change("templates", key, None, claims.Spec()))
        assert len(found.dirty) == concerned, key


def test_nothing_is_kept_of_pods_that_are_gone() -> None:
    found = settled()
    found.change(mirror.Change("claims", ("ml", "c"), CLAIM, None))
    found.change(mirror.Change("pods", ("ml", "w"), POD, None))
    found.dirty.clear()
    assert {name: kept for name in index.Index.__slots__ if (kept := getattr(found, name))} == {}
