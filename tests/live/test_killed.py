"""Muster is killed after every kind of write and started again: gangs are whole or absent, no device leaks or is twice."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from scheduler import faultpoint
from scheduler.apiserver import errors, paths
from scheduler.kube import kueue_check
from scheduler.model import names
from tests.kube import live
from tests.live import doomed, work
from tests.live import site as sites
from tests.live import team as teams
from tests.testbed.controllers import kueue, manifests
from tests.testbed.fleet import create

EVERY = os.environ.get("MUSTER_KILLS", "") == "all"
"""Every kill is tried by `make test-live`; else one of each scene."""

FORCE = ("--preempt", "execute")

Step = Callable[[teams.Team], Awaitable[Any]]


async def nothing(_: teams.Team) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is there `before` the scheduler that is to die, what makes it write, and what holds `after` the next began.

    Attributes
    ----------
    kills : tuple of str
        Fault points, ``point`` or ``point:turn``; the first is tried in every run.
    first : str
        Where another one dies before it, so that it has something to undo when it starts.
    slow : bool
        The Lease of who died is left to expire.
    """

    kills: tuple[str, ...]
    act: Step
    after: Step
    before: Step = nothing
    options: tuple[str, ...] = ()
    first: str = ""
    slow: bool = False


# A JobSet starts.


async def start(team: teams.Team) -> None:
    await team.apply(doomed.jobset("train"))


async def started(team: teams.Team) -> None:
    await doomed.whole(team, count=3)
    found = await team.phase("jobset-train", "Running", within_s=doomed.PATIENCE_S)
    assert len(found["spec"]["plan"]["pods"]) == 3


# A pod of a running JobSet is lost and made anew; the others keep what they have.

kept: dict[str, dict[str, str]] = {}
"""UIDs of the pods that ran, by team."""


async def runs(team: teams.Team) -> None:
    await start(team)
    await started(team)
    kept[team.name] = {name: one["metadata"]["uid"] for name, one in (await doomed.whole(team, count=3)).items()}


async def lose(team: teams.Team) -> None:
    await team.api.delete(team.path("v1", "pods", min(kept[team.name])), grace_s=0)


async def refilled(team: teams.Team) -> None:
    lost, *rest = sorted(kept[team.name])

    async def anew() -> bool:
        return lost not in {one["metadata"]["name"] for one in await team.pods()}

    await team.until(anew, doomed.PATIENCE_S)
    await started(team)
    now = {name: one["metadata"]["uid"] for name, one in (await doomed.whole(team, count=3)).items()}
    assert {name: now.get(name) for name in rest} == {name: kept[team.name][name] for name in rest}


# A lone pod starts.


async def alone(team: teams.Team) -> None:
    await team.create([work.pod("alone")])


async def alone_runs(team: teams.Team) -> None:
    await doomed.whole(team, ["alone"])


# A gang is evicted by one of higher priority: plain pods, which nobody makes anew, and a JobSet, which waits then.


async def plain_runs(team: teams.Team) -> None:
    await team.create(work.gang("low", 3))
    await doomed.whole(team, count=3)
    await team.phase("gang-low", "Running", within_s=doomed.PATIENCE_S)


async def urgent(team: teams.Team) -> None:
    body = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": team.name}}
    await team.api.create(paths.of(body["apiVersion"], "priorityclasses"), body | {"value": 1000})
    gang = [one | {"spec": one["spec"] | {"priorityClassName": team.name}} for one in work.gang("high", 6)]

    async def created() -> bool:
        """Create the gang once the API server's admission knows the class."""
        try:
            await team.create(gang)
        except errors.ApiError as error:
            if error.status != 403:
                raise
            return False
        return True

    await team.until(created, doomed.PATIENCE_S)


async def high_alone(team: teams.Team) -> None:
    await doomed.whole(team, [f"high-{i}" for i in range(6)])
    left = {one["metadata"]["name"] for one in await team.pods()}
    assert left == {f"high-{i}" for i in range(6)}, "a part of the gang that had to go stays"


async def high_before_train(team: teams.Team) -> None:
    high = [f"high-{i}" for i in range(6)]
    await doomed.whole(team, high)
    await doomed.waits_whole(team, "train", 3)
    for name in high:
        await team.api.delete(team.path("v1", "pods", name), grace_s=0)
    await started(team)


# The node under a gang that has a whole rack is taken away, which evicts it with the settings as they come.

gone: dict[str, str] = {}


async def rack_runs(team: teams.Team) -> None:
    await team.create(work.gang("low", 4, notes=work.IN_ONE_RACK))
    await doomed.whole(team, count=4)
    await team.phase("gang-low", "Running", within_s=doomed.PATIENCE_S)


async def unplug(team: teams.Team) -> None:
    pods = await doomed.whole(team, count=4)
    gone[team.name] = pods["low-0"]["spec"]["nodeName"]
    await team.api.delete(paths.of("v1", "nodes", "", gone[team.name]))


async def all_going(team: teams.Team) -> None:
    async def going() -> bool:
        return not any(teams.alive(one) for one in await team.pods())

    try:
        await team.until(going, doomed.PATIENCE_S)
    finally:
        await team.api.delete(
            team.path("v1", "pods"), grace_s=0
        )  # as the garbage collector of pods does after a minute
        await create.create(team.api, sites.FLEET, team.site.home.kubernetes.minor)
    await team.until(team.nothing, doomed.PATIENCE_S)


# A gang that never fits is told so; a gang ends whose owner stays, so that no garbage collector takes its record away.


async def never(team: teams.Team) -> None:
    await team.create(work.gang("huge", 13))


async def rejected(team: teams.Team) -> None:
    await team.phase("gang-huge", "Rejected", within_s=doomed.PATIENCE_S)
    assert await team.devices() == {}


async def end(team: teams.Team) -> None:
    await team.api.patch(team.path(work.JOBSET, "jobsets", "train"), {"spec": {"suspend": True}})


async def ended(team: teams.Team) -> None:
    await team.until(team.nothing, doomed.PATIENCE_S)


# A start that was cut off is undone, since a pod is gone meanwhile; it is killed while it is undone.


async def cut_off(team: teams.Team) -> None:
    await team.create(work.gang("low", 3))


async def undone(team: teams.Team) -> None:
    async def none() -> bool:
        return not await team.devices()

    await team.until(none, doomed.PATIENCE_S)  # half a gang holds nothing
    await team.create(work.gang("low", 3)[1:2])
    await doomed.whole(team, count=3)


# Kueue asks.


async def queued(team: teams.Team) -> None:
    quota: dict[str, str | int] = {"cpu": 64, "memory": "64Gi", "muster.dev/gpu": 64}
    queue = [kueue.flavor(team.name), kueue.cluster_queue_of(team.name, quota, "muster-placement")]
    await manifests.apply(team.api, [*queue, kueue.local_queue(team.name, "main", team.name)])


async def start_queued(team: teams.Team) -> None:
    roles = {"leader": work.job_spec(1), "workers": work.job_spec(2)}
    await team.apply(work.jobset("train", roles, queue="main"))


async def check(team: teams.Team) -> None:
    await manifests.apply(team.api, [kueue.admission_check(team.name, kueue_check.CONTROLLER)])


async def check_active(team: teams.Team) -> None:
    path = paths.of(kueue.VERSION, "admissionchecks", "", team.name)

    async def active() -> bool:
        told = (await team.api.get(path)).get("status", {}).get("conditions", [])
        return [one["status"] for one in told] == ["True"]

    await team.until(active, doomed.PATIENCE_S)
    await team.api.delete(path)


# A pod that was gated in vain: its claim is for devices of somebody else.


async def stray(team: teams.Team) -> None:
    text = "device.driver == 'other.example.com'"
    own = live.device_class(team.name) | {"spec": {"selectors": [{"cel": {"expression": text}}]}}
    await team.api.create(paths.of(paths.RESOURCE, "deviceclasses"), own)
    await team.apply(live.template("other", 1, team.name))
    await team.create([work.pod("stray", "other", schedulingGates=[{"name": names.GATE}])])


async def stray_free(team: teams.Team) -> None:
    async def free() -> bool:
        [pod] = await team.pods()
        return not pod["spec"].get("schedulingGates")

    await team.until(free, doomed.PATIENCE_S)
    await team.api.delete(paths.of(paths.RESOURCE, "deviceclasses", "", team.name))


STARTS = (
    "claim-allocated:2",
    "record-written",
    "status-written",
    "claim-protected",
    "claim-protected:3",
    "claim-allocated",
    "claim-allocated:3",
    "pod-released",
    "pod-released:2",
    "pod-released:3",
    "status-written:2",
)
EVICTIONS = ("pod-deleted", "pod-marked", "pod-marked:2", "pod-marked:3", "pod-deleted:2", "pod-deleted:3")
UNDOING = ("record-cleared", "recovery-stamped", "claim-taken-back", "status-written")
SCENES = {
    "start": Scene(STARTS, start, started),
    "expiry": Scene(("pod-released",), start, started, slow=True),
    "refill": Scene(
        ("claim-allocated", "record-written", "status-written", "claim-protected", "pod-released"),
        lose,
        refilled,
        runs,
    ),
    "lone": Scene(("claim-protected", "claim-allocated", "pod-released"), alone, alone_runs),
    "evict": Scene(EVICTIONS, urgent, high_alone, plain_runs, FORCE),
    "evict-jobset": Scene(EVICTIONS, urgent, high_before_train, runs, FORCE),
    "unplug": Scene(EVICTIONS, unplug, all_going, rack_runs),
    "reject": Scene(("state-recorded", "status-written"), never, rejected),
    "end": Scene(("record-deleted",), end, ended, runs),
    "undo": Scene(UNDOING, nothing, undone, cut_off, first="claim-allocated:2"),
    "kueue": Scene(("check-answered",), start_queued, started, queued),
    "check": Scene(("check-activated",), check, check_active),
    "stray": Scene(("gate-dropped",), stray, stray_free),
}
ALWAYS = ("start", "refill", "lone", "evict", "undo", "kueue")
"""The scenes of which one kill is tried in every run."""

ELSEWHERE = ("claim-unprotected",)
"""Reached in tests/kube/test_recovery.py; here kube-controller-manager may be quicker to take the finalizer off."""

KILLS = [(name, point) for name, scene in SCENES.items() for point in scene.kills]
TRIED = KILLS if EVERY else [(name, SCENES[name].kills[0]) for name in ALWAYS]


def test_no_kind_of_write_is_left_out() -> None:
    told = {point.partition(":")[0] for _, point in KILLS}
    assert told | set(ELSEWHERE) == set(faultpoint.POINTS)


@pytest.fixture
async def clean(team: teams.Team) -> AsyncIterator[teams.Team]:
    """A team after whose test its priority class, which is of no namespace, is gone."""
    yield team
    await team.api.delete(
        paths.of("scheduling.k8s.io/v1", "priorityclasses"), fieldSelector=f"metadata.name={team.name}"
    )


@pytest.mark.parametrize(("name", "point"), TRIED, ids=[f"{name}-{point}" for name, point in TRIED])
async def test_a_gang_is_whole_or_absent_after_a_kill(clean: teams.Team, name: str, point: str) -> None:
    team, scene = clean, SCENES[name]
    if name == "kueue" and not team.site.tainted:
        pytest.skip(
            "pods that Kueue admits while Muster is down are kept for it by device taints, which 1.34 does not have"
        )
    with doomed.replaced(team.site, scene.options):
        await killed(team, scene, point)


async def killed(team: teams.Team, scene: Scene, point: str) -> None:
    async with doomed.witnessed(team, {"train": 3}, silent=scene.act is check):
        if scene.first:
            await dies_first(team, scene)
        else:
            await scene.before(team)
        doom = doomed.Doom(team, point, scene.options)
        doom.start(ready=not scene.first)
        await scene.act(team)
        await doom.died(lease_expires=scene.slow)
        doomed.run(team.site, scene.options)
        await scene.after(team)
        await doomed.nothing_left(team)


async def dies_first(team: teams.Team, scene: Scene) -> None:
    """Have a start cut off by one death, and a pod of the gang taken away."""
    doom = doomed.Doom(team, scene.first, scene.options)
    doom.start()
    await scene.before(team)
    await doom.died()
    await team.api.delete(team.path("v1", "pods", "low-1"), grace_s=0)
