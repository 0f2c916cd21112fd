"""The testbed for pytest: clusters that tests share, a namespace for each test, and the story of a failure.

``tests/conftest.py`` takes these fixtures and hooks over. A cluster is started by the first test that asks for it and lives
as long as the session; a run with several workers has one of each for each worker, on ports of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler.apiserver import client
from tests.testbed import cgroups, doctor, kwok, process, versions
from tests.testbed import cluster as clusters
from tests.testbed.fleet import create, presets

REQUIRED = bool(os.environ.get("MUSTER_TESTBED_REQUIRED"))  # .ci/run sets it: a part that is missing is a failure there
CLUSTERS = ("assumed", "noded", "fleet_500_session", "real_session", "cluster_session")  # fixtures that start one
AUDITED = "system:serviceaccount:muster-system:muster-dra-driver"  # whose requests the server of real nodes writes down
LOG_LINES, LOG_WIDTH = 12, 400


def require(real_nodes: bool) -> None:
    """Skip where this machine lacks a part, with the remedy as reason; where the testbed is required, fail."""
    if lacking := doctor.lacking(real_nodes):
        reason = "; ".join(f"{one.what}: {one.remedy}" for one in lacking)
        (pytest.fail if REQUIRED else pytest.skip)(f"no testbed here: {reason}")


@pytest.fixture(scope="session")
def kubernetes_version() -> str:
    """The version of the session's clusters; ``MUSTER_KUBERNETES=1.34`` runs the same tests on the floor."""
    return versions.kubernetes(os.environ.get("MUSTER_KUBERNETES", "")).version


@pytest.fixture(scope="session")
def cluster_session(kubernetes_version: str) -> Iterator[clusters.Cluster]:
    yield from _started(clusters.Options(version=kubernetes_version))


@pytest.fixture(scope="session")
def real_session(kubernetes_version: str) -> Iterator[clusters.Cluster]:
    yield from _started(clusters.Options(version=kubernetes_version, real_nodes=2, audited=AUDITED))


@pytest.fixture
def cluster(cluster_session: clusters.Cluster) -> clusters.Cluster:
    """A control plane without nodes, shared by the session."""
    return _alive(cluster_session)


@pytest.fixture
def real_nodes(real_session: clusters.Cluster) -> clusters.Cluster:
    """A control plane with two real nodes, ``real-0`` and ``real-1``, shared by the session."""
    return _alive(real_session)


@pytest.fixture(scope="session")
def fleet_500_session(kubernetes_version: str) -> Iterator[clusters.Cluster]:
    for home in _started(clusters.Options(version=kubernetes_version)):
        kwok.start(home)
        asyncio.run(_fleet(home, presets.fleet_500))
        yield home


@pytest.fixture
def fleet_500(fleet_500_session: clusters.Cluster) -> clusters.Cluster:
    """A control plane with 500 simulated nodes and their ResourceSlices, shared by the session."""
    return _alive(fleet_500_session)


async def _fleet(home: clusters.Cluster, fleet: presets.Fleet) -> None:
    async with await client.Client.connect(home.kubeconfig) as api:
        await create.create(api, fleet, home.kubernetes.minor)


@dataclass(frozen=True, slots=True)
class Space:
    """A namespace of one test in one cluster."""

    name: str
    cluster: clusters.Cluster

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        return self.cluster.kubectl("-n", self.name, *args, stdin=stdin, check=check)


@pytest.fixture
def space(request: pytest.FixtureRequest) -> Iterator[Space]:
    """A namespace in the cluster that the test uses, with its default service account made; removed afterwards."""
    name = next((one for one in ("real_nodes", "fleet_500", "cluster") if one in request.fixturenames), "cluster")
    home: clusters.Cluster = request.getfixturevalue(name)
    made = Space(f"t-{uuid.uuid4().hex[:8]}", home)
    home.kubectl("create", "namespace", made.name)
    for _ in process.until(20):  # a pod made before its service account is refused
        if "default" in made.kubectl("get", "serviceaccounts", "-o", "name", check=False):
            break
    else:
        pytest.fail(f"namespace {made.name} has no default service account after 20 s")
    yield made
    home.kubectl("delete", "namespace", made.name, "--wait=false")


def _started(options: clusters.Options) -> Iterator[clusters.Cluster]:
    require(bool(options.real_nodes))
    with clusters.Cluster(options).start() as started:
        yield started
    assert not left_behind(started), f"the testbed left {left_behind(started)}"


def _alive(home: clusters.Cluster) -> clusters.Cluster:
    for part in home.parts.dead():
        pytest.fail(f"{part.name} ended with code {part.popen.returncode} before this test:\n{part.tail()}")
    return home


def left_behind(home: clusters.Cluster) -> list[str]:
    """Return what a closed cluster did not take away: processes, mounts, cgroups, its folder."""
    mark = str(home.folder)
    found = [f"process {pid}: {line[:200]}" for pid, line in command_lines() if mark in line]
    found += [f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines() if mark in line]
    for top in cgroups.hierarchies() if home.nodes else []:
        found += [f"cgroup {top / one.cgroup}" for one in home.nodes.values() if (top / one.cgroup).exists()]
    return found + ([f"folder {mark}"] if home.own_folder and home.folder.exists() else [])


def command_lines() -> Iterator[tuple[int, str]]:
    """Yield the command line of each process but of sweepers, which end within moments of us."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if "tests.testbed.sweep" not in line:
                yield int(entry.name), line


@pytest.hookimpl(tryfirst=True)  # before the groups are read by the distribution of tests over workers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a cluster, so that `make test-fast` leaves it out, and keep the tests of one cluster on one worker."""
    for item in items:
        used = [name for name in CLUSTERS if name in getattr(item, "fixturenames", ())]
        if used:
            item.add_marker(pytest.mark.testbed)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.xdist_group("-".join([used[0], *_parameters(item, used[0])])))


def _parameters(item: pytest.Item, fixture: str) -> list[str]:
    call = getattr(item, "callspec", None)
    return [str(call.params[fixture])] if call and fixture in call.params else []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the end of each part's log and the last Events to a test that failed in a cluster."""
    report = yield
    if report.failed:
        for one in getattr(item, "funcargs", {}).values():
            if isinstance(one, clusters.Cluster):
                report.sections += story(one)
    return report


def story(home: clusters.Cluster) -> list[tuple[str, str]]:
    """Return titles and texts: the last Events, then the end of each part's log."""
    told = [("last Events", last_events(home))]
    told += [(f"log of {name}", _end(part.log)) for name, part in home.parts.parts.items()]
    for name, one in home.nodes.items():
        told += [(f"log of {path.stem} on {name}", _end(path)) for path in sorted(one.logs.glob("*.log"))]
    return told


def _end(log: Path) -> str:
    return "\n".join(line[:LOG_WIDTH] for line in process.tail(log, LOG_LINES).splitlines())


def last_events(home: clusters.Cluster, count: int = 25) -> str:
    try:
        text = home.kubectl("get", "events", "-A", "-o", "json", "--sort-by=.metadata.creationTimestamp")
    except (process.Failed, OSError) as error:
        return f"cannot be read: {error}"
    lines = []
    for item in json.loads(text)["items"][-count:]:
        where = item["involvedObject"]
        lines.append(
            f"{item['metadata']['creationTimestamp']} {where['kind']}/{where.get('name')}: "
            f"{item.get('reason')}: {item.get('message')}"
        )
    return "\n".join(lines)
