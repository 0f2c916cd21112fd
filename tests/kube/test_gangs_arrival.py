"""Whatever the order in which pods and claims arrive, a gang is complete only when it is whole, and always the same one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.kube import pod as kube_pod
from scheduler.kube import workload
from scheduler.model import names, request
from tests.kube import gangs_bodies as bodies


@dataclass(frozen=True)
class Story:
    """A cluster, the pods that its controllers make, and which pod has which rank in which stage in the end."""

    cluster: bodies.Cluster
    pods: list[kube_pod.Pod]
    whole: dict[str, list[str]]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    return draw(st.sampled_from((_jobset, _staged, _job, _lws, _annotated)))(draw)


def _jobset(draw: st.DrawFn) -> Story:
    sizes = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), min_size=1, max_size=3).filter(_some))
    roles = {f"r{number}": bodies.role(*size) for number, size in enumerate(sizes)}
    pods = [
        one
        for name, size in zip(roles, sizes, strict=True)
        for one in bodies.jobset_pods(name, range(size[0]), size[1])
    ]
    return Story(bodies.Cluster(bodies.jobset(roles)), pods, {"jobset-train": [one.name for one in pods]})


def _staged(draw: st.DrawFn) -> Story:
    sizes = draw(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 4)), min_size=2, max_size=3))
    roles = {f"r{number}": bodies.role(*size) for number, size in enumerate(sizes)}
    made = {name: bodies.jobset_pods(name, range(size[0]), size[1]) for name, size in zip(roles, sizes, strict=True)}
    whole = {
        f"jobset-train.{name}" if number else "jobset-train": [one.name for one in pods]
        for number, (name, pods) in enumerate(made.items())
    }
    jobset = bodies.jobset(roles, startupPolicy={"startupPolicyOrder": "InOrder"})
    return Story(bodies.Cluster(jobset), [one for pods in made.values() for one in pods], whole)


def _job(draw: st.DrawFn) -> Story:
    size = draw(st.integers(1, 14))
    pods = bodies.job_pods("j", range(size))
    return Story(bodies.Cluster(bodies.job("j", bodies.job_spec(size))), pods, {"job-j": [one.name for one in pods]})


def _lws(draw: st.DrawFn) -> Story:
    size, late = draw(st.integers(2, 13)), draw(st.booleans())
    pods = bodies.lws_pods(0, range(size), size)
    called = [one.name for one in pods]
    whole = {"lws-decode-0": called[:1], "lws-decode-0.workers": called[1:]} if late else {"lws-decode-0": called}
    return Story(bodies.Cluster(bodies.lws(size, startup="LeaderReady" if late else "LeaderCreated")), pods, whole)


def _annotated(draw: st.DrawFn) -> Story:
    size = draw(st.integers(1, 8))
    kinds = draw(st.lists(st.integers(1, 3), min_size=size, max_size=size))
    cluster = bodies.Cluster()
    notes = {names.GANG_NAME: "g", names.GANG_SIZE: str(size)}
    pods = [bodies.pod(f"p{number}", annotations=notes) for number in range(size)]
    cluster.requests.update({f"p{number}": request.PodRequest(gpus=kind) for number, kind in enumerate(kinds)})
    order = sorted(range(size), key=lambda number: (kinds[number], number))
    return Story(cluster, pods, {"gang-g": [f"p{number}" for number in order]})


def _some(sizes: list[tuple[int, int]]) -> bool:
    return any(replicas for replicas, _ in sizes)


@settings(max_examples=150, deadline=None)
@given(story=stories(), data=st.data())
def test_the_order_of_arrival_changes_nothing_and_only_a_whole_gang_is_complete(
    story: Story, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(story.pods))
    for count in range(1, len(order) + 1):
        there = {one.name for one in order[:count]}
        for found in story.cluster.gangs(*order[:count]):
            whole = story.whole[found.identity.name]
            assert not found.problem
            assert found.complete == there.issuperset(whole), (found, there)
            if found.complete:
                assert bodies.names_by_rank(found) == whole
                assert found.gang and found.gang.size == len(whole)
    assert {one.identity.name for one in story.cluster.gangs(*order)} == set(story.whole)
    assert story.cluster.gangs(*order) == story.cluster.gangs(*story.pods)


@settings(max_examples=100, deadline=None)
@given(story=stories(), data=st.data())
def test_a_gang_without_all_its_claims_is_never_complete(story: Story, data: st.DataObject) -> None:
    late = data.draw(st.sampled_from(story.pods))
    story.cluster.requests[late.name] = bodies.NotYet(f"claims of pod {late.key}")
    for found in story.cluster.gangs(*story.pods):
        assert found.complete != (late.name in story.whole[found.identity.name])
        assert found.complete or f"claims of pod {late.key}" in found.waiting_for


@settings(max_examples=100, deadline=None)
@given(story=stories(), data=st.data())
def test_a_replaced_pod_leaves_the_ranks_of_the_others(story: Story, data: st.DataObject) -> None:
    """Placed pods carry their rank; one is lost, and its successor comes with another name."""
    placed = list(_placed(story.cluster.gangs(*story.pods)))
    lost = data.draw(st.sampled_from(placed))
    kept = [one.pod for one in placed if one != lost]
    gone = replace(lost.pod, **data.draw(st.sampled_from(({"phase": "Failed"}, {"deleting": True, "node": ""}))))
    new = replace(lost.pod, name=f"a-{lost.pod.name}", uid="new", node="", created="2026-11-25T00:00:00Z")
    new = replace(new, annotations={key: value for key, value in new.annotations.items() if key != names.PLANNED_RANK})
    story.cluster.requests[new.name] = story.cluster.request_of(lost.pod)
    before = [found for found in story.cluster.gangs(*kept, gone) if any(found.members)] if kept else []
    assert all(
        one.rank == story.whole[found.identity.name].index(one.pod.name) for found in before for one in found.members
    )
    missing = sum(found.missing for found in story.cluster.gangs(*kept, gone))
    after = list(_placed(story.cluster.gangs(*kept, gone, new)))
    expected = {one.pod.uid: one.rank for one in placed if one != lost} | {"new": lost.rank}
    assert {one.pod.uid: one.rank for one in after} == expected
    assert missing == 1


def _placed(stages: tuple[workload.Workload, ...]) -> Iterator[workload.Member]:
    for found in stages:
        for one in found.members:
            notes: dict[str, Any] = {**one.pod.annotations, names.PLANNED_RANK: str(one.rank)}
            yield replace(one, pod=replace(one.pod, annotations=notes, node=one.pod.node or f"n-{one.pod.name}"))
